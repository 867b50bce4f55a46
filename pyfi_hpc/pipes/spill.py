"""When an edge's values go to the broker instead of into a pipe. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from pyfi_hpc.pipes.window import Window

#: For so long a sender waits for credit before it leaves values to the broker.
SPILL_SECONDS = 0.5


def roomiest(windows: Iterable[Window], size: int) -> int | None:
    """Which of the windows has most left of those that take a call of `size` bytes; None when none does."""
    best, most = None, 0
    for number, window in enumerate(windows):
        if window.items_left > most and window.room(size):
            best, most = number, window.items_left
    return best


class Spill:
    """Whether one edge spills. It starts so: no receiver has granted anything yet."""

    __slots__ = ("spilling",)

    def __init__(self) -> None:
        self.spilling = True

    def begin(self) -> None:
        """No credit came in time."""
        self.spilling = True

    def look(self, windows: Iterable[Window]) -> bool:
        """Whether values spill still: until half of a window is free, so that an edge does not flutter."""
        if self.spilling and any(window.half_free for window in windows):
            self.spilling = False
        return self.spilling
