"""What follows from an outcome that is adopted, as far as nobody has it in hands yet (RELIABILITY 1.5, 1.7, 1.14).

A message that comes back may have been decided, and what follows from its calls as well: along pipes, in the same
transaction, or by the broker before the ack. To send such children once more is safe, and makes each of them run for
nothing. So they are looked up: one that is decided needs no sending, but what follows from *it* may; one that has a
hold row is somebody's. Whatever is in doubt goes by the broker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from pyfi_hpc.agent.commit.verdicts import Account, Verdict
from pyfi_hpc.agent.lots import Lot, Undelivered, child_call
from pyfi_hpc.db import record
from pyfi_hpc.db.record import Cursor, Follower, Key
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.ids import child_id, new_id
from pyfi_hpc.wire.messages import WIRE_VERSION, Call, Message, Route

#: So many calls are looked up for one message at most, a ring of plugs among them; the rest goes by the broker.
MOST_CALLS = 1000


@dataclass(slots=True)
class _Decided:
    """A decided call; `left` are its routes to children that nobody has."""

    key: Key
    value: bytes
    routes: tuple[Route, ...]
    #: which of the adopted ones it follows from
    head: int
    #: None for an adopted one itself
    call: Call | None = None
    route: Route | None = None
    left: list[Route] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Child:
    parent: _Decided
    route: Route
    call: Call

    @property
    def key(self) -> Key:
        return self.parent.key[0], self.call.id


def left_to_forward(cursor: Cursor, adopted: Sequence[Verdict]) -> list[Verdict]:
    """These, and decided calls that follow from them, each with the routes that are still to be taken.

    A member is settled when all that followed from it is: see `verdicts.Account`.
    """
    level = [
        _Decided(verdict.lot.key(verdict.index), verdict.value, verdict.routes, head)
        for head, verdict in enumerate(adopted)
        if verdict.value is not None and verdict.routes
    ]
    known: list[_Decided] = []
    room = MOST_CALLS
    while level:
        known += level
        children = [child for parent in level for child in _children(parent)]
        for child in children[room:]:
            child.parent.left.append(child.route)
        level = list(_followed(cursor, children[:room]))
        room -= len(children[:room])
    return _verdicts(adopted, known)


def _children(parent: _Decided) -> Iterator[_Child]:
    for route in parent.routes:
        yield _Child(parent, route, child_call(child_id(parent.key[1], route.edge), parent.value, route))


def _followed(cursor: Cursor, children: Sequence[_Child]) -> Iterator[_Decided]:
    """Those of these that are decided, and lead on; what nobody has is noted with its parent."""
    found = record.followers(cursor, [child.key for child in children])
    for child in children:
        there = found.get(child.key)
        if there is None or there.digest not in (None, child.call.digest):
            child.parent.left.append(child.route)
        elif decided := _leading_on(child, there):
            yield decided


def _leading_on(child: _Child, there: Follower) -> _Decided | None:
    if there.value is None:
        return None
    routes = messages.decode_routes(there.routes)
    return _Decided(child.key, there.value, routes, child.parent.head, child.call, child.route) if routes else None


def _verdicts(adopted: Sequence[Verdict], known: Sequence[_Decided]) -> list[Verdict]:
    left = {each.head: tuple(each.left) for each in known if each.call is None}
    flowing = [each for each in known if each.call is not None and each.left]
    counts = [1] * len(adopted)
    for each in flowing:
        counts[each.head] += 1
    accounts = [
        Account(verdict.lot, verdict.index, count) if count > 1 else None
        for verdict, count in zip(adopted, counts, strict=True)
    ]
    heads = [
        msgspec.structs.replace(verdict, routes=left.get(number, verdict.routes), account=accounts[number])
        for number, verdict in enumerate(adopted)
    ]
    return heads + [
        Verdict(_lot(each, adopted[each.head].lot), 0, each.value, tuple(each.left), account=accounts[each.head])
        for each in flowing
    ]


def _lot(decided: _Decided, head: Lot) -> Lot:
    """A call as if a message had brought it, to send on what follows from it. It has the head's socket, which nobody
    asks for: its own may be one that this agent does not know."""
    assert decided.call is not None and decided.route is not None
    route = decided.route
    message = Message(WIRE_VERSION, new_id(), decided.key[0], route.socket, route.generation, (decided.call,))
    return Lot(0, Undelivered(), message, head.socket, head.processor, careful=False)
