"""What becomes of a segment, written in one transaction (RELIABILITY 1.14).

The head goes in first. Only where this transaction decided it, what followed from it along pipes goes in, level by
level; a call that another attempt has decided, or that failed, ends its branch. What no pipe carried, and what follows
from another attempt's value, is left to the broker. As in `verdicts`, what is to be done after the transaction comes
back as records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from pyfi_hpc.agent.commit import verdicts
from pyfi_hpc.agent.commit.verdicts import Account, Verdict, single
from pyfi_hpc.agent.lots import Finished, Lot, Served, child_call, lot_of
from pyfi_hpc.agent.pipes.segments import Hop, Pending, Segment
from pyfi_hpc.db import record
from pyfi_hpc.db.record import Cursor, Key, NewHold, NewValue, Way
from pyfi_hpc.failpoints import reach
from pyfi_hpc.model.status import HoldState
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.ids import call_digest
from pyfi_hpc.wire.messages import Route
from pyfi_hpc.wire.values import arguments_of


@dataclass(slots=True)
class _Call:
    """One call of a segment that is being written: the head, or one that came by a pipe."""

    done: Finished
    verdict: Verdict | None = None
    #: decided by this transaction, with a value: what follows from it counts
    ours: bool = False
    #: what the segment itself has followed: edge -> plug, and whether it led to another node
    followed: dict[bytes, tuple[bytes, bool]] = field(default_factory=dict)

    def follow(self, way: Hop | Pending) -> None:
        """The child along that way is seen to: it is in, or somebody has it."""
        self.followed[way.route.edge] = way.route.plug, way.far

    @property
    def value(self) -> bytes:
        value = self.done.item.value
        assert value is not None
        return value


@dataclass(slots=True)
class _Chain:
    segment: Segment
    #: the head and its hops; None where a hop was left out
    calls: list[_Call | None]
    #: calls that a worker still has, under these leases
    leased: list[tuple[Lot, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Committed:
    """What is left to do once the transaction is in, and the leases that were taken: lot of one call -> epoch."""

    verdicts: list[Verdict]
    leases: list[tuple[Lot, int]]
    #: how often each plug's pipe carried a result, and how often to another node
    carried: dict[bytes, int]
    far: dict[bytes, int] = field(default_factory=dict)

    def take_leases(self) -> None:
        """The transaction is in: these lots are under their leases."""
        for lot, epoch in self.leases:
            lot.leased[0] = epoch


def commit(cursor: Cursor, segments: Sequence[Segment], agent: bytes, lease_seconds: float) -> Committed:
    """Write these segments; say what follows from them."""
    chains = [_Chain(segment, [_Call(segment.head)]) for segment in segments]
    _decide(cursor, [chain.calls[0] for chain in chains if chain.calls[0] is not None], agent)
    reach("chain_after_heads")
    for level in _levels(chains):
        _decide(cursor, level, agent)
    _lease(cursor, chains, agent, lease_seconds)
    record.note_dropped(cursor, [key for chain in chains for key in _left_out(chain)])
    found = [verdict for chain in chains for verdict in _verdicts(chain)]
    # of those, `verdicts.commit` thought that something was to be forwarded first
    done = [each for each in found if each.drop_hold and not each.routes]
    record.drop_holds(cursor, [each.lot.key(each.index) for each in done])
    ways = [way for chain in chains for call in chain.calls if call is not None for way in call.followed.values()]
    return Committed(found, [lease for chain in chains for lease in chain.leased], *_counted(ways))


def is_plain(segment: Segment) -> bool:
    """Each call of it succeeded without a word, and nobody has anything of it in hand any more: most are."""
    if segment.pending or not verdicts.is_plain(segment.head):
        return False
    return all(not (hop.item.out or hop.item.err) and hop.item.value is not None for hop in segment.hops)


def plain_values(segment: Segment) -> Iterator[NewValue]:
    """The outcomes of a plain segment: to be written all or none, with others or without."""
    yield verdicts.new_value(segment.head)
    for hop in segment.hops:
        assert hop.item.value is not None
        digest = call_digest(hop.route.socket, arguments_of(_parent_value(segment, hop)))
        routes = messages.encode(hop.socket.routes) if hop.socket.routes else None
        way = Way(hop.socket.owner, hop.socket.id, hop.worker, routes)
        yield NewValue(hop.id, way, hop.item.value, digest, hop.item.started, hop.item.ended)


def _parent_value(segment: Segment, hop: Hop) -> bytes:
    value = (segment.hops[hop.parent - 1] if hop.parent else segment.head).item.value
    assert value is not None
    return value


def plainly_committed(segments: Sequence[Segment]) -> Committed:
    """As `commit`, once `plain_values` of these segments are in."""
    found: list[Verdict] = []
    ways: list[tuple[bytes, bool]] = []
    for segment in segments:
        found += _plain_verdicts(segment)
        ways += [(hop.route.plug, hop.far) for hop in segment.hops]
    return Committed(found, [], *_counted(ways))


def _plain_verdicts(segment: Segment) -> list[Verdict]:
    """The head's, and those of calls whose value goes on: nobody waits for the others."""
    followed: dict[int, list[bytes]] = {}
    for hop in segment.hops:
        followed.setdefault(hop.parent, []).append(hop.route.edge)
    flowing: list[tuple[Lot, Hop, tuple[Route, ...]]] = []
    for number, hop in enumerate(segment.hops, start=1):
        if hop.socket.routes and (left := _left(hop.socket.routes, followed.get(number, ()))):
            call = child_call(hop.id, _parent_value(segment, hop), hop.route)
            flowing.append((lot_of(hop.socket, (call,)), hop, left))
    done = segment.head
    account = Account(done.lot, done.index, 1 + len(flowing)) if flowing else None
    head = verdicts.decided_now(done, _left(done.lot.socket.routes, followed.get(0, ())), account)
    return [head, *(Verdict(lot, 0, hop.item.value, routes, account=account) for lot, hop, routes in flowing)]


def _left(routes: tuple[Route, ...], followed: Sequence[bytes]) -> tuple[Route, ...]:
    """Each edge is followed once, and is one of the routes."""
    if len(followed) == len(routes):
        return ()
    return tuple(route for route in routes if route.edge not in followed)


def _decide(cursor: Cursor, calls: Sequence[_Call], agent: bytes) -> None:
    """Write one level: what is ours goes on."""
    decided, won = verdicts.commit_and_tell(cursor, [call.done for call in calls], agent)
    worked = [call for call in calls if call.done.item.error is None]
    lost = {_key(call): (call.done.worker, call.done.item.started) for call in worked if _key(call) not in won}
    ours = won | record.own(cursor, lost) if lost else won
    for call, verdict in zip(calls, decided, strict=True):
        call.verdict = verdict
        call.ours = call.done.item.error is None and _key(call) in ours


def _key(call: _Call) -> Key:
    return call.done.lot.key(call.done.index)


def _levels(chains: Sequence[_Chain]) -> Iterator[list[_Call]]:
    """The calls that follow from those of the level before, as far as these are ours. Each level is written by the
    caller before the next one is asked for."""
    at = [1] * len(chains)
    while any(at[n] <= len(chain.segment.hops) for n, chain in enumerate(chains)):
        level = []
        for number, chain in enumerate(chains):
            known = len(chain.calls)
            while at[number] <= len(chain.segment.hops) and chain.segment.hops[at[number] - 1].parent < known:
                level.append((chain, chain.segment.hops[at[number] - 1]))
                at[number] += 1
        yield _of_level(level)


def _of_level(level: Iterable[tuple[_Chain, Hop]]) -> list[_Call]:
    """These hops as calls, those of one socket as if one message had brought them."""
    found: list[_Call] = []
    groups: dict[bytes, list[tuple[_Chain, int, Hop, _Call]]] = {}
    for chain, hop in level:
        parent = chain.calls[hop.parent]
        chain.calls.append(None)
        if parent is not None and parent.ours:
            groups.setdefault(hop.socket.id, []).append((chain, len(chain.calls) - 1, hop, parent))
    for group in groups.values():
        lot = _lot([(hop, parent) for _, _, hop, parent in group])
        for index, (chain, place, hop, parent) in enumerate(group):
            parent.follow(hop)
            call = _Call(Finished(lot, index, hop.item, hop.worker, hop.cause))
            chain.calls[place] = call
            found.append(call)
    return found


def _lot(members: Sequence[tuple[Hop, _Call]]) -> Lot:
    socket: Served = members[0][0].socket
    return lot_of(socket, [child_call(hop.id, parent.value, hop.route) for hop, parent in members])


def _lease(cursor: Cursor, chains: Iterable[_Chain], agent: bytes, seconds: float) -> None:
    """Lease rows for what a worker still has; what cannot be leased is the broker's."""
    wanted = [(chain, each) for chain in chains for each in chain.segment.pending if _parent_is_ours(chain, each)]
    epochs = record.lease(cursor, [_lease_row(each.lot, agent, seconds) for _, each in wanted])
    for chain, each in wanted:
        parent = chain.calls[each.parent]
        if (epoch := epochs.get(each.lot.key(0))) is not None and parent is not None:
            parent.follow(each)
            chain.leased.append((each.lot, epoch))


def _parent_is_ours(chain: _Chain, each: Pending) -> bool:
    parent = chain.calls[each.parent]
    return parent is not None and parent.ours


def _lease_row(lot: Lot, agent: bytes, seconds: float) -> NewHold:
    message = single(lot, 0, lot.call(0).serial)
    return NewHold(message, lot.socket.exchange, lot.socket.key, HoldState.LEASED, seconds, holder=agent)


def _left_out(chain: _Chain) -> Iterator[Key]:
    """Calls that ran for nothing: what they followed from is not what was committed."""
    for call, hop in zip(chain.calls[1:], chain.segment.hops, strict=True):
        if call is None:
            yield hop.socket.owner, hop.id


def _verdicts(chain: _Chain) -> Iterator[Verdict]:
    calls = [call for call in chain.calls if call is not None]
    head = chain.segment.head
    account = Account(head.lot, head.index, len(calls))
    for call in calls:
        assert call.verdict is not None
        # a value that is not ours goes along the routes that were stored with it
        left = tuple(route for route in call.verdict.routes if not (call.ours and route.edge in call.followed))
        yield msgspec.structs.replace(call.verdict, routes=left, account=account)


def _counted(ways: Iterable[tuple[bytes, bool]]) -> tuple[dict[bytes, int], dict[bytes, int]]:
    """How often each plug comes, and how often it led to another node."""
    counts: dict[bytes, int] = {}
    far: dict[bytes, int] = {}
    for plug, led_away in ways:
        counts[plug] = counts.get(plug, 0) + 1
        if led_away:
            far[plug] = far.get(plug, 0) + 1
    return counts, far
