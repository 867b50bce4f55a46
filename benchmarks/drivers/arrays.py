"""Arrays that carry a number, so that each result can be told from the others and checked."""

from __future__ import annotations

import random
from itertools import count
from typing import Any

import numpy

#: Exact in a double, and doubled too.
_never_before = count(random.randrange(2**48))
#: Bytes of arrays that may be on their way at once.
BYTES_IN_FLIGHT = 32 * 2**20


def carrying(number: int, size: int) -> Any:
    """An array of `size` bytes, unlike any other, of other runs too: nobody has it already."""
    array = numpy.ones(size // 8)
    array[0], array[2] = number, next(_never_before)
    return array


def carried(array: Any, size: int) -> int:
    """The number in the double of such an array.

    Raises:
        SystemExit: it is not the whole array, doubled.
    """
    if array.shape != (size // 8,) or array[1] != 2.0 or array[-1] != 2.0:
        raise SystemExit(f"an array came back as another: {array!r}")
    return int(array[0])


def in_flight(size: int) -> int:
    """How many arrays of `size` bytes may be on their way."""
    return max(2, BYTES_IN_FLIGHT // size)
