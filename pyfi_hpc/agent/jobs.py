"""What the committer can be asked to do, as records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from pyfi_hpc.agent.lots import Finished, Lot
from pyfi_hpc.agent.segments import Forgone, Late, Segment
from pyfi_hpc.brokers.base import Delivery, Reason
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.wire.messages import Message


@dataclass(frozen=True, slots=True)
class Look:
    """Find out which members of a careful lot may run."""

    lot: Lot


@dataclass(frozen=True, slots=True)
class Announce:
    """Put the start of these members on record before they run."""

    lot: Lot
    worker: int
    worker_id: bytes
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Adopt:
    """The broker delivered a lot in hand again (a lost channel, or a client that sent it twice): settle both by it."""

    lot: Lot
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class SetAside:
    """A delivery that cannot be run: to the dead letters, then acked."""

    delivery: Delivery
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Members that were not started: published again at no cost, then settled (1.10)."""

    lot: Lot
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """Members of a delivery that came back too often: each as a message of its own, serial + 1 (1.10)."""

    lot: Lot
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Lease:
    """A delivery grows old: `running` members become leased hold rows, `waiting` ones due ones, then it is acked."""

    lot: Lot
    running: tuple[int, ...]
    waiting: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Park:
    """Members that their queue did not take back: due hold rows, then settled (1.22)."""

    lot: Lot
    message: Message
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message from the dead letters, to be given its verdict."""

    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Then:
    """Something for this thread to do outside of a transaction (a broker's word, usually)."""

    do: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Within:
    """Work for a transaction, and what to do with its result afterwards."""

    work: Callable[[Cursor], Any]
    then: Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Chains:
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
