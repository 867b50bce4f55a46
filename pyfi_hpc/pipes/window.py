"""How much may be on its way: a number of calls and of bytes. Pure."""

from __future__ import annotations

from pyfi_hpc.pipes.protocol import broken


class Window:
    """What a receiver granted, and what is left of it."""

    __slots__ = ("items", "items_left", "size", "size_left")

    def __init__(self, items: int = 0, size: int = 0) -> None:
        """`items` calls with `size` bytes in all."""
        self.items = self.items_left = items
        self.size = self.size_left = size

    def room(self, size: int) -> bool:
        """Whether one more call of `size` bytes may go."""
        return self.items_left > 0 and size <= self.size_left

    def take(self, size: int) -> None:
        """A call of `size` bytes goes."""
        self.items_left -= 1
        self.size_left -= size

    def take_all(self, items: int, size: int) -> bool:
        """Whether there was room for so many calls with `size` bytes in all; if so, they went."""
        if items > self.items_left or size > self.size_left:
            return False
        self.items_left -= items
        self.size_left -= size
        return True

    def give(self, items: int, size: int) -> None:
        """So much is free again.

        Raises:
            BadInput: E_PIPE_PROTOCOL, more came back than went.
        """
        if self.items_left + items > self.items or self.size_left + size > self.size:
            raise broken("credit", f"{items} calls, {size} bytes", "more comes back than was sent")
        self.items_left += items
        self.size_left += size

    def shut(self) -> None:
        """There is no room from here on, whatever comes back."""
        self.items_left = -(2**62)

    @property
    def half_free(self) -> bool:
        """Whether at least half is free, of calls and of bytes."""
        return self.items > 0 and 2 * self.items_left >= self.items and 2 * self.size_left >= self.size
