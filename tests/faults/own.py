"""Sites on services of their own, which a test may kill, stall or cut; and work that goes on meanwhile."""

from __future__ import annotations

import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg2

from pyfi_hpc.box.postgres import ADMIN, ROLE, Postgres
from pyfi_hpc.db import schema
from pyfi_hpc.db.account import server_account
from tests.site import Site


@contextmanager
def site_on(
    postgres: Postgres, home: Path, broker_uri: str = "", *, tablespace: str = "pg_default", **variables: str
) -> Iterator[Site]:
    """A site with a database of its own on `postgres`. Its client is patient: faults here last some seconds."""
    name = f"test_{uuid.uuid4().hex[:10]}"
    as_admin(postgres, f"CREATE DATABASE {name} TABLESPACE {tablespace}")
    schema.init(postgres.uri(ADMIN, name), grant_to=ROLE)
    site = Site(home, postgres.uri(ROLE, name), broker_uri, {"PYFI_CLIENT_CONNECT_SECONDS": "60", **variables})
    try:
        yield site
    finally:
        site.close()


@contextmanager
def small_tablespace(postgres: Postgres, folder: Path, mib: int) -> Iterator[Path]:
    """A tablespace `small` on a disk of `mib` MiB, which is the folder; its databases are dropped in the end."""
    account = server_account(("postgres", "nobody"))
    folder.mkdir()
    options = f"size={mib}m,mode=0700,uid={account.uid},gid={account.gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        as_admin(postgres, f"CREATE TABLESPACE small LOCATION '{folder}'")
        yield folder
    finally:
        held = "SELECT datname FROM pg_database JOIN pg_tablespace t ON t.oid = dattablespace WHERE spcname = 'small'"
        for (name,) in asked(postgres, held):
            as_admin(postgres, f"DROP DATABASE {name} WITH (FORCE)")
        as_admin(postgres, "DROP TABLESPACE IF EXISTS small")
        subprocess.run(["umount", str(folder)], check=True)


def asked(postgres: Postgres, query: str) -> list[tuple[Any, ...]]:
    """What the server's superuser is answered."""
    with closing(psycopg2.connect(postgres.uri(ADMIN, "postgres"))) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def as_admin(postgres: Postgres, statement: str, *values: object) -> None:
    """Have the server's superuser do something."""
    with closing(psycopg2.connect(postgres.uri(ADMIN, "postgres"))) as connection:
        connection.autocommit = True
        connection.cursor().execute(statement, values or None)


def change(site: Site, statement: str, *values: object) -> int:
    """Change rows of the site's database; how many."""
    with closing(psycopg2.connect(site.database_uri)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, values or None)
        return int(cursor.rowcount)


class Load:
    """Submits small lots of calls of `p.work` until it is left; `futures` are those accepted, `errors` what was raised.

    Each call's input is its number, so its value is twice that.
    """

    def __init__(self, site: Site, seconds: float = 0.0, lot: int = 20) -> None:
        self._site, self._seconds, self._lot = site, seconds, lot
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.futures: list[Any] = []
        self.errors: list[BaseException] = []

    def _run(self) -> None:
        while not self._enough.wait(0.02):
            first = len(self.futures)
            inputs = [(first + number, str(self._site.runs), self._seconds) for number in range(self._lot)]
            try:
                self.futures += self._site.submit("p.work", inputs)
            except Exception as error:  # whatever it is, the test says so
                self.errors.append(error)
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._enough.set()
        self._thread.join(90)
        assert not self._thread.is_alive(), "a submit hangs"

    def all_right(self, timeout: float = 60.0) -> None:
        """No submit failed, and every call accepted has its value."""
        assert self.errors == []
        values = [future.result(timeout=timeout) for future in self.futures]
        assert values == [2 * number for number in range(len(values))]
