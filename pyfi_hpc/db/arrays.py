"""Columns of many rows as Postgres array literals: one text a column costs a fraction of one literal a field.

Source: "Array Input and Output Syntax" in PostgreSQL's manual. Each is to be given as a parameter and cast.
"""

from __future__ import annotations

from collections.abc import Iterable


def texts(values: Iterable[str]) -> str:
    """For `text[]`, any characters but NUL."""
    return "{" + ",".join(['"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values]) + "}"


def words(values: Iterable[str]) -> str:
    """For arrays of an enumeration, whose labels need no quotes."""
    return "{" + ",".join(values) + "}"


def binaries(values: Iterable[bytes | None]) -> str:
    """For `bytea[]`."""
    return "{" + ",".join(["NULL" if value is None else '"\\\\x' + value.hex() + '"' for value in values]) + "}"


def uuids(values: Iterable[bytes | None]) -> str:
    """For `uuid[]`, from 16 bytes each."""
    return "{" + ",".join([value.hex() if value else "NULL" for value in values]) + "}"


def numbers(values: Iterable[float | None]) -> str:
    """For `int[]` and `float8[]`."""
    return "{" + ",".join(["NULL" if value is None else repr(value) for value in values]) + "}"


integers = floats = numbers
