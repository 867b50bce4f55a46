"""When an agent's loop does what: every so often, once, and looks into the record. Pure: seconds of one clock."""

from __future__ import annotations

import math
from collections.abc import Callable

#: An agent that nobody here knows may be on record by now: how often that is looked up for it.
STRANGER_SECONDS = 0.5
#: No look comes sooner than this after another one, but where it is asked for at once.
SOONEST_SECONDS = 0.05


class Every:
    """Something that is done every so many seconds, and at once the first time."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._next = seconds, 0.0

    def due(self, now: float) -> bool:
        """Whether its time has come; True is said once."""
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


class Once:
    """Something that is done once, later."""

    def __init__(self) -> None:
        self._at, self._do = math.inf, _nothing

    def plan(self, at: float, do: Callable[[], None]) -> None:
        self._at, self._do = at, do

    def cancel(self) -> None:
        self.plan(math.inf, _nothing)

    def turn(self, now: float) -> None:
        """Do it where its time has come."""
        if now >= self._at:
            do = self._do
            self.cancel()
            do()


class Looks:
    """When the record is looked into next, one look at a time, and the wish that goes with it.

    A *wish* is the time when something last changed that asks for a reconcile pass; whoever makes a pass that began
    after it has fulfilled it. The first look is the agent's arrival, which is under way from the start.
    """

    def __init__(self, poll_seconds: float) -> None:
        self._poll_seconds = poll_seconds
        self._next = self._last = 0.0
        self._under_way = True
        self._wished: float | None = None
        #: when a processor may start again: that is a wish by then
        self._start_at = math.inf

    def arrived(self, now: float) -> None:
        """The first one is done; the next one is a poll later."""
        self._next = now + self._poll_seconds

    def at_once(self) -> None:
        """The next one is due."""
        self._next = 0.0

    def within(self, seconds: float, now: float) -> None:
        """The next one is due in so many seconds at the latest."""
        self._next = min(self._next, now + max(seconds, SOONEST_SECONDS))

    def wish(self, now: float) -> None:
        """Something changed: have it reconciled, and read what is wanted, soon and not only at the next poll."""
        self._next, self._wished = 0.0, now

    def for_a_stranger(self, now: float) -> None:
        """Somebody has come up who may be on record by now."""
        if now - self._last > STRANGER_SECONDS:
            self._next = 0.0

    def due(self, now: float) -> bool:
        return not self._under_way and now >= self._next

    def begin(self, now: float) -> float | None:
        """A look begins; the wish that goes with it."""
        self._under_way, self._last, self._next = True, now, now + self._poll_seconds
        wished, self._wished = self._wished, None
        if now >= self._start_at:
            wished, self._start_at = now, math.inf
        return wished

    def end(self, wished: float | None, again_seconds: float | None, now: float) -> None:
        """It is done; where it is to be made again so soon, its wish was not fulfilled."""
        self._under_way = False
        if again_seconds is None:
            return
        if wished is not None and (self._wished is None or self._wished < wished):
            self._wished = wished
        self.within(again_seconds, now)

    def expect(self, due_seconds: float | None, start_seconds: float | None, now: float) -> None:
        """So soon a hold row is due, and a processor may start again; None: there is none."""
        if due_seconds is not None:
            self.within(due_seconds, now)
        if start_seconds is not None:
            self._start_at = now + start_seconds
            self.within(start_seconds, now)


def _nothing() -> None:
    pass
