"""Installations that are large in one way, each beside a small one on the same servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import psycopg2

from benchmarks.pyfi import BenchSite
from pyfi_hpc.box.postgres import ADMIN, ROLE, Postgres
from pyfi_hpc.client.client import Client

#: New queues are waited for until they are old enough: so many at a time.
AT_ONCE = 16
QUEUES, WORKERS, ROWS = 100, 64, 10_000_000


@dataclass(frozen=True)
class Kind:
    """`furnish` makes a site of a size, and returns the sockets to call; `many` is the size of the large one."""

    few: int
    many: int
    furnish: Callable[[BenchSite, Postgres, int], list[str]]


def _queues(site: BenchSite, postgres: Postgres, size: int) -> list[str]:
    """A processor with two workers and so many sockets, each on a queue of its own."""
    site.client.network.add_processor(name="p", gitrepo=site.repository, module="tasks", workers=2)

    def add(number: int) -> str:
        # a client of its own: one has two sessions with the database, and a queue is waited for within a transaction
        with Client(site.settings) as client:
            client.network.add_queue(name=f"{site.queue}.{number}")
            client.network.add_socket(name=f"p.s{number}", queue=f"{site.queue}.{number}", processor="p", task="double")
        return f"p.s{number}"

    with ThreadPoolExecutor(AT_ONCE) as pool:
        sockets = list(pool.map(add, range(size)))
    site.agent()
    site.ready(2, timeout=120)
    return sockets


def _workers(site: BenchSite, postgres: Postgres, size: int) -> list[str]:
    """So many processors of one worker each, all with the same task on the same queue: they share its calls."""
    network = site.client.network
    for number in range(size):
        network.add_processor(name=f"p{number}", gitrepo=site.repository, module="tasks", workers=1)
        network.add_socket(name=f"p{number}.double", queue=site.queue, processor=f"p{number}", task="double")
    site.agent()
    site.ready(size, timeout=240)
    return ["p0.double"]


def _rows(site: BenchSite, postgres: Postgres, size: int) -> list[str]:
    """Two workers, and so many outcomes on record, as a month would leave them: ids that begin with their time."""
    sockets = _queues(site, postgres, 1)
    if size:
        # the superuser: the same rows without the triggers' look at each
        name = site.database_uri.rpartition("/")[2]
        with closing(psycopg2.connect(postgres.uri(ADMIN, name))) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute("SET session_replication_role = replica; SET synchronous_commit = off")
            cursor.execute(_FILL, {"owner": ROLE, "rows": size, "now": int(1000 * time.time())})
            cursor.execute("VACUUM (ANALYZE) pyfi.outcome")
            cursor.execute("CHECKPOINT")
    return sockets


#: The id as `wire.ids.new_id` makes it: 48 bits of milliseconds, then chance.
_FILL = """
    INSERT INTO pyfi.outcome (owner, id, status, value, digest, socket_id, serial, started, ended, committed)
    SELECT %(owner)s,
        (lpad(to_hex(%(now)s - (%(rows)s - n) * 2592000000 / %(rows)s), 12, '0')
            || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid,
        'SUCCEEDED', '\\x02', decode(md5(n::text), 'hex'), s.id, 1, t.at, t.at, t.at
    FROM generate_series(1::bigint, %(rows)s) AS n,
        LATERAL (SELECT now() - (%(rows)s - n) * interval '30 days' / %(rows)s) AS t (at),
        (SELECT id FROM pyfi.socket LIMIT 1) AS s
"""

KINDS: Mapping[str, Kind] = {
    "queues": Kind(1, QUEUES, _queues),
    "workers": Kind(1, WORKERS, _workers),
    "rows": Kind(0, ROWS, _rows),
}
