"""What the agent's threads pass to one another about the deliveries in hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from pyfi_hpc.brokers.base import Delivery
from pyfi_hpc.db.record import Key
from pyfi_hpc.model.names import is_fifo
from pyfi_hpc.model.priority import Priority
from pyfi_hpc.model.status import Cause
from pyfi_hpc.wire.frames import Item
from pyfi_hpc.wire.ids import call_digest, new_id
from pyfi_hpc.wire.messages import WIRE_VERSION, Call, Message, Route
from pyfi_hpc.wire.values import arguments_of


@dataclass(frozen=True, slots=True)
class Served:
    """A socket as an agent serves it: where its calls come from, what runs them, and the budget they have."""

    id: bytes
    name: str
    owner: str
    processor: bytes
    task: str
    queue: str
    exchange: str
    key: str
    generation: int
    timeout_seconds: float | None
    max_attempts: int
    retry_delay_seconds: float
    routes: tuple[Route, ...] = ()
    priority: Priority = Priority.NORMAL
    #: the same socket where calls of its other priorities come from
    others: tuple[Served, ...] = ()

    @property
    def ordered(self) -> bool:
        """Whether its calls run one at a time, in the order in which they were accepted."""
        return is_fifo(self.key)

    def at(self, queue: str) -> Served:
        """The socket as it is served from that queue: what is tried again goes back there."""
        return next((each for each in self.others if each.queue == queue), self) if self.others else self


@dataclass(slots=True)
class Lot:
    """A delivery in hand. `open` (members not yet settled) and `delivery` belong to the committer thread."""

    token: int
    delivery: Delivery
    message: Message
    socket: Served
    processor: bytes
    #: it may have been in somebody else's hands: look before running, announce each start
    careful: bool
    open: set[int] = field(default_factory=set)
    #: members whose delivery was acked early, under a leased hold row: index -> epoch
    leased: dict[int, int] = field(default_factory=dict)
    #: deliveries of the same message before this one: of a channel that was lost, or a copy that a client sent twice
    earlier: list[Delivery] = field(default_factory=list)
    #: of a fifo socket: told of each member that is settled (None), or to be tried again in so many seconds
    told: Callable[[int, float | None], None] | None = None
    #: the body that was delivered names other attempts than `message`
    renumbered: bool = False
    #: for items of a call that yields: called when another attempt yields them by now
    overtaken: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        self.open = set(range(len(self.message.calls)))

    def key(self, index: int) -> Key:
        """The outcome's key of a member."""
        return self.message.owner, self.message.calls[index].id

    def call(self, index: int) -> Call:
        """A member."""
        return self.message.calls[index]

    def timeout_of(self, index: int) -> float | None:
        """How many seconds a member may run; None: as long as it takes. On a fifo socket its limit holds too."""
        own, usual = self.call(index).timeout, self.socket.timeout_seconds
        if own is None or (self.socket.ordered and usual is not None and usual < own):
            return usual
        return own

    def settle(self, index: int) -> None:
        """The member needs its delivery no more; the last one to say so acks it."""
        if index in self.open:
            self.open.discard(index)
            if not self.open:
                for delivery in (*self.earlier, self.delivery):
                    delivery.ack()
            if self.told is not None:
                self.told(index, None)

    def again(self, index: int, serial: int, seconds: float) -> None:
        """The member is to be tried again as attempt `serial`, while the delivery stays unacked."""
        self.renumber(index, serial)
        if self.told is not None:
            self.told(index, seconds)

    def renumber(self, index: int, serial: int) -> None:
        """The member's next attempt is `serial`; on the committer's thread, while no worker has the member."""
        calls = list(self.message.calls)
        calls[index] = msgspec.structs.replace(calls[index], serial=serial)
        self.message, self.renumbered = msgspec.structs.replace(self.message, calls=tuple(calls)), True

    def adopt(self, delivery: Delivery) -> None:
        """The same message came once more: it is settled with the members that are in hand."""
        self.earlier.append(self.delivery)
        self.delivery = delivery
        if not self.open:
            delivery.ack()


class Undelivered:
    """Stands in for the delivery of a lot that no broker delivered; `acked` is called when all of it is settled."""

    def __init__(self, acked: Callable[[], None] = lambda: None) -> None:
        self.ack, self.queue, self.body = acked, "", b""
        self.content_type: str | None = None
        self.content_encoding: str | None = None
        self.headers: Mapping[str, object] = {}
        self.redelivered, self.delivery_count, self.received = True, 0, 0.0

    def held(self) -> bool:
        """Nobody takes it back."""
        return True


def child_call(identity: bytes, value: bytes, route: Route) -> Call:
    """The call that follows from a parent's `value` along `route`, whichever way it travels."""
    args = arguments_of(value)
    return Call(identity, args, call_digest(route.socket, args))


def lot_of(socket: Served, calls: Sequence[Call]) -> Lot:
    """Calls of `socket` that no broker delivered, as if one message had brought them."""
    message = Message(WIRE_VERSION, new_id(), socket.owner, socket.id, socket.generation, tuple(calls))
    return Lot(0, Undelivered(), message, socket, socket.processor, careful=False)


class Stream(msgspec.Struct, frozen=True):
    """The items of one call, as one `attempt` yields them; `id` is the call's."""

    owner: str
    id: bytes
    attempt: bytes


class Finished(msgspec.Struct, frozen=True):
    """A member's attempt is over: the worker's item, or the cause of its loss (then `item.error` says more).

    `stream` is set for an item of a call that yields, and for the end of such a call; `opens` for its first.
    """

    lot: Lot
    index: int
    item: Item
    worker: bytes | None
    cause: Cause | None = None
    stream: Stream | None = None
    opens: bool = False

    @property
    def is_end(self) -> bool:
        """True for a call that yielded, False for one of its items."""
        return self.stream is not None and self.lot.call(self.index).id == self.stream.id


@dataclass(frozen=True, slots=True)
class Looked:
    """What a careful lot's look-up found: members to run, those that are settled already are not among them."""

    lot: Lot
    runnable: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Announced:
    """The start of these members is in the database: they may run on `worker` now."""

    lot: Lot
    worker: int
    indexes: tuple[int, ...]
