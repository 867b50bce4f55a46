"""Columns of rows as array literals and in Postgres' own format, read by a real server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any
from uuid import UUID

import psycopg2
import pytest

from pyfi_hpc.db import arrays, binary


def read(uri: str, kind: str, literal: str) -> list[object]:
    with closing(psycopg2.connect(uri)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT value FROM unnest(%s::{kind}[]) AS u (value)", (literal,))
        return [value for (value,) in cursor.fetchall()]


def test_a_column_comes_back_as_it_was(database_uri: str) -> None:
    odd = ["", "plain", 'a "quoted" one', "back\\slash\\", "{a,b}", "NULL", "a,b", " spaces ", "grün\n", "%s"]
    assert read(database_uri, "text", arrays.texts(odd)) == odd

    held = [b"", b"\\x00", bytes(range(256)), None, b'"']
    found = read(database_uri, "bytea", arrays.binaries(held))
    assert [None if value is None else bytes(value) for value in found] == held  # type: ignore[call-overload]

    ids = [bytes(range(16)), None, b"\xff" * 16]
    found = read(database_uri, "uuid", arrays.uuids(ids))
    assert [None if value is None else UUID(str(value)).bytes for value in found] == ids

    times = [0.1, None, 1790000000.1234567, 1e-12, -3.0]
    assert read(database_uri, "float8", arrays.numbers(times)) == times
    assert read(database_uri, "pyfi.outcome_status", arrays.words(["SUCCEEDED", "DEAD"])) == ["SUCCEEDED", "DEAD"]


def test_no_rows_make_an_empty_column(database_uri: str) -> None:
    for kind, literal in (
        ("text", arrays.texts([])),
        ("bytea", arrays.binaries([])),
        ("uuid", arrays.uuids([])),
        ("float8", arrays.numbers([])),
    ):
        assert read(database_uri, kind, literal) == []


# in Postgres' own format


@pytest.fixture
def keeper(database_uri: str) -> Iterator[Any]:
    """A session with a table `kept` and a prepared statement `keep` that adds a row to it."""
    with closing(psycopg2.connect(database_uri)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("CREATE TEMP TABLE kept (a text[], b bytea[], c uuid[], d int[], e float8[] PRIMARY KEY)")
        cursor.execute(
            "PREPARE keep (text[], bytea[], uuid[], int[], float8[]) AS INSERT INTO kept VALUES ($1, $2, $3, $4, $5)"
        )
        yield connection


def columns(number: float = 0.1) -> list[bytes]:
    """Some of each kind."""
    return [
        binary.texts(["", "grün\n", "NULL", "{a,b}"]),
        binary.binaries([b"", None, bytes(range(256)), b"x" * 300_000]),
        binary.uuids([bytes(range(16)), None]),
        binary.integers([1, -(2**31), 2**31 - 1]),
        binary.floats([number, 1790000000.1234567, -3.0]),
    ]


def kept(connection: Any) -> list[Sequence[Any]]:
    """The rows there are."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT a, b, c::text[], d, e FROM kept")
        return list(cursor.fetchall())


def test_what_is_sent_in_the_servers_own_format_is_what_it_holds(keeper: Any) -> None:
    assert binary.execute(keeper, "keep", columns())

    texts, held, ids, integers, floats = kept(keeper)[0]
    assert texts == ["", "grün\n", "NULL", "{a,b}"]
    assert [None if value is None else bytes(value) for value in held] == [
        b"", None, bytes(range(256)), b"x" * 300_000,
    ]  # fmt: skip
    assert ids == [str(UUID(bytes=bytes(range(16)))), None]
    assert (integers, floats) == ([1, -(2**31), 2**31 - 1], [0.1, 1790000000.1234567, -3.0])


def test_columns_without_rows_are_empty_in_the_servers_own_format(keeper: Any) -> None:
    none = [form([]) for form in (binary.texts, binary.binaries, binary.uuids, binary.integers, binary.floats)]
    assert binary.execute(keeper, "keep", none)
    assert kept(keeper) == [([], [], [], [], [])]


def test_what_the_server_refuses_is_not_carried_out_and_the_session_goes_on(keeper: Any) -> None:
    assert binary.execute(keeper, "keep", columns())

    assert not binary.execute(keeper, "keep", columns())  # its key is there
    assert not binary.execute(keeper, "nobody_prepared_it", columns())

    assert binary.execute(keeper, "keep", columns(0.2))
    assert len(kept(keeper)) == 2


def test_within_a_transaction_and_without_a_session_nothing_is_carried_out(keeper: Any) -> None:
    keeper.autocommit = False
    assert kept(keeper) == []  # begins one
    assert not binary.execute(keeper, "keep", columns())
    assert kept(keeper) == []
    keeper.close()
    assert not binary.execute(keeper, "keep", columns())


def test_a_session_that_the_server_has_ended_carries_nothing_out_and_psycopg2_says_so(
    keeper: Any, database_uri: str
) -> None:
    with closing(psycopg2.connect(database_uri)) as other, other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 60000)", (keeper.info.backend_pid,))
        assert cursor.fetchone() == (True,)

    assert not binary.execute(keeper, "keep", columns())
    with pytest.raises(psycopg2.OperationalError), keeper.cursor() as cursor:
        cursor.execute("SELECT 1")
