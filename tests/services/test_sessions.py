"""Sessions with the database: none keeps from others what it has locked and does nothing with."""

from __future__ import annotations

from contextlib import closing

import psycopg2
import pytest

from pyfi_hpc.client.link import Link
from pyfi_hpc.db import sessions
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


@pytest.mark.parametrize("patient", [True, False])
def test_the_server_soon_notices_a_client_that_was_cut_off(database_uri: str, patient: bool) -> None:
    opened = sessions.opened(database_uri, "test", patient=patient)
    with closing(opened), opened.cursor() as cursor:
        cursor.execute("SELECT current_setting('tcp_keepalives_idle')::int, inet_client_addr() IS NULL")
        # a unix socket has none
        assert cursor.fetchone() in [(5, False), (0, True)]
