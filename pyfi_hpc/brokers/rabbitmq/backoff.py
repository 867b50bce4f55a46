"""How long to wait before the next try."""

from __future__ import annotations

import random


class Backoff:
    """Delays in seconds that double from `first` to `most`, each shortened by chance so that nobody marches in step."""

    def __init__(self, first: float = 0.2, most: float = 5.0) -> None:
        self._first, self._most, self._next = first, most, first

    def next(self) -> float:
        """The delay before the next try."""
        delay, self._next = self._next, min(self._most, self._next * 2)
        return delay * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """It worked: begin with the shortest delay the next time."""
        self._next = self._first
