"""Passes over a network, on a real database: one agent's pass is the others' as well."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from pyfi_hpc.control.reconcile import reconcile, reconcile_if_due


class Two:
    """Two agents' sessions, and a network of their own."""

    def __init__(self, uri: str) -> None:
        self.connections = [psycopg2.connect(uri) for _ in range(2)]
        self.network = f"n{uuid.uuid4().hex[:8]}"
        self.change("INSERT INTO pyfi.network (name) VALUES (%s)", self.network)

    def change(self, statement: str, *values: object) -> None:
        with self.connections[0] as connection, connection.cursor() as cursor:
            cursor.execute(statement, values)

    def passed(self) -> Any:
        """When the last pass began."""
        with self.connections[0] as connection, connection.cursor() as cursor:
            cursor.execute("SELECT passed FROM pyfi.network WHERE name = %s", (self.network,))
            ((passed,),) = cursor.fetchall()
            return passed

    def look(self, agent: int, wish_seconds: float | None = None) -> float | None:
        """One of them looks; in how many seconds it is to look again."""
        with self.connections[agent] as connection, connection.cursor() as cursor:
            return reconcile_if_due(cursor, self.network, wish_seconds)

    def was(self, seconds: float, took: float = 0.0) -> None:
        """The last pass began so long ago."""
        self.change(
            "UPDATE pyfi.network SET passed = clock_timestamp() - %s * interval '1 second', pass_seconds = %s"
            " WHERE name = %s",
            seconds, took, self.network,
        )  # fmt: skip


@pytest.fixture
def two(database_uri: str) -> Iterator[Two]:
    """With their sessions."""
    made = Two(database_uri)
    with closing(made.connections[0]), closing(made.connections[1]):
        yield made


def test_a_look_of_one_agent_spares_the_others_a_pass(two: Two) -> None:
    assert (two.look(0), two.look(1)) == (None, None)
    two.was(0.5)
    first = two.passed()
    assert two.look(0) is None
    assert two.passed() == first

    two.was(20.0)
    assert two.look(1) is None
    assert two.passed() > first


def test_a_change_that_the_last_pass_has_not_seen_gets_another_one(two: Two) -> None:
    two.was(0.5)
    before = two.passed()
    assert two.look(0, wish_seconds=0.1) is None
    assert two.passed() > before


def test_a_change_that_a_pass_has_seen_gets_none(two: Two) -> None:
    two.was(0.5)
    before = two.passed()
    assert two.look(0, wish_seconds=0.9) is None
    assert two.passed() == before


def test_a_change_right_after_a_long_pass_is_looked_after_within_half_a_second(two: Two) -> None:
    two.was(60.0, took=59.9)
    before = two.passed()
    again = two.look(0, wish_seconds=0.0)
    assert again is not None
    assert 0 < again <= 0.5
    assert two.passed() == before


def test_while_another_agent_makes_a_pass_a_change_waits_for_its_end(two: Two) -> None:
    with two.connections[1].cursor() as cursor:
        reconcile(cursor, two.network)
        again = two.look(0, wish_seconds=0.0)
        assert again is not None
        assert two.look(0) is None, "without a change there is nothing to wait for"
        two.connections[1].commit()
    assert two.passed() is not None


def test_a_pass_says_how_long_it_took_and_is_no_change_of_the_network(two: Two) -> None:
    def row() -> Any:
        with two.connections[0] as connection, connection.cursor() as cursor:
            cursor.execute("SELECT generation, pass_seconds FROM pyfi.network WHERE name = %s", (two.network,))
            return cursor.fetchone()

    (before, _), _ = row(), two.look(0)
    generation, seconds = row()
    assert generation == before
    assert 0 < seconds < 60


def test_many_looks_at_once_are_one_pass(two: Two, database_uri: str) -> None:
    seen: list[Any] = []

    def agent() -> None:
        with closing(psycopg2.connect(database_uri)) as connection:
            for _ in range(20):
                with connection, connection.cursor() as cursor:
                    reconcile_if_due(cursor, two.network)
                    cursor.execute("SELECT passed FROM pyfi.network WHERE name = %s", (two.network,))
                    seen.extend(passed for (passed,) in cursor.fetchall())

    two.was(0.0)
    first = two.passed()
    threads = [threading.Thread(target=agent) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 80
    # one a second at most, however slow this machine is
    spread = (max(seen) - first).total_seconds()
    assert len(set(seen) - {first}) <= spread / 1.0 + 1
