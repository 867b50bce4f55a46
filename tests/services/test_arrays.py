"""Array literals, read by a real server."""

from __future__ import annotations

from contextlib import closing
from uuid import UUID

import psycopg2

from pyfi_hpc.db import arrays


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
