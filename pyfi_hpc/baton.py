"""The right to touch what one thread's loop works on; others may have it for a moment while that thread only waits.

A thread that hands work to a loop would wake it and wait for its turn: two switches, some 50 µs each. Where the loop is
asleep anyway, the work is done here and now instead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

#: A borrower that keeps the baton for so many seconds was interrupted before it could give it back.
LOST_SECONDS = 15.0


class Baton:
    """Held by the loop's thread, as a context, but while it waits (`laid_down`)."""

    __slots__ = ("_holder", "_lock")

    def __init__(self) -> None:
        self._lock, self._holder = threading.Lock(), 0

    def __enter__(self) -> Self:
        self._lock.acquire()
        self._holder = threading.get_ident()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._give_back()

    def laid_down(self, wait: Callable[..., T], *how: object) -> T:
        """What `wait(*how)` returns; others may have the baton meanwhile."""
        self._give_back()
        try:
            return wait(*how)
        finally:
            self._lock.acquire(timeout=LOST_SECONDS)
            self._holder = threading.get_ident()

    def borrow(self, work: Callable[[], None]) -> bool:
        """Do `work` now if nobody else has the baton (this thread may); False: it was not done, and nobody waited.

        It must wait for nothing: the loop stands still meanwhile.
        """
        if self._holder == threading.get_ident():
            work()
            return True
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._holder = threading.get_ident()
            work()
        finally:
            self._give_back()
        return True

    def _give_back(self) -> None:
        if self._holder == threading.get_ident():
            self._holder = 0
            self._lock.release()
