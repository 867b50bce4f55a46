"""What other threads bring to an agent's loop, and how it gets done.

There are two ways in. What is posted waits for the loop, which a bell wakes. Deliveries are taken in, and handed to
workers, by the thread that brings them, as long as the loop only waits: it would have to wake up for it. Both are the
loop's own work, and only whoever holds its baton does it.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from pyfi_hpc.baton import Baton
from pyfi_hpc.brokers.base import Delivery

T = TypeVar("T")


class Inbox:
    """Of one loop. `baton` is held by the loop's thread while it works; `bell` is a descriptor to wait for."""

    def __init__(self, take: Callable[[bytes, Delivery], None], hand_out: Callable[[], None]) -> None:
        """`take` is given a processor and a delivery for it; `hand_out` gives workers what was taken in."""
        self._take, self._hand_out = take, hand_out
        self.baton = Baton()
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._rung = False
        self._posted: deque[Callable[[], None]] = deque()
        self._arrived: deque[tuple[bytes, Delivery]] = deque()

    # from any thread

    def post(self, do: Callable[[], None]) -> None:
        """Have `do` done by the loop."""
        self._posted.append(do)
        # one ring for all that is posted before it is heard
        if not self._rung:
            self._rung = True
            os.eventfd_write(self.bell, 1)

    def deliver(self, processor: bytes, delivery: Delivery) -> None:
        """Bring a delivery; nothing happens until `all_here`."""
        self._arrived.append((processor, delivery))

    def all_here(self) -> None:
        """The deliveries that came together are here: they go to workers now, or as soon as the loop is free."""
        if self._posted or not self.baton.borrow(self._feed):
            self.post(self._take_in)

    def _feed(self) -> None:
        try:
            self._take_in()
            self._hand_out()
        except Exception as error:
            # a fault of ours must end the agent, as it does on its own thread
            self.post(partial(_raise, error))

    # the loop's own

    def while_waiting(self, wait: Callable[[float], T], seconds: float) -> T:
        """What `wait(seconds)` gives; other threads may do the loop's work meanwhile."""
        return self.baton.laid_down(wait, seconds)

    def heard(self) -> None:
        """The bell rang. Before what was posted is looked at: what comes after rings again."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.bell)
        self._rung = False

    def do_posted(self) -> None:
        """Do all that was posted."""
        while self._posted:
            self._posted.popleft()()

    def _take_in(self) -> None:
        while self._arrived:
            self._take(*self._arrived.popleft())


def _raise(error: Exception) -> None:
    raise error
