"""Parameters in Postgres' own binary format, which psycopg2 does not speak: by libpq, over psycopg2's own session.

As text each byte of a `bytea` in an array takes two, which are quoted twice and read again twice: ten times the work.

Source: `PQexecPrepared` in libpq's manual, the types' own `_recv` functions, `connection.pgconn_ptr` of psycopg2.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from typing import Any, TypeVar

import psycopg2.extensions
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

T = TypeVar("T")

# Source: pg_type.dat
_BOOL, _BYTEA, _INT8, _INT4, _TEXT, _FLOAT8, _UUID, _JSONB = 16, 17, 20, 23, 25, 701, 2950, 3802
_NULL = b"\xff\xff\xff\xff"
#: dimensions, whether a value is NULL, type; then of the one dimension: length, first index
_HEAD = struct.Struct(">iiIii")
_EMPTY = struct.Struct(">iiI")
_LENGTH = struct.Struct(">i")
#: A command, or rows. Source: libpq-fe.h, ExecStatusType
_DONE = frozenset({1, 2})


def texts(values: Iterable[str]) -> bytes:
    """A `text[]`."""
    return _array(_TEXT, [value.encode() for value in values])


def binaries(values: Iterable[bytes | None]) -> bytes:
    """A `bytea[]`."""
    return _array(_BYTEA, list(values))


def uuids(values: Iterable[bytes | None]) -> bytes:
    """A `uuid[]`, from 16 bytes each."""
    return _array(_UUID, list(values))


def documents(values: Iterable[str]) -> bytes:
    """A `jsonb[]`, from JSON."""
    return _array(_JSONB, [b"\x01" + value.encode() for value in values])


def booleans(values: Collection[bool]) -> bytes:
    """A `bool[]`."""
    return _fixed(_BOOL, "?", values)


def integers(values: Collection[int]) -> bytes:
    """An `int[]`."""
    return _fixed(_INT4, "i", values)


def bigints(values: Collection[int]) -> bytes:
    """A `bigint[]`."""
    return _fixed(_INT8, "q", values)


def integer(value: int) -> bytes:
    """An `int`."""
    return value.to_bytes(4, "big", signed=True)


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
    """Whether the prepared `statement` was carried out with these, as a transaction of its own.

    Where it was not, nothing is said of why: whoever asks says the same again as text, and hears it from psycopg2. It
    may have been committed all the same, if the link broke.
    """
    return query(connection, statement, parameters) is not None


def query(connection: Any, statement: str, parameters: Sequence[bytes]) -> list[tuple[str | None, ...]] | None:
    """The rows that it gives, each field as text; None where `execute` would say False."""
    return _ask(connection, statement, parameters, _field, False)


def fetch(connection: Any, statement: str, parameters: Sequence[bytes]) -> list[tuple[bytes | None, ...]] | None:
    """As `query`, each field in Postgres' own format: a `bytea` as it is, which as text takes twice the bytes."""
    return _ask(connection, statement, parameters, _bytes, True)


def read(connection: Any, statement: str, parameters: Sequence[bytes]) -> list[tuple[bytes | None, ...]] | None:
    """As `fetch`, of the words of a statement, in which parameters stand as `$1` with their types."""
    return _ask(connection, statement, parameters, _bytes, True, prepared=False)


def _ask(
    connection: Any,
    statement: str,
    parameters: Sequence[bytes],
    field: Callable[[ctypes.CDLL, int, int, int], T],
    raw: bool,
    *,
    prepared: bool = True,
) -> list[tuple[T, ...]] | None:
    libpq, session = _libpq(), connection.pgconn_ptr
    # in a transaction it would be a part of that, behind psycopg2's back
    alone = connection.autocommit or connection.info.transaction_status == TRANSACTION_STATUS_IDLE
    if libpq is None or not session or not alone or connection.encoding != "UTF8":
        return None
    count = len(parameters)
    numbers = ctypes.c_int * count
    values, lengths = (ctypes.c_char_p * count)(*parameters), numbers(*map(len, parameters))
    formats, words = numbers(*(1,) * count), statement.encode()
    if prepared:
        result = libpq.PQexecPrepared(session, words, count, values, lengths, formats, raw)
    else:
        result = libpq.PQexecParams(session, words, count, None, values, lengths, formats, raw)
    try:
        return _rows(libpq, result, field) if libpq.PQresultStatus(result) in _DONE else None
    finally:
        libpq.PQclear(result)


def _rows(libpq: ctypes.CDLL, result: int, field: Callable[[ctypes.CDLL, int, int, int], T]) -> list[tuple[T, ...]]:
    columns = range(libpq.PQnfields(result))
    return [tuple(field(libpq, result, row, column) for column in columns) for row in range(libpq.PQntuples(result))]


def _field(libpq: ctypes.CDLL, result: int, row: int, column: int) -> str | None:
    value = _bytes(libpq, result, row, column)
    return None if value is None else value.decode()


def _bytes(libpq: ctypes.CDLL, result: int, row: int, column: int) -> bytes | None:
    if libpq.PQgetisnull(result, row, column):
        return None
    return ctypes.string_at(libpq.PQgetvalue(result, row, column), libpq.PQgetlength(result, row, column))


@cache
def _libpq() -> ctypes.CDLL | None:
    """The libpq that psycopg2 is linked with; None where its functions cannot be had."""
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    texts, numbers = ctypes.POINTER(text), ctypes.POINTER(number)
    try:
        # what is looked for here is looked for in what it is linked with as well
        libpq = ctypes.CDLL(psycopg2._psycopg.__file__)
        libpq.PQexecPrepared.argtypes = [pointer, text, number, texts, numbers, numbers, number]
        libpq.PQexecPrepared.restype = pointer
        libpq.PQexecParams.argtypes = [pointer, text, number, pointer, texts, numbers, numbers, number]
        libpq.PQexecParams.restype = pointer
        for function in (libpq.PQresultStatus, libpq.PQclear, libpq.PQnfields, libpq.PQntuples):
            function.argtypes = [pointer]
        for function in (libpq.PQgetisnull, libpq.PQgetvalue, libpq.PQgetlength):
            function.argtypes = [pointer, number, number]
        libpq.PQgetvalue.restype = pointer
    except (AttributeError, OSError):
        return None
    return libpq
