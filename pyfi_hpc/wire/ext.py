"""Our msgpack extension types: the codes, and how single values (dates, numbers, references) are laid out.

All layouts are big-endian and fixed once released; a new one gets a new code.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from pyfi_hpc.errors import BadInput

Buffer = bytes | memoryview

# code              payload
TUPLE = 1  # a msgpack array
SET = 2  # a msgpack array, members in the order of their bytes
FROZENSET = 3  # the same
COMPLEX = 4  # real, imaginary
DATETIME = 5  # year … microsecond, fold [, UTC offset in microseconds]
DATE = 6  # year, month, day
TIME = 7  # hour … microsecond, fold [, UTC offset in microseconds]
TIMEDELTA = 8  # days, seconds, microseconds
DECIMAL = 9  # its text
UUID_ = 10  # 16 bytes
ARRAY = 11  # see wire/arrays.py
SCALAR = 12  # a NumPy scalar: an array without dimensions
BLOB = 13  # claim check: SHA-256 of the encoded value, its size
ITEMS = 14  # what came of a generator: how many items, each an outcome of its own

_COMPLEX = struct.Struct(">dd")
_DATETIME = struct.Struct(">HBBBBBIB")
_DATE = struct.Struct(">HBB")
_TIME = struct.Struct(">BBBIB")
_TIMEDELTA = struct.Struct(">iII")
_OFFSET = struct.Struct(">q")
_BLOB = struct.Struct(">32sQ")
_ITEMS = struct.Struct(">Q")
#: How a claim check starts when it is written by us.
BLOB_MARK = bytes((0xC7, _BLOB.size, BLOB))
BLOB_BYTES = len(BLOB_MARK) + _BLOB.size
_MICROSECOND = timedelta(microseconds=1)
_LONGEST = 2**32 - 1


class BlobRef(NamedTuple):
    """A claim check: the value is the blob with this SHA-256 and size in bytes."""

    digest: bytes
    size: int


class Items(NamedTuple):
    """What came of a call that yielded: item `n` of `total` is the outcome `wire.ids.item_id(id, n)`."""

    total: int


class Refused(Exception):
    """A value that cannot be sent; gathers the path to it on the way out."""

    def __init__(self, code: str, value: str, what: str | None = None, cure: str | None = None) -> None:
        super().__init__(code, value)
        self.code, self.value, self.what, self.cure = code, value, what, cure
        self.steps: list[str] = []

    def inside(self, step: str) -> Refused:
        """The same, met at `step` of a container."""
        self.steps.append(step)
        return self

    def at(self, where: str) -> BadInput:
        """The error for the caller, with the whole path."""
        return BadInput.of(self.code, where + "".join(reversed(self.steps)), self.value, self.what, cure=self.cure)


def array_header(count: int) -> bytes:
    return _header(count, 0x90, 0xDC)


def map_header(count: int) -> bytes:
    return _header(count, 0x80, 0xDE)


def _header(count: int, small: int, large: int) -> bytes:
    if count < 16:
        return bytes((small | count,))
    if count < 2**16:
        return struct.pack(">BH", large, count)
    if count <= _LONGEST:
        return struct.pack(">BI", large + 1, count)
    raise Refused("E_LIMIT", f"{count} items", "a container has at most 2**32 - 1 items")


def ext_header(code: int, size: int) -> bytes:
    """What stands before an extension's `size` bytes of payload."""
    if size in (1, 2, 4, 8, 16):
        return bytes((0xD3 + size.bit_length(), code))
    if size < 2**8:
        return bytes((0xC7, size, code))
    if size < 2**16:
        return struct.pack(">BHB", 0xC8, size, code)
    if size <= _LONGEST:
        return struct.pack(">BIB", 0xC9, size, code)
    raise Refused("E_LIMIT", f"{size} bytes", "one value has at most 2**32 - 1 bytes")


def _zone(value: datetime | time) -> bytes:
    """The UTC offset of an aware value, nothing for a naive one."""
    if value.tzinfo is None:
        return b""
    offset = value.utcoffset()
    if offset is None:
        raise Refused("E_TYPE", str(value), "its zone has no offset at that time", "use a zone with a fixed offset")
    return _OFFSET.pack(offset // _MICROSECOND)


def _pack_datetime(value: datetime) -> bytes:
    day, clock = (value.year, value.month, value.day), (value.hour, value.minute, value.second, value.microsecond)
    return _DATETIME.pack(*day, *clock, value.fold) + _zone(value)


def _pack_time(value: time) -> bytes:
    return _TIME.pack(value.hour, value.minute, value.second, value.microsecond, value.fold) + _zone(value)


def pack_blob(ref: BlobRef) -> bytes:
    digest, size = ref
    if len(digest) != 32 or not 0 <= size < 2**64:
        raise Refused("E_RANGE", f"{len(digest)} bytes, size {size}", "a claim check is a SHA-256 and a size")
    return _BLOB.pack(digest, size)


#: Exact type -> code and payload. Subclasses may hold more than the payload can, so they are refused.
PACK: Mapping[type, tuple[int, Callable[[Any], bytes]]] = {
    complex: (COMPLEX, lambda value: _COMPLEX.pack(value.real, value.imag)),
    datetime: (DATETIME, _pack_datetime),
    date: (DATE, lambda value: _DATE.pack(value.year, value.month, value.day)),
    time: (TIME, _pack_time),
    timedelta: (TIMEDELTA, lambda value: _TIMEDELTA.pack(value.days, value.seconds, value.microseconds)),
    Decimal: (DECIMAL, lambda value: str(value).encode()),
    UUID: (UUID_, lambda value: value.bytes),
    BlobRef: (BLOB, pack_blob),
}


def _split(layout: struct.Struct, data: Buffer) -> tuple[list[Any], timezone | None]:
    zone = bytes(data[layout.size :])
    fields = list(layout.unpack(data[: layout.size]))
    return fields, timezone(timedelta(microseconds=_OFFSET.unpack(zone)[0])) if zone else None


def _unpack_datetime(data: Buffer) -> datetime:
    fields, zone = _split(_DATETIME, data)
    return datetime(*fields[:-1], fold=fields[-1]).replace(tzinfo=zone)


def _unpack_time(data: Buffer) -> time:
    fields, zone = _split(_TIME, data)
    return time(*fields[:-1], fold=fields[-1]).replace(tzinfo=zone)


def _unpack_timedelta(data: Buffer) -> timedelta:
    days, seconds, microseconds = _TIMEDELTA.unpack(data)
    return timedelta(days, seconds, microseconds)


def unpack_blob(data: Buffer) -> BlobRef:
    return BlobRef(*_BLOB.unpack(data))


#: Code -> value. May raise ValueError, ArithmeticError or struct.error on a hostile payload.
UNPACK: Mapping[int, Callable[[Buffer], object]] = {
    COMPLEX: lambda data: complex(*_COMPLEX.unpack(data)),
    DATETIME: _unpack_datetime,
    DATE: lambda data: date(*_DATE.unpack(data)),
    TIME: _unpack_time,
    TIMEDELTA: _unpack_timedelta,
    DECIMAL: lambda data: Decimal(str(data, "ascii")),
    UUID_: lambda data: UUID(bytes=bytes(data)),
    ITEMS: lambda data: Items(*_ITEMS.unpack(data)),
}


def pack_items(count: int) -> bytes:
    """The encoded value of a call that yielded `count` items."""
    return ext_header(ITEMS, _ITEMS.size) + _ITEMS.pack(count)
