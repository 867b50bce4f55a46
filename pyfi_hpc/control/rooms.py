"""What is free on which node: the books that placement keeps during one pass."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pyfi_hpc.control.records import ExistingWorker, ServingNode, Slot, WantedProcessor


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker can be: these cores and devices of a node, and the slot that they are, where it has slots."""

    node: ServingNode
    cores: tuple[int, ...]
    devices: tuple[str, ...] = ()
    slot: int | None = None


#: A device without a UUID has a number, which means something to its agent only (`gpu.visible`).
_NUMBERED = "index:"


@dataclass(slots=True)
class Gpus:
    """Every device, known by its UUID wherever it is seen: two agents of one node may both see it."""

    given: set[tuple[bytes, str]] = field(default_factory=set)
    #: those of jobs' slots: nobody else's, also while no worker has them
    granted: set[tuple[bytes, str]] = field(default_factory=set)


def known(agent: bytes, devices: Iterable[str]) -> set[tuple[bytes, str]]:
    """What tells these devices of an agent from all others."""
    return {(agent if device.startswith(_NUMBERED) else b"", device) for device in devices}


class Room:
    """What one agent can still give out."""

    def __init__(self, node: ServingNode, gpus: Gpus) -> None:
        self.node, self._gpus = node, gpus
        self._load = Counter(dict.fromkeys(node.cores, 0))
        self.free_cores = len(node.cores)
        self._taken_slots: set[int] = set()

    def take(self, cores: Iterable[int], devices: Iterable[str], slot: int | None) -> None:
        """A worker is there."""
        for core in cores:
            self.free_cores -= self._load.get(core) == 0
            self._load[core] += 1
        self._gpus.given |= known(self.node.agent, devices)
        if slot is not None:
            self._taken_slots.add(slot)

    def free_devices(self) -> list[str]:
        """What an agent without slots can give out."""
        given, granted = self._gpus.given, self._gpus.granted
        return [device for device in self.node.devices if (b"", device) not in given and (b"", device) not in granted]

    def free_slots(self) -> Iterator[Place]:
        """Its free slots, each as it is when it is asked for."""
        for number, slot in enumerate(self.node.slots):
            if number not in self._taken_slots and self._gpus.given.isdisjoint(known(self.node.agent, slot.devices)):
                yield Place(self.node, slot.cores, slot.devices, number)

    def rank(self, processor: WantedProcessor) -> tuple[int, int]:
        """The lower, the better a node for a worker of that processor: most of what it needs is free."""
        return (-len(self.free_devices()) if processor.gpus else 0, -self.free_cores)

    def fits(self, processor: WantedProcessor, *, sharing: bool = False) -> bool:
        """Whether another worker of it can be here; `sharing`: on cores that others have too."""
        cores = len(self.node.cores) if sharing and self.node.shared_cores else self.free_cores
        return cores >= processor.cpus and (not processor.gpus or len(self.free_devices()) >= processor.gpus)

    def place(self, processor: WantedProcessor) -> Place:
        """The least loaded cores, and free devices."""
        cores = sorted(self.node.cores, key=lambda core: (self._load[core], core))[: processor.cpus]
        return Place(self.node, tuple(sorted(cores)), tuple(self.free_devices()[: processor.gpus]))


class Rooms:
    """The rooms of every node, and where a processor's next worker may be."""

    def __init__(
        self, processors: Sequence[WantedProcessor], nodes: Sequence[ServingNode], workers: Sequence[ExistingWorker]
    ) -> None:
        gpus = Gpus()
        for node in nodes:
            for slot in node.slots:
                gpus.granted |= known(node.agent, slot.devices)
        self._all = {node.agent: Room(node, gpus) for node in nodes}
        for worker in workers:
            if worker.agent in self._all:
                self._all[worker.agent].take(worker.cores, worker.devices, worker.slot)
            else:
                gpus.given |= known(worker.agent, worker.devices)
        self._wanted = {processor.id for processor in processors if processor.wanted}
        accepting = [room for room in self._all.values() if room.node.accepts]
        self.open = [room for room in accepting if room.node.open]
        self._own: dict[bytes | None, list[Room]] = defaultdict(list)
        for room in accepting:
            if not room.node.open:
                self._own[room.node.for_processor].append(room)
        self._at: dict[str, list[Room]] = defaultdict(list)
        for room in self.open:
            for name in {room.node.host, room.node.name}:
                self._at[name].append(room)

    def node(self, agent: bytes) -> ServingNode | None:
        """The node that this agent serves; None when it does not any more."""
        room = self._all.get(agent)
        return room.node if room else None

    def take(self, place: Place) -> None:
        """A worker is planned there."""
        self._all[place.node.agent].take(place.cores, place.devices, place.slot)

    def open_to(self, processor: WantedProcessor) -> list[Room]:
        """The nodes without slots that it may use."""
        return self.open if processor.host is None else self._at.get(processor.host, [])

    def lent(self, node: ServingNode) -> bool:
        """Whether a node's slots are for anybody: nobody wants the processor that they were got for."""
        return node.for_processor not in self._wanted

    def own_slots(self, processor: WantedProcessor) -> int:
        """How many slots jobs of its own have here."""
        return sum(len(room.node.slots) for room in self._own.get(processor.id, ()))

    def freed_by(self, worker: ExistingWorker, processor: WantedProcessor) -> bool:
        """Whether the end of `worker` helps to make room for one of `processor`."""
        node = self._all[worker.agent].node
        if not node.accepts or node.for_processor == processor.id:
            return node.accepts
        slot = Slot(node.cores, node.devices) if worker.slot is None else node.slots[worker.slot]
        fits = len(slot.cores) >= processor.cpus and len(slot.devices) >= processor.gpus
        return fits and processor.host in (None, node.host, node.name)

    # where the next worker may be: each is asked again and again while others take rooms too

    def own(self, processor: WantedProcessor) -> Iterator[Place]:
        """Free slots of its own jobs."""
        for room in self._own.get(processor.id, ()):
            yield from room.free_slots()

    def roomy(self, processor: WantedProcessor) -> Iterator[Place]:
        """Free cores and devices, each time on the node that has most of them."""
        heap = [(room.rank(processor), order, room) for order, room in enumerate(self.open_to(processor))]
        heapq.heapify(heap)
        while heap:
            rank, order, room = heap[0]
            if not room.fits(processor):
                # what is taken stays taken for this pass
                heapq.heappop(heap)
            elif room.rank(processor) != rank:
                heapq.heapreplace(heap, (room.rank(processor), order, room))
            else:
                yield room.place(processor)

    def beside(self, older: Sequence[ExistingWorker], processor: WantedProcessor) -> Iterator[Place]:
        """Where one can be that is to replace any of these `older` workers, on the cores of that one; nobody shares a
        GPU. A job's slot is shared only where else nobody would serve: its memory is meant for one."""
        for worker in older:
            node = self._all[worker.agent].node
            if worker.devices or not self.freed_by(worker, processor):
                continue
            if worker.slot is None and not processor.gpus and len(worker.cores) >= processor.cpus:
                yield Place(node, worker.cores[: processor.cpus])
            elif worker.slot is not None and len(older) == 1 and not node.slots[worker.slot].devices:
                yield Place(node, node.slots[worker.slot].cores, slot=worker.slot)

    def borrowed(self, processor: WantedProcessor) -> Iterator[Place]:
        """Free slots that are large enough, of jobs whose own processor nobody wants: the cores whole."""
        for owner, rooms in self._own.items():
            if owner not in self._wanted:
                yield from (
                    Place(place.node, place.cores, place.devices[: processor.gpus], place.slot)
                    for room in rooms
                    if processor.host in (None, room.node.host, room.node.name)
                    for place in room.free_slots()
                    if len(place.cores) >= processor.cpus and len(place.devices) >= processor.gpus
                )

    def crowded(self, processor: WantedProcessor) -> Iterator[Place]:
        """Cores that others have too, where a node allows it."""
        rooms = [room for room in self.open_to(processor) if room.node.shared_cores]
        for room in sorted(rooms, key=lambda room: room.rank(processor)):
            if room.fits(processor, sharing=True):
                yield room.place(processor)
