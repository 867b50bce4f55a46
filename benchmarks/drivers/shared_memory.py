"""Raw shared memory with a pipe as its bell: what arrays of 4 MB from process to process cost at the least.

The sender writes each array into the next of some slots and rings; the receiver looks at its ends where it lies, and
rings back that the slot is free. `python -m benchmarks.drivers.shared_memory`.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from typing import Any, NamedTuple

import numpy

from benchmarks.drivers import arrays
from benchmarks.drivers.caller import Caller
from benchmarks.drivers.serving import serve

SIZE, SLOTS = 4_000_000, 6
#: So many arrays are sent in turn: more than caches hold, as results are that have just been made.
SOURCES = 16
_LEAST, _END = 20, -1
_BELL = struct.Struct("q")


class Bell(NamedTuple):
    """One direction each: numbers of arrays."""

    told: int
    tells: int

    def ring(self, number: int) -> None:
        """Tell it."""
        os.write(self.tells, _BELL.pack(number))

    def hear(self) -> int:
        """Wait for one."""
        return int(_BELL.unpack(os.read(self.told, _BELL.size))[0])


class _Raw(Caller):
    def single(self, number: int) -> int:
        return 2 * number

    def pipe(self, seconds: float) -> dict[str, float]:
        """GB/s, for about so long."""
        memory = mmap.mmap(-1, SIZE * SLOTS)
        (there, there_in), (back, back_in) = os.pipe(), os.pipe()
        if (child := os.fork()) == 0:
            _receive(_slots(memory), Bell(there, back_in))
            os._exit(0)
        bell = Bell(back, there_in)
        try:
            return {"gb_per_second": _sent(_slots(memory), bell, seconds)}
        finally:
            bell.ring(_END)
            os.waitpid(child, 0)
            for end in (there, there_in, back, back_in):
                os.close(end)


def _slots(memory: mmap.mmap) -> list[Any]:
    return [numpy.ndarray((SIZE // 8,), "f8", memory, offset=number * SIZE) for number in range(SLOTS)]


def _sent(slots: list[Any], bell: Bell, seconds: float) -> float:
    sources, count = [arrays.carrying(0, SIZE) for _ in range(SOURCES)], 0
    began = time.perf_counter()
    while count < _LEAST or time.perf_counter() - began < seconds:
        if count >= SLOTS:
            _check(bell.hear(), count - SLOTS)
        array = sources[count % SOURCES]
        array[0] = count
        slots[count % SLOTS][:] = array
        bell.ring(count)
        count += 1
    for number in range(max(0, count - SLOTS), count):
        _check(bell.hear(), number)
    return SIZE * count / (time.perf_counter() - began) / 1e9


def _check(answer: int, number: int) -> None:
    if answer != number:
        raise SystemExit(f"array {number} came as {answer}")


def _receive(slots: list[Any], bell: Bell) -> None:
    while (told := bell.hear()) != _END:
        array = slots[told % SLOTS]
        bell.ring(int(array[0]) if array[1] == array[-1] == 1.0 else _END)


if __name__ == "__main__":
    serve(_Raw())
