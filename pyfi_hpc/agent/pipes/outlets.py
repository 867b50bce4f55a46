"""Which pipes there may be: from what is plugged, who is ready here, and what has been learned. No I/O.

A result goes by a pipe where everybody is served by it: the target runs on this node for the same owner, its calls are
known to be short, nobody has asked for the broker, and no order is promised (RELIABILITY 1.13, 1.14). Where nobody on
this node runs the target, it may go to another node of the same job.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pyfi_hpc.agent.keeper import Program
from pyfi_hpc.agent.lots import Served
from pyfi_hpc.model.status import Requested
from pyfi_hpc.wire.frames import Outlet, Peer
from pyfi_hpc.wire.messages import Route

#: A longer call gains nothing by a pipe, and the caller of its head would wait for it.
SHORT_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Pipe:
    """Results of the socket `source` may go straight to one of the workers `peers`, by their numbers.

    `far` are those of other nodes.
    """

    edge: bytes
    source: bytes
    target: bytes
    task: str
    peers: tuple[int, ...]
    far: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Offers:
    """What the choice of pipes depends on.

    `peers`: processor -> its workers that take calls, `far`: those of other nodes; `seconds`: learned run time of a
    processor's task, None if there is none; `by_broker`: plugs that are to use no pipe; `resting`: edges whose pipes
    were too slow a moment ago; `yielding`: sockets whose calls yield, of which only a message of their own keeps count.
    """

    sockets: Mapping[bytes, Served]
    programs: Mapping[bytes, Program]
    peers: Mapping[bytes, tuple[int, ...]]
    seconds: Callable[[bytes, str], float | None]
    by_broker: Container[bytes] = frozenset()
    resting: Container[bytes] = frozenset()
    yielding: Container[bytes] = frozenset()
    far: Mapping[bytes, tuple[int, ...]] = field(default_factory=dict)

    def pipes(self) -> dict[bytes, tuple[Pipe, ...]]:
        """Processor -> the pipes of its workers; processors without any are left out."""
        found: dict[bytes, list[Pipe]] = {}
        for source in self._sources():
            for route in source.routes:
                if (target := self._target(source, route)) is not None:
                    near, far = (where.get(target.processor, ()) for where in (self.peers, self.far))
                    pipe = Pipe(route.edge, source.id, target.id, target.task, near, far)
                    found.setdefault(source.processor, []).append(pipe)
        return {processor: tuple(pipes) for processor, pipes in found.items()}

    def _sources(self) -> Iterator[Served]:
        for socket in self.sockets.values():
            if socket.routes and self.peers.get(socket.processor) and not socket.ordered:
                yield socket

    def _target(self, source: Served, route: Route) -> Served | None:
        target = self.sockets.get(route.socket)
        if target is None or target.owner != source.owner or target.ordered:
            return None
        program = self.programs.get(target.processor)
        if program is None or program.requested is not Requested.RUNNING:
            return None
        if not (self.peers.get(target.processor) or self.far.get(target.processor)):
            return None
        if route.plug in self.by_broker or route.edge in self.resting or target.id in self.yielding:
            return None
        seconds = self.seconds(target.processor, target.task)
        return target if seconds is not None and seconds < SHORT_SECONDS else None


def outlets(pipes: Iterable[Pipe], number: int, peer_of: Callable[[int], Peer]) -> tuple[Outlet, ...]:
    """What worker `number` is told of these pipes: to others of this node, else of other nodes, else to itself."""
    own = (Outlet(each.edge, each.source, each.target, each.task, _peers(each, number, peer_of)) for each in pipes)
    return tuple(each for each in own if each.peers)


def _peers(pipe: Pipe, number: int, peer_of: Callable[[int], Peer]) -> tuple[Peer, ...]:
    others = tuple(peer for peer in pipe.peers if peer != number) or pipe.far
    return tuple(map(peer_of, others)) or tuple(Peer(each, "") for each in pipe.peers)
