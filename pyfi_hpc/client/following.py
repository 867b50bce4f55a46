"""What follows from calls along plugs, as far as it is on record: each committed value goes along its stored routes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pyfi_hpc.db import record
from pyfi_hpc.db.record import Cursor, Decided
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.ids import child_id, item_id

#: Items of a call that yields are looked for so many at a time.
_ITEMS = 256


def children(cursor: Cursor, owner: str, ids: Iterable[bytes]) -> list[bytes]:
    """The calls that the values of these were sent on to, or will be, and those of the items that they yielded."""
    parents = list(ids)
    found = _decided(cursor, owner, parents)
    yielding = _decided(cursor, owner, [item_id(identity, 0) for identity in parents])
    for identity in parents:
        if item_id(identity, 0) in yielding:
            found |= _items(cursor, owner, identity)
    return list(_sent(found))


def _sent(found: dict[bytes, Decided]) -> Iterator[bytes]:
    for identity, decided in found.items():
        for route in messages.decode_routes(decided.routes):
            yield child_id(identity, route.edge)


def _items(cursor: Cursor, owner: str, identity: bytes) -> dict[bytes, Decided]:
    """Those that are on record: they are committed in their order."""
    found: dict[bytes, Decided] = {}
    while True:
        start = len(found)
        part = _decided(cursor, owner, [item_id(identity, number) for number in range(start, start + _ITEMS)])
        found |= part
        if len(part) < _ITEMS:
            return found


def _decided(cursor: Cursor, owner: str, ids: Iterable[bytes]) -> dict[bytes, Decided]:
    found = record.outcomes(cursor, [(owner, identity) for identity in ids])
    return {identity: decided for (_, identity), decided in found.items()}
