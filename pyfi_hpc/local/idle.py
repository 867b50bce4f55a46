"""Whether anybody still needs the background service."""

from __future__ import annotations

from contextlib import closing

import psycopg2

#: What the service's own sessions and its agent's are called; a client has another one beside its broker's.
_OURS = ("pyfi-agent%", "pyfi broker%", "pyfi-local%")

_QUESTION = """
    SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'
                   AND pid <> pg_backend_pid() AND NOT application_name LIKE ANY (%s)),
        EXISTS (SELECT FROM pyfi.hold WHERE state <> 'DEAD')
        OR EXISTS (SELECT FROM pyfi.broker_message m JOIN pyfi.broker_queue q ON q.id = m.queue
                   WHERE q.name NOT LIKE 'dead.%%'),
        (SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint FROM pg_stat_user_tables
         WHERE schemaname = 'pyfi' AND relname IN ('outcome', 'attempt', 'hold', 'event'))
"""


class Watch:
    """Looks now and then; between two looks the record's counters tell of work that came and went."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._counted: int | None = None

    def busy(self) -> bool:
        """Whether somebody is connected, something waits or runs, or something was done since the last look."""
        connection = psycopg2.connect(self._uri, application_name="pyfi-local", connect_timeout=5)
        with closing(connection), connection, connection.cursor() as cursor:
            cursor.execute(_QUESTION, (list(_OURS),))
            ((connected, waiting, counted),) = cursor.fetchall()
        changed, self._counted = self._counted not in (None, counted), counted
        return bool(connected or waiting or changed)
