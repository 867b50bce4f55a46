"""Large values in memory that both ends of a pipe see: written once by the sender, read where they lie.

The memory is a file without a name (memfd) that the receiver opens through the sender's `/proc` entry. So nothing can
stay behind: it is gone with the last process that has it open.

A place belongs to one call of one receiver, who may write to it as to memory of its own, and goes back to the sender
when the last array over it is gone. Who forks meanwhile finds a copy of its own in the child.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import mmap
import os
import stat
import weakref
from bisect import insort
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from pyfi_hpc.pipes.protocol import WINDOW_BYTES, Arena, Place, broken
from pyfi_hpc.wire.ext import Buffer

#: Twice the window, so that a place is found between others that are still read. Only what is written to takes memory.
ARENA_BYTES = 2 * WINDOW_BYTES
#: Elements of arrays start at multiples of this; a cache line.
_ALIGNED = 64
_PAGE = mmap.PAGESIZE
#: Above the numbers that user code closes without looking.
_OURS = 100
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_PUNCH_HOLE_KEEP_SIZE = 0x01 | 0x02  # Source: fallocate(2)
_MAP_FIXED = 0x10  # Source: mmap(2)


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


class Free:
    """Which parts of an arena are free. Pure; first fit, in whole pages."""

    def __init__(self, capacity: int) -> None:
        self.spans: list[tuple[int, int]] = [(0, capacity)]

    def take(self, size: int) -> int | None:
        """The start of `size` bytes that are nobody else's; None where there is no room."""
        for number, (start, end) in enumerate(self.spans):
            if end - start >= size:
                self.spans[number : number + 1] = [(start + size, end)] if start + size < end else []
                return start
        return None

    def give(self, start: int, size: int) -> None:
        """That part is free again, and one with its neighbours."""
        insort(self.spans, (start, start + size))
        at = self.spans.index((start, start + size))
        first, last = max(0, at - 1), at + 2
        merged: list[tuple[int, int]] = []
        for span in self.spans[first:last]:
            if merged and merged[-1][1] == span[0]:
                span = (merged.pop()[0], span[1])
            merged.append(span)
        self.spans[first:last] = merged


class Pool:
    """The sender's arena of one pipe."""

    def __init__(self, capacity: int = ARENA_BYTES) -> None:
        """Raises OSError where the system gives no such memory."""
        low = os.memfd_create("pyfi pipe", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            self._file = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _OURS)
        finally:
            os.close(low)
        os.ftruncate(self._file, capacity)
        # a receiver reads without fear that the end of the file moves: that would kill it
        fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, _SEALS)
        self._memory = mmap.mmap(self._file, capacity)
        self._view = memoryview(self._memory)
        self._free, self._used = Free(capacity), dict[int, tuple[int, int]]()
        self.arena = Arena(self._file, os.fstat(self._file).st_ino, capacity)
        self._touched = False

    def write(self, parts: Sequence[Buffer], lead: int) -> Place | None:
        """Where the parts lie now, one after the other, byte `lead` of them aligned; None where there is no room."""
        size, padding = sum(map(len, parts)), -lead % _ALIGNED
        length = _pages(size + padding)
        block = self._free.take(length)
        if block is None:
            return None
        self._touched = True
        at = start = block + padding
        for part in parts:
            self._view[at : at + len(part)] = part
            at += len(part)
        self._used[start] = (block, length)
        return Place(start, size)

    def returned(self, starts: Sequence[int]) -> None:
        """The receiver is done with these places.

        Raises:
            BadInput: E_PIPE_PROTOCOL, it does not have one.
        """
        for start in starts:
            if start not in self._used:
                raise broken("returned", start, "the receiver does not have it")
            self._free.give(*self._used.pop(start))

    @property
    def idle(self) -> bool:
        """Whether memory is held that nobody reads."""
        return self._touched and not self._used

    def trim(self) -> None:
        """Give the memory back to the system, where nobody reads it."""
        if self.idle:
            libc = ctypes.CDLL(None, use_errno=True)
            libc.fallocate(self._file, _PUNCH_HOLE_KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(self.arena.capacity))
            self._touched = False

    def close(self) -> None:
        """Forget it; a receiver that still reads has it open itself."""
        self._view.release()
        self._memory.close()
        with suppress(OSError):  # user code may have closed it
            os.close(self._file)


_Block = ctypes.Array[ctypes.c_char]


@functools.lru_cache(64)
def _block_type(size: int) -> type[_Block]:
    return ctypes.c_char * size


class _Reading(weakref.ref[_Block]):
    """A place that somebody reads; it joins `done` when nobody does, at any time and in any thread.

    That is a method of C alone: an interrupt that is meant for user code cannot come in between.
    """

    place: Place


class Reach:
    """A sender's arena as its receiver sees it."""

    def __init__(self, pid: int, arena: Arena) -> None:
        """Open the arena of process `pid`.

        Raises:
            OSError, ValueError: it cannot be reached from here, or is not what the sender says.
        """
        path = f"/proc/{pid}/fd/{arena.descriptor}"
        # before it is opened: what is no plain file might not bear that
        _check(os.stat(path), arena)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            _check(os.fstat(descriptor), arena)
            if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise ValueError("it may be cut short")
            self._memory = mmap.mmap(descriptor, arena.capacity)
        finally:
            os.close(descriptor)
        self._capacity = arena.capacity
        self._taken: dict[int, int] = {}
        self._unread: list[int] = []
        self._out: dict[int, _Reading] = {}
        self._done: deque[weakref.ref[_Block]] = deque()
        self._copies: list[tuple[int, bytes]] = []

    def take(self, place: Place) -> None:
        """The place is ours from here on.

        Raises:
            BadInput: E_PIPE_PROTOCOL, it is not in the arena, or ours already.
        """
        if place.start + place.size > self._capacity or place.start in self._taken:
            raise broken("place", f"{place.start} + {place.size}")
        self._taken[place.start] = place.size

    def view(self, place: Place) -> memoryview:
        """The bytes there, without a copy and writable; `released` tells when nobody has them any more."""
        first = place.start // _PAGE * _PAGE
        length = _pages(place.start + place.size) - first
        block = _block_type(length).from_buffer(self._memory, first)
        self._out[place.start] = reading = _Reading(block, self._done.append)
        reading.place = place
        return memoryview(block).cast("B")[place.start - first : place.start - first + place.size]

    def released(self) -> list[tuple[int, int]]:
        """The places (start, size) that nobody reads any more since the last time."""
        while self._done:
            reading = self._done.popleft()
            assert isinstance(reading, _Reading)
            del self._out[reading.place.start]
            self._unread.append(reading.place.start)
        freed = [(start, self._taken.pop(start)) for start in self._unread]
        self._unread = []
        return freed

    def dismiss(self, place: Place) -> None:
        """The call that had the place is done with, whether it has looked there or not."""
        if place.start in self._taken and place.start not in self._out:
            self._unread.append(place.start)

    @property
    def held(self) -> int:
        """How many bytes of it are ours now."""
        return sum(self._taken.values())

    # a process of the user's own

    def before_fork(self) -> None:
        """Keep what the child is to see."""
        for reference in self._out.values():
            if (block := reference()) is not None:
                self._copies.append((ctypes.addressof(block), bytes(block)))

    def after_fork(self, *, child: bool) -> None:
        """In the child, what it sees is its own from now on, as all memory of a forked process."""
        if child:
            for address, content in self._copies:
                _make_private(address, content)
        self._copies = []


def _check(found: os.stat_result, arena: Arena) -> None:
    same = (found.st_ino, found.st_size) == (arena.inode, arena.capacity)
    if not same or not stat.S_ISREG(found.st_mode) or arena.capacity % _PAGE:
        raise ValueError("another file")


def _make_private(address: int, content: bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
    made = libc.mmap(
        ctypes.c_void_p(address), ctypes.c_size_t(len(content)), mmap.PROT_READ | mmap.PROT_WRITE, flags, -1,
        ctypes.c_long(0),
    )  # fmt: skip
    if made == address:
        ctypes.memmove(address, content, len(content))


def reach(pid: int, arena: Arena | None) -> Reach | None:
    """The arena of process `pid`, or None where it has none or it cannot be used from here."""
    if arena is None:
        return None
    try:
        return Reach(pid, arena)
    except (OSError, ValueError):
        return None


def pool() -> Pool | None:
    """A fresh arena; None where the system gives none."""
    try:
        return Pool()
    except OSError:
        return None
