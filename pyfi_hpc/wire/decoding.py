"""Bytes to values, whatever the bytes are: a value comes back or BadInput is raised.

The structure is walked once before anything is built, so a length that the bytes cannot fill allocates nothing.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import chain
from typing import Any

import msgspec

from pyfi_hpc.errors import BadInput
from pyfi_hpc.wire import ext
from pyfi_hpc.wire.arrays import array_of, scalar_of
from pyfi_hpc.wire.ext import BLOB, BLOB_BYTES, BlobRef, Buffer
from pyfi_hpc.wire.limits import DEPTH
from pyfi_hpc.wire.nesting import nests_deeper

Resolve = Callable[[BlobRef], Buffer]

#: The arguments' own list, and the list or map in it.
_ENVELOPE = 2
_MANY = 64
#: A value of fewer bytes holds no claim check, and is not too deep: every level takes a byte at least.
_SHORTEST = min(DEPTH, BLOB_BYTES)
_NUMBERS = frozenset({int, float})
_CONTAINERS = frozenset({list, dict, tuple, set, frozenset})
_BUILD: Mapping[int, Callable[[list[object]], object]] = {ext.TUPLE: tuple, ext.SET: set, ext.FROZENSET: frozenset}
_UNPACK = {**ext.UNPACK, ext.ARRAY: array_of, ext.SCALAR: scalar_of}
_BAD_BYTES = (msgspec.MsgspecError, ValueError, TypeError, ArithmeticError, LookupError, struct.error)
_OFFSET = re.compile(r"\(byte (\d+)\)|in position (\d+)")

_skip = msgspec.msgpack.Decoder(msgspec.Raw).decode


def decode(data: Buffer, *, resolve: Resolve | None = None) -> object:
    """The value; a claim check met in it is replaced by the value that `resolve` has the bytes of.

    `resolve` answers for the digest; what it raises as a PyfiError reaches the caller.

    Raises:
        BadInput: E_DECODE, E_LIMIT, E_DTYPE, E_ARRAY, or E_TYPE for an array where NumPy is not installed.
    """
    return _decoded(data, resolve, DEPTH)


def decode_arguments(data: Buffer, *, resolve: Resolve | None = None) -> tuple[tuple[object, ...], dict[str, object]]:
    """`args` and `kwargs`; raises as `decode` does, and E_FIELD when the bytes hold anything else."""
    envelope = _decoded(data, resolve, DEPTH + _ENVELOPE)
    if type(envelope) is list and list(map(type, envelope)) == [list, dict]:
        args, kwargs = envelope
        if all(type(name) is str for name in kwargs):
            return tuple(args), kwargs
    raise BadInput.of("E_FIELD", "arguments", f"{len(data)} bytes", "arguments are [[positional…], {keyword…}]")


class _Reader:
    """One way to decode: `resolve` is what its claim checks go through."""

    def __init__(self, resolve: Resolve | None = None) -> None:
        self._resolve = resolve
        self._decode = msgspec.msgpack.Decoder(ext_hook=self._extension).decode

    def read(self, data: Buffer) -> Any:
        if nests_deeper(data, DEPTH + _ENVELOPE):
            raise _too_deep()
        _skip(data)
        return self._decode(data)

    def _extension(self, code: int, data: memoryview) -> object:
        if unpack := _UNPACK.get(code):
            return unpack(data)
        if build := _BUILD.get(code):
            return build(self._items(data))
        if code == BLOB:
            return self._blob(ext.unpack_blob(data))
        raise BadInput.of("E_DECODE", "extension", code, "no such extension type")

    def _items(self, data: memoryview) -> list[object]:
        items = self.read(data)
        if type(items) is not list:
            raise BadInput.of("E_DECODE", "extension", type(items).__name__, "it must hold an array")
        return items

    def _blob(self, ref: BlobRef) -> object:
        if self._resolve is None:
            raise BadInput.of("E_DECODE", "blob", ref.digest.hex(), "a claim check cannot be followed here")
        content = self._resolve(ref)
        if len(content) != ref.size:
            raise BadInput.of("E_DIGEST", "blob", ref.digest.hex(), f"{len(content)} bytes instead of {ref.size}")
        return self.read(content)


_PLAIN = _Reader()


@lru_cache(16)
def _reader(resolve: Resolve | None) -> _Reader:
    """Made once for each: that takes longer than most values do."""
    return _Reader(resolve)


def _decoded(data: Buffer, resolve: Resolve | None, depth: int) -> object:
    long = len(data) >= _SHORTEST
    try:
        value = (_reader(resolve) if long else _PLAIN).read(data)
        if long:
            _check_depth(value, depth)
    except RecursionError:
        raise _too_deep() from None
    except MemoryError as error:
        raise BadInput.of("E_LIMIT", "value", f"{len(data)} bytes", "no memory to hold it") from error
    except _BAD_BYTES as error:
        raise _malformed(data, error) from error
    return value


def _malformed(data: Buffer, error: Exception) -> BadInput:
    found = _OFFSET.search(str(error))
    offset = next(filter(None, found.groups())) if found else None
    at = f"offset {offset} of {len(data)} bytes" if offset else f"{len(data)} bytes"
    return BadInput.of("E_DECODE", "value", at, str(error) or type(error).__name__)


def _too_deep() -> BadInput:
    return BadInput.of("E_LIMIT", "depth", f"over {DEPTH}", f"nested over {DEPTH} deep")


def _check_depth(value: object, left: int) -> None:
    """Refuse a value with over `left` containers inside one another."""
    if type(value) not in _CONTAINERS:
        return
    if not left:
        raise _too_deep()
    if type(value) is list and _is_numbers(value):
        return
    inner: Any = chain(value, value.values()) if type(value) is dict else value
    for item in inner:
        if type(item) in _CONTAINERS:
            _check_depth(item, left - 1)


def _is_numbers(values: list[Any]) -> bool:
    """Whether a long list is all numbers; `hypot` takes nothing else, and asks faster than their types."""
    if len(values) < _MANY or type(values[0]) not in _NUMBERS:
        return False
    try:
        math.hypot(*values)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
