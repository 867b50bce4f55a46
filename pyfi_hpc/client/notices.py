"""What is said while calls wait, to be accepted or for a silent database: what for, and what to do about it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from pyfi_hpc.brokers.base import Broker
from pyfi_hpc.client.parcels import Parcel
from pyfi_hpc.errors import DatabaseUnavailable, PyfiError

#: A broker that does not answer for so long does not answer.
ANSWER_SECONDS = 1.0
#: Calls that wait for longer are told of; and again, while they go on waiting.
FIRST_SECONDS, AGAIN_SECONDS = 3.0, 30.0

NEVER = float("inf")


class Stuck(NamedTuple):
    """The message that waits for the longest to be accepted."""

    parcel: Parcel
    #: how many calls wait together with it
    calls: int
    #: `time.monotonic()` when the first of them is given up
    until: float


class Notices:
    """Decides when a line is due; belongs to the sender, and is asked under its lock."""

    def __init__(self) -> None:
        #: when to look the next time
        self.at = NEVER
        self._told_at = -NEVER

    def expect(self, now: float) -> bool:
        """Calls are on their way; True where whoever looks has to hear of that."""
        if self.at != NEVER:
            return False
        self.at = now + FIRST_SECONDS
        return True

    def look(self, now: float, parcels: Collection[Parcel], waiting: int) -> Stuck | None:
        """What is to be told now, if anything is."""
        oldest = min(parcels, key=lambda parcel: parcel.since, default=None)
        self.at = NEVER if oldest is None else max(oldest.since + FIRST_SECONDS, now + 1.0)
        if oldest is None or now < oldest.since + FIRST_SECONDS or now < self._told_at + AGAIN_SECONDS:
            return None
        self._told_at = now
        calls = waiting + sum(len(parcel.items) for parcel in parcels)
        return Stuck(oldest, calls, oldest.deadline)


class Silence:
    """Says that calls wait for their outcomes because the database does not answer; and again, while it does not. For
    one thread."""

    def __init__(self, place: str, tell: Callable[[str], None], seconds: float = FIRST_SECONDS) -> None:
        """An answer that takes more than so many seconds is waited for in vain."""
        self._place, self._tell, self._seconds = place, tell, seconds
        self._told_at = -NEVER

    @contextmanager
    def asking(self, calls: int, since: float) -> Iterator[None]:
        """Meanwhile the database is asked about so many calls, of which the first has waited `since` then."""
        if time.monotonic() < max(since + self._seconds, self._told_at + AGAIN_SECONDS):
            yield
            return
        line = threading.Timer(self._seconds, self._say, [calls])
        line.daemon = True
        line.start()
        try:
            yield
        except DatabaseUnavailable:
            self._say(calls)
            raise
        finally:
            line.cancel()

    def _say(self, calls: int) -> None:
        if time.monotonic() < self._told_at + AGAIN_SECONDS:
            return
        self._told_at = time.monotonic()
        each = "outcome of 1 call" if calls == 1 else f"outcomes of {calls} calls"
        away = f"the database at {self._place} does not answer; what is accepted goes on"
        self._tell(f"waiting for the {each}: {away}; next: pyfi doctor")


def told(broker: Broker, stuck: Stuck, now: float, tell: Callable[[str], None]) -> None:
    """Have the line told, on a thread of its own: the broker is asked for it, and may not answer for long."""
    line = threading.Thread(target=lambda: tell(words(broker, stuck, now)), name="pyfi-notice", daemon=True)
    line.start()


def answers(broker: Broker) -> bool:
    """Whether the broker answers within a second; it is asked on a thread of its own, which may take longer."""
    said = threading.Event()

    def ask() -> None:
        # whatever else it raises is no answer either, and must end nobody's thread
        with suppress(Exception):
            broker.check()
            said.set()

    asking = threading.Thread(target=ask, name="pyfi-check", daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    return said.is_set()


def words(broker: Broker, stuck: Stuck, now: float) -> str:
    """The line: what is waited for, how much waits, for how long, and what helps."""
    socket = stuck.parcel.lane.way.socket
    count = f"{stuck.calls} call{'' if stuck.calls == 1 else 's'} of {socket.name}"
    left = f"; given up in {max(0.0, stuck.until - now):.0f} s" if stuck.until != NEVER else ""
    if not broker.publishing():
        return f"{_away(broker, count)}{left}"
    if stuck.parcel.error is not None and stuck.parcel.error.code == "E_BACKPRESSURE":
        return f"{_full(broker, stuck.parcel, count)}{left}"
    return f"waiting for the broker's word on {count}: it does not keep up; next: pyfi doctor{left}"


def _away(broker: Broker, count: str) -> str:
    try:
        broker.check()
    except PyfiError as error:
        return f"waiting for the broker to take {count}: {error.what}; next: {error.cure or 'pyfi doctor'}"
    alarm = "it takes no messages for now, because of its memory or disk"
    return f"waiting for the broker to take {count}: {alarm}; next: rabbitmq-diagnostics alarms"


def _full(broker: Broker, parcel: Parcel, count: str) -> str:
    socket = parcel.lane.way.socket
    queue = socket.exchange.split(".", 2)[-1]
    try:
        depth = broker.depth(f"{socket.exchange}.{socket.key}.g{socket.generation}")
        there = f"messages there: {depth.ready}, agents that take from it: {depth.consumers}"
    except PyfiError:
        there = "it is full"
    return f"waiting for room in queue {queue} for {count}: {there}; next: pyfi show processor {socket.processor}"
