"""Calls on their way to the broker: lanes where they gather, parcels in which they travel."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

import msgspec

from pyfi_hpc.brokers.base import Confirm
from pyfi_hpc.client.directory import Way
from pyfi_hpc.client.futures import Future
from pyfi_hpc.client.tickets import Ticket
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.wire.messages import Call

#: A message holds at most so many calls, bytes of arguments, and seconds of work. By itself it costs the parts that it
#: passes through 750 µs together, as much as 40 KB of arrays do. These bytes fill two of RabbitMQ's frames.
MOST_CALLS, MOST_BYTES, MOST_SECONDS = 256, 250 * 1024, 0.005
#: Calls of unknown run time are sent in smaller parts, so that several workers get some.
UNKNOWN_CALLS = 8
#: A message that is not full waits while so many of its socket are unconfirmed: more will gather meanwhile.
EAGER_PARCELS = 2


class Item(msgspec.Struct, frozen=True, gc=False):
    """A call that is not accepted yet; `deadline` is `time.monotonic()` when its caller is told so."""

    future: Future
    call: Call
    ticket: Ticket
    deadline: float


@dataclass(slots=True, eq=False)
class Parcel:
    """A message and the calls in it that are still waited for."""

    lane: Lane
    items: list[Item]
    batch: bytes
    confirm: Confirm | None = None
    #: time.monotonic() when it was made
    since: float = field(default_factory=time.monotonic)
    tries: int = 0
    #: time.monotonic() when it is to be sent again
    due: float = 0.0
    mended: bool = False
    error: PyfiError | None = None

    @property
    def deadline(self) -> float:
        """When its first call runs out of time; never where nobody waits any more."""
        return min((item.deadline for item in self.items), default=float("inf"))

    def expired(self, now: float) -> list[Item]:
        """Take out the calls whose time is over."""
        late = [item for item in self.items if item.deadline <= now]
        if late:
            self.items = [item for item in self.items if item.deadline > now]
        return late

    def put_off(self, error: PyfiError) -> None:
        """It is to be sent again, later each time."""
        self.error, self.confirm = error, None
        self.due = time.monotonic() + min(0.05 * 2**self.tries, 1.0)
        self.tries += 1


@dataclass(slots=True, eq=False)
class Lane:
    """The calls of one socket, in the order in which they came; at most `most` of them share a message."""

    way: Way
    most: int = MOST_CALLS
    waiting: deque[Item] = field(default_factory=deque)
    unconfirmed: int = 0
    #: how many calls make a full message, by what was known when the last one was made
    limit: int = field(init=False)

    def __post_init__(self) -> None:
        self.limit = self._learned()

    def _learned(self) -> int:
        pace = self.way.pace
        if pace is None:
            # those of a fifo socket run one after another: a message must not last long
            return 1 if self.way.socket.ordered else min(UNKNOWN_CALLS, self.most)
        return max(1, min(self.most, int(MOST_SECONDS / max(pace, 1e-9))))

    @property
    def ready(self) -> bool:
        """Whether a message should go now; of a fifo socket once the one before it is confirmed (1.13)."""
        if self.way.socket.ordered:
            return bool(self.waiting) and not self.unconfirmed
        return bool(self.waiting) and (self.unconfirmed < EAGER_PARCELS or len(self.waiting) >= self.limit)

    @property
    def deadline(self) -> float:
        """When the first of those that wait runs out of time; each caller has a patience of its own."""
        return min(item.deadline for item in self.waiting)

    def expired(self, now: float) -> list[Item]:
        """Take out the calls whose time is over."""
        late = [item for item in self.waiting if item.deadline <= now]
        if late:
            self.waiting = deque(item for item in self.waiting if item.deadline > now)
        return late

    def take(self) -> list[Item]:
        """The calls of the next message."""
        items: list[Item] = []
        size, limit = 0, self._learned()
        self.limit = limit
        while self.waiting and len(items) < limit:
            size += len(self.waiting[0].call.args)
            if items and size > MOST_BYTES:
                break
            items.append(self.waiting.popleft())
        return items
