"""Sessions with the database: none keeps from others what it has locked and does nothing with."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

import psycopg2
import pytest

from pyfi_hpc.box.postgres import ADMIN, Postgres
from pyfi_hpc.brokers.postgres import session as broker_session
from pyfi_hpc.client.link import Link
from pyfi_hpc.db import engine, plain, sessions
from pyfi_hpc.db.record import Cursor
from tests.support import eventually

LOCK = 77_001


def test_a_client_that_stalls_within_a_transaction_loses_what_it_holds_and_does_it_again(
    database_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "IDLE_SECONDS", 1)
    tries = 0

    def stalls(cursor: Cursor) -> int:
        nonlocal tries
        tries += 1
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        if tries == 1:
            eventually(is_free, timeout=20)
        cursor.execute("SELECT")
        return tries

    def is_free() -> bool:
        with closing(psycopg2.connect(database_uri)) as other, other, other.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", (LOCK,))
            return cursor.fetchone() == (True,)

    link = Link(database_uri, "test", 10.0)
    with closing(link):
        assert link.run(stalls) == 2


@contextmanager
def _of_engine(uri: str) -> Iterator[Any]:
    pool = engine.connect(uri)
    with closing(pool.raw_connection()) as connection:
        yield connection.cursor()
    pool.dispose()


def _of_broker(uri: str) -> Any:
    return closing(broker_session.opened(uri, "test").cursor())


@pytest.mark.parametrize(
    "opened",
    [
        lambda uri: closing(sessions.opened(uri, "test").cursor()),
        lambda uri: closing(sessions.opened(uri, "test", patient=True).cursor()),
        lambda uri: plain.session(uri, "test"),
        _of_engine,
        _of_broker,
    ],
    ids=["an agent's", "a patient one", "for a question", "of a pool", "of the embedded broker"],
)
def test_each_end_of_a_session_soon_notices_that_the_other_is_gone(
    postgres: Postgres, opened: Callable[[str], AbstractContextManager[Any]]
) -> None:
    with opened(postgres.uri(ADMIN, "postgres")) as cursor:
        cursor.execute(
            "SELECT name, setting FROM pg_settings WHERE name LIKE 'tcp_keepalives_%' OR name = 'tcp_user_timeout'"
        )
        assert dict(cursor.fetchall()) == {
            "tcp_keepalives_idle": "5",
            "tcp_keepalives_interval": "2",
            "tcp_keepalives_count": "3",
            "tcp_user_timeout": "10000",
        }
        ours = socket.socket(fileno=os.dup(cursor.connection.fileno()))
        with ours:
            asked = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
            assert [ours.getsockopt(socket.IPPROTO_TCP, option) for option in asked] == [5, 2, 3, 10_000]


def test_a_transaction_that_fails_takes_nothing_of_that_back(postgres: Postgres) -> None:
    connection = sessions.opened(postgres.uri(ADMIN, "postgres"), "test")
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        connection.rollback()
        cursor.execute("SHOW idle_in_transaction_session_timeout")
        assert cursor.fetchone() == ("10s",)
