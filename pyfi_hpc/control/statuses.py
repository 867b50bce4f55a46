"""The status that a processor has, given what its workers do, and the legal way there."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence

from pyfi_hpc.control.records import LIVE, Become, ExistingWorker, WantedProcessor
from pyfi_hpc.model.status import PROCESSOR_NEXT, ProcessorStatus, Requested, WorkerStatus


def changes(processors: Sequence[WantedProcessor], workers: Iterable[ExistingWorker]) -> list[Become]:
    """Every step from the status that each has to the one that it should have."""
    live: dict[bytes, list[ExistingWorker]] = {}
    for worker in workers:
        live.setdefault(worker.processor, []).append(worker)
    steps_of: list[Become] = []
    for processor in processors:
        way = [processor.status, *steps(processor.status, observed(processor, live.get(processor.id, [])))]
        steps_of += [Become(processor.id, before, after) for before, after in itertools.pairwise(way)]
    return steps_of


def observed(processor: WantedProcessor, workers: Collection[ExistingWorker]) -> ProcessorStatus:
    """The status that a processor has, given what its workers do."""
    statuses = {worker.status for worker in workers}
    if not processor.wanted:
        if statuses:
            return ProcessorStatus.STOPPING
        return ProcessorStatus.REMOVED if processor.requested is Requested.REMOVED else ProcessorStatus.STOPPED
    if processor.status in (ProcessorStatus.FAILED, ProcessorStatus.STARTING):
        # workers of an older version may serve: that is no sign that this one can
        statuses = {worker.status for worker in workers if worker.version == processor.version}
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
