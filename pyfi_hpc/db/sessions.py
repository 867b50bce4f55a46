"""Sessions with the database that hold up nobody for long: neither one that stalls nor one that was cut off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import psycopg2.extensions

from pyfi_hpc import postgres

#: The server ends a session whose client lets a transaction wait for so long: it holds what others need, the row of a
#: scheduler's lease above all.
IDLE_SECONDS = 10
#: What is raised where the session is gone.
LOST = (psycopg2.OperationalError, psycopg2.InterfaceError, psycopg2.errors.IdleInTransactionSessionTimeout)


@contextmanager
def _readable() -> Iterator[None]:
    """What the server seems to say is no text: whatever came over the link, the session is of no use any more."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise psycopg2.OperationalError(f"the server's words cannot be read: {error}") from error


class _Cursor(psycopg2.extensions.cursor):
    def execute(self, *statement: Any) -> Any:
        with _readable():
            return super().execute(*statement)


class _Connection(psycopg2.extensions.connection):
    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        return super().cursor(*args, **{"cursor_factory": _Cursor, **kwargs})

    def commit(self) -> None:
        with _readable():
            super().commit()


def opened(uri: str, name: str, *, patient: bool = False) -> Any:
    """A new connection that the server lists as `name`; a `patient` one may wait in a transaction.

    Raises what psycopg2 raises.
    """
    limit = "" if patient else f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'"
    with _readable():
        return postgres.opened(uri, name, also=limit, connection_factory=_Connection)
