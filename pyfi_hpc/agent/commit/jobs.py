"""What the committer can be asked to do, as records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from pyfi_hpc.agent.lots import Finished, Lot
from pyfi_hpc.agent.pipes.segments import Forgone, Late, Segment
from pyfi_hpc.brokers.base import Delivery, Reason
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.wire.messages import Message


class Look(msgspec.Struct, frozen=True):
    """Find out which members of a careful lot may run."""

    lot: Lot


class Announce(msgspec.Struct, frozen=True):
    """Put the start of these members on record before they run."""

    lot: Lot
    worker: int
    worker_id: bytes
    indexes: tuple[int, ...]


class Adopt(msgspec.Struct, frozen=True):
    """The broker delivered a lot in hand again (a lost channel, or a client that sent it twice): settle both by it."""

    lot: Lot
    delivery: Delivery


class SetAside(msgspec.Struct, frozen=True):
    """A delivery that cannot be run: to the dead letters, then acked."""

    delivery: Delivery
    reason: Reason
    detail: str


class GiveBack(msgspec.Struct, frozen=True):
    """Members that were not started: published again at no cost, then settled (1.10)."""

    lot: Lot
    indexes: tuple[int, ...]


class Split(msgspec.Struct, frozen=True):
    """Members of a delivery that came back too often: each as a message of its own, serial + 1 (1.10)."""

    lot: Lot
    indexes: tuple[int, ...]


class Lease(msgspec.Struct, frozen=True):
    """A delivery grows old: `running` members become leased hold rows, `waiting` ones due ones, then it is acked."""

    lot: Lot
    running: tuple[int, ...]
    waiting: tuple[int, ...]


class Park(msgspec.Struct, frozen=True):
    """Members that their queue did not take back: due hold rows, then settled (1.22)."""

    lot: Lot
    message: Message
    indexes: tuple[int, ...]


class DeadLetter(msgspec.Struct, frozen=True):
    """A message from the dead letters, to be given its verdict."""

    delivery: Delivery


class Then(msgspec.Struct, frozen=True):
    """Something for this thread to do outside of a transaction (a broker's word, usually)."""

    do: Callable[[], None]


class Within(msgspec.Struct, frozen=True):
    """Work for a transaction, and what to do with its result afterwards."""

    work: Callable[[Cursor], Any]
    then: Callable[[Any], None]


class Chains(msgspec.Struct, frozen=True):
    """Segments that are written together."""

    segments: tuple[Segment, ...]


Job: TypeAlias = (
    Finished
    | Segment
    | Late
    | Forgone
    | Look
    | Announce
    | Adopt
    | SetAside
    | GiveBack
    | Split
    | Lease
    | Park
    | DeadLetter
    | Then
    | Within
    | Chains
)
