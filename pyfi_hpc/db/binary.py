"""Parameters in Postgres' own binary format, which psycopg2 does not speak: by libpq, over psycopg2's own session.

As text each byte of a `bytea` in an array takes two, which are quoted twice and read again twice: ten times the work.

Source: `PQexecPrepared` in libpq's manual, the types' own `_recv` functions, `connection.pgconn_ptr` of psycopg2.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import Any

import psycopg2.extensions

# Source: pg_type.dat
_BYTEA, _INT4, _TEXT, _FLOAT8, _UUID = 17, 23, 25, 701, 2950
_NULL = b"\xff\xff\xff\xff"
#: dimensions, whether a value is NULL, type; then of the one dimension: length, first index
_HEAD = struct.Struct(">iiIii")
_EMPTY = struct.Struct(">iiI")
_LENGTH = struct.Struct(">i")
#: Source: libpq-fe.h, ExecStatusType
_COMMAND_OK = 1


def texts(values: Iterable[str]) -> bytes:
    """A `text[]`."""
    return _array(_TEXT, [value.encode() for value in values])


def binaries(values: Iterable[bytes | None]) -> bytes:
    """A `bytea[]`."""
    return _array(_BYTEA, list(values))


def uuids(values: Iterable[bytes | None]) -> bytes:
    """A `uuid[]`, from 16 bytes each."""
    return _array(_UUID, list(values))


def integers(values: Collection[int]) -> bytes:
    """An `int[]`."""
    return _fixed(_INT4, "i", values)


def floats(values: Collection[float]) -> bytes:
    """A `float8[]`."""
    return _fixed(_FLOAT8, "d", values)


def _array(kind: int, values: Sequence[bytes | None]) -> bytes:
    parts = [_head(kind, len(values), None in values)]
    for value in values:
        parts += (_NULL,) if value is None else (_LENGTH.pack(len(value)), value)
    return b"".join(parts)


def _fixed(kind: int, form: str, values: Collection[float]) -> bytes:
    size = struct.calcsize(f">{form}")
    fields = [field for value in values for field in (size, value)]
    return _head(kind, len(values), False) + struct.pack(f">{f'i{form}' * len(values)}", *fields)


def _head(kind: int, count: int, nulls: bool) -> bytes:
    return _HEAD.pack(1, nulls, kind, count, 1) if count else _EMPTY.pack(0, nulls, kind)


def execute(connection: Any, statement: str, parameters: Sequence[bytes]) -> bool:
    """Whether the prepared `statement`, which returns no rows, was carried out with these, as a transaction of its own.

    Where it was not, nothing is said of why: whoever asks says the same again as text, and hears it from psycopg2. It
    may have been committed all the same, if the link broke.
    """
    libpq, session = _libpq(), connection.pgconn_ptr
    if libpq is None or not session or not connection.autocommit or connection.encoding != "UTF8":
        return False
    count = len(parameters)
    numbers = ctypes.c_int * count
    values, lengths = (ctypes.c_char_p * count)(*parameters), numbers(*map(len, parameters))
    result = libpq.PQexecPrepared(session, statement.encode(), count, values, lengths, numbers(*(1,) * count), 1)
    try:
        return bool(libpq.PQresultStatus(result) == _COMMAND_OK)
    finally:
        libpq.PQclear(result)


@cache
def _libpq() -> ctypes.CDLL | None:
    """The libpq that psycopg2 is linked with; None where its functions cannot be had."""
    try:
        # what is looked for here is looked for in what it is linked with as well
        libpq = ctypes.CDLL(psycopg2._psycopg.__file__)
        execute, status, clear = libpq.PQexecPrepared, libpq.PQresultStatus, libpq.PQclear
    except (AttributeError, OSError):
        return None
    strings, numbers = ctypes.POINTER(ctypes.c_char_p), ctypes.POINTER(ctypes.c_int)
    execute.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, strings, numbers, numbers, ctypes.c_int]
    execute.restype = ctypes.c_void_p
    status.argtypes = clear.argtypes = [ctypes.c_void_p]
    return libpq
