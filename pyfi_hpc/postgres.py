"""Sessions with Postgres whose ends notice within seconds that the other one is gone without a word."""

from __future__ import annotations

from typing import Any

import psycopg2

#: The client's end; a unix socket ignores all but the first. Source: libpq, "Parameter Key Words".
LINK: dict[str, Any] = {
    "connect_timeout": 5,  # seconds, as are the next two
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
}
#: The server's end: its own time is two hours, for which it would keep a session and what that has locked. A unix
#: socket ignores it. Source: PostgreSQL, "TCP Settings".
SERVER_LINK = (
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3;"
    " SET tcp_user_timeout = 10000"
)


def dsn(uri: str) -> str:
    """The address as libpq reads it."""
    return uri.replace("postgresql+psycopg2:", "postgresql:", 1)


def opened(uri: str, name: str, *, also: str = "", **options: Any) -> Any:
    """A new connection that the server lists as `name`, not in a transaction; `also` is said to the server at once.

    `options` are psycopg2's. Raises what psycopg2 raises.
    """
    connection = psycopg2.connect(dsn(uri), application_name=name, **LINK, **options)
    # in a transaction it would be undone with that, and options of the connection's start are refused by poolers
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"{SERVER_LINK}; {also}" if also else SERVER_LINK)
    connection.autocommit = False
    return connection
