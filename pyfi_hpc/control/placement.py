"""Which workers should exist where: records in, actions out, no I/O.

Some nodes have agents that were started by hand: there a processor gets the workers that it asks for, or a fair share
of the cores, each worker pinned to cores of its own and with GPUs of its own. Where a node allows it (a laptop), every
processor gets at least one worker even when the cores are all taken, and shares one.

Other agents run in jobs and have slots. Those are for the processor that the job was sent for: each has one of its
workers while anybody wants it, and is lent to others while nobody does.

Workers of an older commit or restart serve until one of the new version is ready; those of a processor that was moved
stay until others are ready. The first of a new version may share the cores of one that it is to replace. Where it may
not (its place is a job's slot, or it needs a GPU), one of the old ones ends first, and no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice

from pyfi_hpc.control import statuses
from pyfi_hpc.control.records import (
    LIVE,
    Action,
    Drain,
    ExistingWorker,
    ServingNode,
    Start,
    WantedProcessor,
)
from pyfi_hpc.control.rooms import Place, Rooms
from pyfi_hpc.model.status import Requested, WorkerStatus

#: At most so many workers are started in one pass.
MAX_STARTS = 64


def plan(
    processors: Sequence[WantedProcessor], nodes: Sequence[ServingNode], workers: Sequence[ExistingWorker]
) -> list[Action]:
    """The actions that bring what is nearer to what is wanted; none when nothing is left to do."""
    placing = _Placing(processors, nodes, workers)
    placing.drain_unwanted()
    placing.start_missing()
    # a processor that is given a worker starts in the same pass: its worker may have failed before the next one
    return [*placing.actions, *statuses.changes(processors, [*workers, *placing.planned])]


class _Placing:
    """One pass: the rooms as they are, changed by each action as it is decided."""

    def __init__(
        self, processors: Sequence[WantedProcessor], nodes: Sequence[ServingNode], workers: Sequence[ExistingWorker]
    ) -> None:
        self.processors = {processor.id: processor for processor in processors}
        self.workers = workers
        self.rooms = Rooms(processors, nodes, workers)
        self.shares = _Shares(processors, self.rooms)
        self.actions: list[Action] = []
        self.planned: list[ExistingWorker] = []
        #: workers that stay: in slots of the processor's own jobs, and elsewhere
        self.own: dict[bytes, list[ExistingWorker]] = {identity: [] for identity in self.processors}
        self.elsewhere: dict[bytes, list[ExistingWorker]] = {identity: [] for identity in self.processors}
        #: workers on a host that the processor has been moved away from: they stay until others are ready
        self.behind: dict[bytes, list[ExistingWorker]] = {identity: [] for identity in self.processors}
        #: workers of an older version, which serve while none of the new one is ready
        self.older: dict[bytes, list[ExistingWorker]] = {identity: [] for identity in self.processors}

    def drain_unwanted(self) -> None:
        slots: set[tuple[bytes, int]] = set()
        for worker in self.workers:
            if worker.status in LIVE:
                self._keep_or_drain(worker, slots)
        for identity, processor in self.processors.items():
            ready = sum(worker.status is WorkerStatus.READY for worker in self.own[identity])
            # what a pilot's workers stand in for goes once they are ready, not before
            most = self._elsewhere_wanted(processor, ready)
            self._drain(self.elsewhere[identity][most:])
            del self.elsewhere[identity][most:]
            arrived = sum(worker.status is WorkerStatus.READY for worker in self.elsewhere[identity])
            self._drain(self.behind[identity][max(0, most - arrived) :])
            self._relieve(processor, most)

    def _relieve(self, processor: WantedProcessor, most: int) -> None:
        """Workers of an older version go once one of the new version is ready, and where they are too many."""
        books = (self.own, self.elsewhere, self.behind)
        older = self.older[processor.id]
        kept: list[ExistingWorker] = []
        if not any(worker.status is WorkerStatus.READY for book in books for worker in book[processor.id]):
            own = [worker for worker in older if self._for(worker) == processor.id]
            kept = own + [worker for worker in older if worker not in own][:most]
        self._drain([worker for worker in older if worker not in kept])
        self.older[processor.id] = kept

    def _for(self, worker: ExistingWorker) -> bytes | None:
        node = self.rooms.node(worker.agent)
        return node.for_processor if node else None

    def _keep_or_drain(self, worker: ExistingWorker, slots: set[tuple[bytes, int]]) -> None:
        processor, node = self.processors.get(worker.processor), self.rooms.node(worker.agent)
        if not (processor and processor.wanted and node):
            self._drain([worker])
        elif processor.version != worker.version:
            serves = worker.status is WorkerStatus.READY and self._belongs(processor, node, worker.slot)
            self.older[processor.id].append(worker) if serves else self._drain([worker])
        elif node.ending:
            # its agent lets it finish and makes it end: it is counted no more, so that another takes its place
            pass
        elif not self._belongs(processor, node, worker.slot) or (worker.agent, worker.slot) in slots:
            self._drain([worker])
        else:
            self._books_of(processor, node)[processor.id].append(worker)
            if worker.slot is not None:
                slots.add((worker.agent, worker.slot))

    def _books_of(self, processor: WantedProcessor, node: ServingNode) -> dict[bytes, list[ExistingWorker]]:
        if node.for_processor == processor.id:
            return self.own
        at_home = not node.open or processor.host in (None, node.host, node.name)
        return self.elsewhere if at_home else self.behind

    def _belongs(self, processor: WantedProcessor, node: ServingNode, slot: int | None) -> bool:
        if node.draining or node.open is not (slot is None):
            return False
        if slot is None:
            return True
        return slot < len(node.slots) and (node.for_processor == processor.id or self.rooms.lent(node))

    def _drain(self, workers: Sequence[ExistingWorker]) -> None:
        self.actions += [Drain(worker.id) for worker in workers]

    def start_missing(self) -> None:
        """One worker each first, then the rest, so that nobody waits while another has several."""
        startable = [
            (processor, self._places(processor))
            for processor in self.processors.values()
            if processor.requested is Requested.RUNNING and processor.may_start
        ]
        for one_each in (True, False):
            for processor, places in startable:
                while not (one_each and self._has_any(processor)) and len(self.planned) < MAX_STARTS:
                    place = next(places, None)
                    if place is None:
                        break
                    self._start(processor, place)
        for processor, _ in startable:
            if len(self.planned) < MAX_STARTS:
                self._make_room(processor)

    def _make_room(self, processor: WantedProcessor) -> None:
        """Nothing of the new version fits beside the old one: let one worker of that end, an idle one if there is."""
        ending = any(w.processor == processor.id and w.status is WorkerStatus.DRAINING for w in self.workers)
        if ending or self._has_any(processor):
            return
        older = [worker for worker in self.older[processor.id] if self.rooms.freed_by(worker, processor)]
        if older:
            self._drain([min(reversed(older), key=lambda worker: worker.busy)])

    def _has_any(self, processor: WantedProcessor) -> bool:
        return bool(self.own[processor.id] or self.elsewhere[processor.id])

    def _places(self, processor: WantedProcessor) -> Iterator[Place]:
        """Where its missing workers may be, one after another; of a new version just one is tried at first."""
        if not self.older[processor.id]:
            yield from self._everywhere(processor)
        elif not self._has_any(processor):
            beside = self.rooms.beside(self.older[processor.id], processor)
            yield from islice(chain(self._everywhere(processor), beside), 1)

    def _everywhere(self, processor: WantedProcessor) -> Iterator[Place]:
        yield from self.rooms.own(processor)
        wanted = self._elsewhere_wanted(processor, self.rooms.own_slots(processor))
        yield from islice(self._places_elsewhere(processor), max(0, wanted - len(self.elsewhere[processor.id])))

    def _places_elsewhere(self, processor: WantedProcessor) -> Iterator[Place]:
        yield from self.rooms.roomy(processor)
        if processor.workers is not None or not processor.shape:
            yield from self.rooms.borrowed(processor)
        if not self._has_any(processor):
            yield from self.rooms.crowded(processor)

    def _elsewhere_wanted(self, processor: WantedProcessor, own: int) -> int:
        """How many workers it should have beside `own` ones in slots of its jobs."""
        if not processor.wanted:
            return 0
        if processor.workers is None:
            return self.shares.of(processor)
        return max(0, processor.workers - own)

    def _start(self, processor: WantedProcessor, place: Place) -> None:
        node = place.node
        self.rooms.take(place)
        self.actions.append(Start(processor.id, node.agent, node.id, place.cores, place.slot, place.devices))
        planned = ExistingWorker(
            b"", processor.id, node.agent, place.cores, WorkerStatus.PLANNED, processor.version, place.slot,
            place.devices,
        )  # fmt: skip
        self._books_of(processor, node)[processor.id].append(planned)
        self.planned.append(planned)


class _Shares:
    """Fair shares of the nodes without slots: every processor that is wanted has the same right to them."""

    def __init__(self, processors: Sequence[WantedProcessor], rooms: Rooms) -> None:
        wanted = [processor for processor in processors if processor.wanted]
        self._sharers = max(1, len(wanted))
        self._gpu_sharers = max(1, sum(processor.gpus > 0 for processor in wanted))
        self._rooms = rooms
        self._all = self._count(None)

    def _count(self, processor: WantedProcessor | None) -> tuple[int, int]:
        nodes = [room.node for room in (self._rooms.open_to(processor) if processor else self._rooms.open)]
        return sum(len(node.cores) for node in nodes), sum(len(node.devices) for node in nodes)

    def of(self, processor: WantedProcessor) -> int:
        """How many workers it may have, one at least: whether they fit is another matter."""
        cores, devices = self._all if processor.host is None else self._count(processor)
        share = cores // self._sharers // processor.cpus
        if processor.gpus:
            share = min(share, devices // self._gpu_sharers // processor.gpus)
        return max(1, share)
