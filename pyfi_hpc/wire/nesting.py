"""How deep msgpack bytes nest, asked without recursion.

msgspec stops at Python's recursion limit. User code may have raised that limit beyond what the C stack holds; then this
slower look comes first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pyfi_hpc.wire.ext import FROZENSET, SET, TUPLE, Buffer

#: A recursion limit that a thread's stack holds for certain.
SAFE_RECURSION = 5_000
_NESTED = frozenset({TUPLE, SET, FROZENSET})

# Source: the msgpack specification, "Formats". First byte -> bytes after it …
_FIXED = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
# … or width of the length that follows it
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_FIXEXT = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_EXT = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_COUNTED = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def nests_deeper(data: Buffer, most: int) -> bool:
    """Whether containers stand over `most` deep; always False while the recursion limit is a safe one.

    Cut short or malformed bytes are looked at as far as they make sense.
    """
    if sys.getrecursionlimit() <= SAFE_RECURSION or len(data) <= most:
        return False
    spans = [(0, len(data), 0)]
    while spans:
        start, end, depth = spans.pop()
        for found in _depths(data, start, end, depth):
            if isinstance(found, tuple):
                spans.append(found)
            elif found > most:
                return True
    return False


def _depths(data: Buffer, at: int, end: int, depth: int) -> Iterator[int | tuple[int, int, int]]:
    """The depth of each container in one value, and the span and depth of each payload that holds more."""
    left = [1]
    while left and at < end:
        if not left[-1]:
            left.pop()
            continue
        left[-1] -= 1
        at, items, payload = _token(data, at)
        if items:
            left.append(items)
            yield depth + len(left) - 1
        if payload:
            yield depth + len(left)
            yield at - payload, min(at, end), depth + len(left)


def _token(data: Buffer, at: int) -> tuple[int, int, int]:
    """Where the next token starts, how many items this one opens, and how many bytes of payload nest in it."""
    first, at = data[at], at + 1
    if 0x80 <= first <= 0x9F:
        return at, (first & 15) * (2 if first < 0x90 else 1), 0
    if 0xA0 <= first <= 0xBF:
        return at + (first & 31), 0, 0
    if first in _COUNTED:
        width, factor = _COUNTED[first]
        return at + width, _number(data, at, width) * factor, 0
    if first in _SIZED:
        return at + _SIZED[first] + _number(data, at, _SIZED[first]), 0, 0
    if first in _FIXEXT or first in _EXT:
        width = _EXT.get(first, 0)
        size = _number(data, at, width) if width else _FIXEXT[first]
        code = _number(data, at + width, 1)
        at += width + 1 + size
        return at, 0, size if code in _NESTED else 0
    return at + _FIXED.get(first, 0), 0, 0


def _number(data: Buffer, at: int, width: int) -> int:
    return int.from_bytes(data[at : at + width], "big")
