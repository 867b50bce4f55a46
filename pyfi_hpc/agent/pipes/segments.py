"""Which calls follow from which along pipes: plain bookkeeping, no I/O, no clock, the agent's main thread alone.

A *segment* is a head, whose delivery is unacked, with every call that followed from it along pipes. Workers report
calls one by one and in any order, a child often before its parent. A segment is closed once, when each call of it is
finished, or when something is in doubt; then it goes to the committer. What is not in it then goes through the durable
queue, and an answer that still comes for that is dropped (RELIABILITY 1.14).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import msgspec

from pyfi_hpc.agent.lots import Finished, Lot, Served, child_call, lot_of
from pyfi_hpc.model.status import Cause
from pyfi_hpc.wire.frames import Item, Link
from pyfi_hpc.wire.ids import child_id
from pyfi_hpc.wire.messages import Route

#: How old a segment may grow. Its head's caller waits for it.
MOST_SECONDS = 1.0
MOST_CALLS = 256
MOST_BYTES = 8 * 2**20
#: How long a call that was leased may wait in a worker's hands before another one gets it.
PATIENCE_SECONDS = 3.0


class Hop(msgspec.Struct, frozen=True, gc=False):
    """A finished call that came by a pipe along `route` of call number `parent`: 0 is the head, n the n-th hop.

    `far`: from another node.
    """

    parent: int
    route: Route
    socket: Served
    id: bytes
    item: Item
    worker: bytes
    cause: Cause | None = None
    far: bool = False


class Pending(msgspec.Struct, frozen=True, gc=False):
    """A call that a worker still has when its segment is closed: to be leased. `lot` has it as its only member."""

    parent: int
    route: Route
    lot: Lot
    far: bool = False


class Segment(msgspec.Struct, frozen=True):
    """A closed segment. Parents come before their children; routes that nothing here follows are the broker's."""

    head: Finished
    hops: tuple[Hop, ...]
    pending: tuple[Pending, ...] = ()


class Late(msgspec.Struct, frozen=True):
    """A leased call is finished: it commits under its lease, or not at all."""

    done: Finished


class Forgone(msgspec.Struct, frozen=True):
    """The worker that has this leased call will not run it, or not soon: somebody else is to."""

    lot: Lot


News: TypeAlias = Segment | Late | Forgone


class Standing(Enum):
    """How a worker stands to a call that was piped to it."""

    RUNS = auto()
    WAITS = auto()
    #: the worker itself is stopped
    STALLED = auto()


class Peer(NamedTuple):
    """A worker that takes calls by pipes, by its processor and its row; `node` 0 is the agent's own."""

    processor: bytes
    worker: bytes
    node: int = 0


class _Early(msgspec.Struct, frozen=True, gc=False):
    """A report that came before its parent's."""

    number: int
    peer: Peer
    item: Item
    cause: Cause | None


class _Out(msgspec.Struct, frozen=True, gc=False):
    """A call that worker `number` has, on this node or that."""

    parent: int
    route: Route
    socket: Served
    number: int
    node: int


#: A head: token and index of its lot.
_HeadKey: TypeAlias = tuple[int, int]


class _Leased(NamedTuple):
    head: _HeadKey
    lot: Lot
    number: int
    since: float


_NONE: Mapping[bytes, _Early | None] = MappingProxyType({})


class _Open(msgspec.Struct):
    key: _HeadKey
    head: Finished
    since: float
    size: int
    #: where the head and each hop ran
    nodes: list[int]
    hops: list[Hop] = []  # each gets one of its own
    out: dict[bytes, _Out] = {}

    @property
    def full(self) -> bool:
        return len(self.hops) + len(self.out) > MOST_CALLS or self.size > MOST_BYTES

    def value_of(self, number: int) -> bytes:
        """The value of the head (0) or of a hop."""
        value = (self.hops[number - 1] if number else self.head).item.value
        assert value is not None
        return value


class Segments:
    """Every segment that is open, and every call that was leased out of one."""

    def __init__(self, in_hand: Callable[[int, int], bool], served: Callable[[bytes], Served | None]) -> None:
        """`in_hand`: may member (token, index) still come with calls that it passed on? `served`: a socket by id."""
        self._in_hand, self._served = in_hand, served
        self._peers: dict[int, Peer] = {}
        #: in the order in which they were opened
        self._open: dict[_HeadKey, _Open] = {}
        #: reports before their parents'; None: a worker said that this call was not taken
        self._early: dict[_HeadKey, dict[bytes, _Early | None]] = {}
        self._leased: dict[bytes, _Leased] = {}

    # workers

    def join(self, number: int, peer: Peer) -> None:
        """Worker `number` may be handed calls by pipes."""
        self._peers[number] = peer

    def died(self, number: int, now: float) -> list[News]:
        """Worker `number` is gone; of the call that it ran `link` has told before. What it had goes elsewhere."""
        self._peers.pop(number, None)
        news: list[News] = []
        for segment in list(self._open.values()):
            lost = [identity for identity, out in segment.out.items() if out.number == number]
            for identity in lost:
                del segment.out[identity]
            if lost and not segment.out:
                news.append(self._close(segment, now))
        for identity in [identity for identity, leased in self._leased.items() if leased.number == number]:
            news.append(Forgone(self._leased.pop(identity).lot))
        self.sweep()
        return news

    def has(self, number: int) -> bool:
        """Whether worker `number` has calls that came by pipes, as far as is known."""
        return any(out.number == number for segment in self._open.values() for out in segment.out.values()) or any(
            leased.number == number for leased in self._leased.values()
        )

    def socket_of(self, token: int, index: int, identity: bytes) -> Served | None:
        """The socket of a call of head (token, index) that a worker has by a pipe; None where that is not known."""
        leased = self._leased.get(identity)
        if leased is not None and leased.head == (token, index):
            return leased.lot.socket
        segment = self._open.get((token, index))
        out = segment.out.get(identity) if segment is not None else None
        return out.socket if out is not None else None

    def calls(self) -> Iterator[tuple[str, bytes]]:
        """Owner and id of every call that a worker has by a pipe."""
        for segment in self._open.values():
            yield from ((out.socket.owner, identity) for identity, out in segment.out.items())
        for identity, leased in self._leased.items():
            yield leased.lot.socket.owner, identity

    # reports

    def head(self, done: Finished, now: float) -> Segment | None:
        """A member of a message is finished, and was passed on. The segment, where it is complete already."""
        segment = _Open((done.lot.token, done.index), done, now, len(done.item.value or b""), [0])
        self._open[segment.key] = segment
        self._follow(segment, 0, done.lot.call(done.index).id, done.lot.socket, done.item)
        return self._closed_if_done(segment, now)

    def link(self, number: int, link: Link, now: float, cause: Cause | None = None) -> News | None:
        """Worker `number` reports a call that came by a pipe; what is complete with that."""
        peer, key = self._peers.get(number), (link.token, link.index)
        if peer is None:
            return None
        if (leased := self._leased.get(link.id)) is not None and leased.head == key:
            return self._late(leased, number, peer, link, cause)
        segment = self._open.get(key)
        out = segment.out.get(link.id) if segment is not None else None
        if segment is None or out is None:
            if segment is not None or self._in_hand(*key):
                self._remember(key, link.id, _Early(number, peer, link.item, cause))
            return None
        if out.number != number:
            return None
        del segment.out[link.id]
        self._take(segment, out.parent, out.route, out.socket, link.id, _Early(number, peer, link.item, cause))
        return self._closed_if_done(segment, now)

    def _late(self, leased: _Leased, number: int, peer: Peer, link: Link, cause: Cause | None) -> Late | None:
        if leased.number != number:
            return None
        del self._leased[link.id]
        # what it passed on goes through the broker: nobody keeps count of its children
        item = msgspec.structs.replace(link.item, index=0, passed=())
        return Late(Finished(leased.lot, 0, item, peer.worker, cause))

    def untaken(self, token: int, index: int, identity: bytes, now: float) -> News | None:
        """A call of head (token, index) went into a pipe that broke: it goes elsewhere unless it is answered."""
        key = token, index
        if (leased := self._leased.get(identity)) is not None and leased.head == key:
            return Forgone(self._leased.pop(identity).lot)
        segment = self._open.get(key)
        if segment is not None and segment.out.pop(identity, None) is not None:
            return self._closed_if_done(segment, now)
        if segment is not None or self._in_hand(*key):
            self._remember(key, identity, None)
        return None

    def _remember(self, key: _HeadKey, identity: bytes, report: _Early | None) -> None:
        early = self._early.setdefault(key, {})
        if len(early) < MOST_CALLS:
            early[identity] = report or early.get(identity)

    def _take(self, segment: _Open, parent: int, route: Route, socket: Served, identity: bytes, report: _Early) -> None:
        peer, far = report.peer, report.peer.node != segment.nodes[parent]
        segment.hops.append(Hop(parent, route, socket, identity, report.item, peer.worker, report.cause, far))
        segment.nodes.append(peer.node)
        segment.size += len(report.item.value or b"")
        self._follow(segment, len(segment.hops), identity, socket, report.item)

    def _follow(self, segment: _Open, number: int, identity: bytes, socket: Served, item: Item) -> None:
        """Look for what call `number` of the segment passed on: reported already, still out, or left to the broker."""
        if item.error is not None or not item.passed:
            return
        early = self._early.get(segment.key, _NONE)
        for route, target, to in self._passed(socket, item):
            child = child_id(identity, route.edge)
            report, peer = early.get(child), self._peers.get(to)
            untaken = child in early and report is None
            if report is not None and report.number == to and report.peer.processor == target.processor:
                self._take(segment, number, route, target, child, report)
            elif peer is not None and peer.processor == target.processor and not untaken:
                segment.out[child] = _Out(number, route, target, to, peer.node)

    def _passed(self, socket: Served, item: Item) -> Iterator[tuple[Route, Served, int]]:
        passed = item.passed if len(item.passed) < 2 else dict(item.passed).items()
        for edge, number in passed:
            for route in socket.routes:
                if route.edge == edge:
                    target = self._served(route.socket)
                    if target is not None and target.owner == socket.owner:
                        yield route, target, number
                    break

    # closing

    def overdue(self, now: float, standing: Callable[[int, bytes], Standing]) -> list[News]:
        """Close what has grown old, and give up what waits in vain; `standing` of a worker (number) to a call (id)."""
        news: list[News] = []
        for segment in list(self._open.values()):
            if now - segment.since < MOST_SECONDS:
                break
            self._cut(segment, lambda identity, out: standing(out.number, identity) is Standing.STALLED)
            news.append(self._close(segment, now))
        for identity, leased in list(self._leased.items()):
            if now - leased.since > PATIENCE_SECONDS and standing(leased.number, identity) is not Standing.RUNS:
                del self._leased[identity]
                news.append(Forgone(leased.lot))
        return news

    def hurry(self, tokens: Iterable[int], now: float) -> list[Segment]:
        """Close what has its head in one of these lots."""
        wanted = set(tokens)
        return [self._close(segment, now) for key, segment in list(self._open.items()) if key[0] in wanted]

    def sweep(self) -> None:
        """Forget reports whose head will not come any more."""
        for key in [key for key in self._early if key not in self._open and not self._in_hand(*key)]:
            del self._early[key]

    def _cut(self, segment: _Open, doubtful: Callable[[bytes, _Out], bool]) -> None:
        for identity in [identity for identity, out in segment.out.items() if doubtful(identity, out)]:
            del segment.out[identity]

    def _closed_if_done(self, segment: _Open, now: float) -> Segment | None:
        return self._close(segment, now) if not segment.out or segment.full else None

    def _close(self, segment: _Open, now: float) -> Segment:
        del self._open[segment.key]
        self._early.pop(segment.key, None)
        # a copy of the message may have the same calls leased already: one of them is enough
        out = [(identity, out) for identity, out in segment.out.items() if identity not in self._leased]
        pending = tuple(self._lease(segment, identity, each, now) for identity, each in out)
        return Segment(segment.head, tuple(segment.hops), pending)

    def _lease(self, segment: _Open, identity: bytes, out: _Out, now: float) -> Pending:
        call = child_call(identity, segment.value_of(out.parent), out.route)
        lot = lot_of(out.socket, (call,))
        self._leased[identity] = _Leased(segment.key, lot, out.number, now)
        return Pending(out.parent, out.route, lot, out.node != segment.nodes[out.parent])

    @property
    def empty(self) -> bool:
        """True when nothing is kept here of any call."""
        return not (self._open or self._early or self._leased)
