"""Which workers should exist where: records in, actions out, no I/O.

A processor wants a number of workers, or a fair share of the cores. Each worker is pinned to its own cores; where a
node allows it (a laptop), every processor gets at least one worker even when the cores are all taken, and shares one.
Workers of an older commit or restart are replaced.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pyfi_hpc.model.status import (
    PROCESSOR_NEXT,
    ProcessorStatus,
    Requested,
    WorkerStatus,
)

#: At most so many workers are started in one pass.
MAX_STARTS = 64
LIVE = frozenset({WorkerStatus.PLANNED, WorkerStatus.LAUNCHING, WorkerStatus.READY})


@dataclass(frozen=True, slots=True)
class WantedProcessor:
    """A processor as its row asks for it. `version` changes with commit, requirements and restarts."""

    id: bytes
    name: str
    requested: Requested
    status: ProcessorStatus
    workers: int | None
    cpus: int
    host: str | None
    version: str
    #: False while a failed start waits for its next try
    may_start: bool = True


@dataclass(frozen=True, slots=True)
class ServingNode:
    """A node with a live agent."""

    id: bytes
    agent: bytes
    name: str
    host: str
    cores: tuple[int, ...]
    shared_cores: bool
    draining: bool = False


@dataclass(frozen=True, slots=True)
class ExistingWorker:
    """A worker row that has not ended."""

    id: bytes
    processor: bytes
    agent: bytes
    cores: tuple[int, ...]
    status: WorkerStatus
    version: str


@dataclass(frozen=True, slots=True)
class Start:
    """Plan a worker of `processor` for `agent`'s node, pinned to `cores`."""

    processor: bytes
    agent: bytes
    node: bytes
    cores: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Drain:
    """Let this worker finish what it has, then end."""

    worker: bytes


@dataclass(frozen=True, slots=True)
class Become:
    """Take a processor one step along the table, from `before` to `status`."""

    processor: bytes
    before: ProcessorStatus
    status: ProcessorStatus


Action: TypeAlias = Start | Drain | Become


@dataclass(slots=True)
class _Load:
    """How often each core of each node is taken."""

    taken: dict[bytes, Counter[int]] = field(default_factory=dict)

    def add(self, agent: bytes, cores: Iterable[int]) -> None:
        self.taken.setdefault(agent, Counter()).update(cores)

    def remove(self, agent: bytes, cores: Iterable[int]) -> None:
        self.taken.setdefault(agent, Counter()).subtract(cores)

    def free(self, node: ServingNode) -> list[int]:
        return [core for core in node.cores if not self.taken.get(node.agent, Counter())[core]]

    def least(self, node: ServingNode, count: int) -> tuple[int, ...]:
        load = self.taken.get(node.agent, Counter())
        return tuple(sorted(sorted(node.cores, key=lambda core: (load[core], core))[:count]))


def plan(
    processors: Sequence[WantedProcessor], nodes: Sequence[ServingNode], workers: Sequence[ExistingWorker]
) -> list[Action]:
    """The actions that bring what is nearer to what is wanted; none when nothing is left to do."""
    placing = _Placing(processors, nodes, workers)
    placing.drain_unwanted()
    placing.start_missing()
    # a processor that is given a worker starts in the same pass: its worker may have failed before the next one
    return [*placing.actions, *_statuses(processors, [*workers, *placing.planned])]


class _Placing:
    """One pass: the load as it is, changed by each action as it is decided."""

    def __init__(
        self, processors: Sequence[WantedProcessor], nodes: Sequence[ServingNode], workers: Sequence[ExistingWorker]
    ) -> None:
        self.processors = {processor.id: processor for processor in processors}
        self.nodes = [node for node in nodes if not node.draining]
        self.workers = list(workers)
        self.actions: list[Action] = []
        self.planned: list[ExistingWorker] = []
        self.load = _Load()
        for worker in workers:
            self.load.add(worker.agent, worker.cores)
        self.kept: dict[bytes, list[ExistingWorker]] = {processor.id: [] for processor in processors}
        self.targets = _targets(processors, self.nodes)

    def drain_unwanted(self) -> None:
        agents = {node.agent for node in self.nodes}
        for worker in self.workers:
            if worker.status in LIVE:
                wanted = self.processors.get(worker.processor)
                if wanted and _runs(wanted) and worker.version == wanted.version and worker.agent in agents:
                    self.kept[worker.processor].append(worker)
                else:
                    self._drain(worker)
        for identity, kept in self.kept.items():
            for worker in kept[self.targets.get(identity, 0) :]:
                self._drain(worker)
            del kept[self.targets.get(identity, 0) :]

    def _drain(self, worker: ExistingWorker) -> None:
        self.actions.append(Drain(worker.id))

    def start_missing(self) -> None:
        """One worker each first, then the rest, so that nobody waits while another has several."""
        starts = 0
        for most in (1, None):
            for processor in self.processors.values():
                if processor.requested is not Requested.RUNNING or not processor.may_start:
                    continue
                target = self.targets.get(processor.id, 0)
                while len(self.kept[processor.id]) < (target if most is None else min(most, target)):
                    started = self._start(processor)
                    starts += started
                    if not started or starts >= MAX_STARTS:
                        break

    def _start(self, processor: WantedProcessor) -> bool:
        first = not self.kept[processor.id]
        for node in sorted(self.nodes, key=lambda node: -len(self.load.free(node))):
            if processor.host not in (None, node.host, node.name) or len(node.cores) < processor.cpus:
                continue
            if len(self.load.free(node)) >= processor.cpus or (first and node.shared_cores):
                cores = self.load.least(node, processor.cpus)
                self.load.add(node.agent, cores)
                self.actions.append(Start(processor.id, node.agent, node.id, cores))
                planned = ExistingWorker(b"", processor.id, node.agent, cores, WorkerStatus.PLANNED, processor.version)
                self.kept[processor.id].append(planned)
                self.planned.append(planned)
                return True
        return False


def _runs(processor: WantedProcessor) -> bool:
    return processor.requested in (Requested.RUNNING, Requested.PAUSED)


def _targets(processors: Sequence[WantedProcessor], nodes: Sequence[ServingNode]) -> dict[bytes, int]:
    """How many workers each processor should have: what it asks for, or a fair share of the cores it may use."""
    running = [processor for processor in processors if _runs(processor)]
    targets = {}
    for processor in running:
        usable = [node for node in nodes if processor.host in (None, node.host, node.name)]
        cores = sum(len(node.cores) for node in usable)
        share = max(1, cores // max(1, len(running)) // processor.cpus)
        targets[processor.id] = processor.workers or share
    return targets


def _statuses(processors: Sequence[WantedProcessor], workers: Sequence[ExistingWorker]) -> list[Action]:
    live: dict[bytes, list[WorkerStatus]] = {}
    for worker in workers:
        live.setdefault(worker.processor, []).append(worker.status)
    actions: list[Action] = []
    for processor in processors:
        way = [processor.status, *steps(processor.status, observed(processor, live.get(processor.id, [])))]
        actions += [Become(processor.id, before, after) for before, after in itertools.pairwise(way)]
    return actions


def observed(processor: WantedProcessor, workers: Iterable[WorkerStatus]) -> ProcessorStatus:
    """The status that a processor has, given what its workers do."""
    statuses = set(workers)
    if not _runs(processor):
        if statuses:
            return ProcessorStatus.STOPPING
        return ProcessorStatus.REMOVED if processor.requested is Requested.REMOVED else ProcessorStatus.STOPPED
    if processor.status is ProcessorStatus.FAILED and not (processor.may_start and statuses & LIVE):
        return ProcessorStatus.FAILED
    if WorkerStatus.READY in statuses:
        return ProcessorStatus.PAUSED if processor.requested is Requested.PAUSED else ProcessorStatus.RUNNING
    if processor.status in (ProcessorStatus.RUNNING, ProcessorStatus.PAUSED):
        # a worker is being replaced: the processor has been started and stays so
        return ProcessorStatus.PAUSED if processor.requested is Requested.PAUSED else ProcessorStatus.RUNNING
    return ProcessorStatus.STARTING if statuses & LIVE else processor.status


def steps(
    current: ProcessorStatus,
    goal: ProcessorStatus,
    table: Mapping[ProcessorStatus, frozenset[ProcessorStatus]] = PROCESSOR_NEXT,
) -> list[ProcessorStatus]:
    """The shortest legal way from `current` to `goal`, without `current`; empty when there is none or nothing to do."""
    if current is goal:
        return []
    paths: deque[list[ProcessorStatus]] = deque([[current]])
    seen = {current}
    while paths:
        path = paths.popleft()
        # FAILED is a finding, never a way through
        for following in sorted(table[path[-1]] - seen - ({ProcessorStatus.FAILED} - {goal})):
            if following is goal:
                return [*path[1:], following]
            seen.add(following)
            paths.append([*path, following])
    return []
