"""Databases of a test's own on a server that many tests share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import psycopg2
from sqlalchemy import Engine

from pyfi_hpc.db.embedded import ADMIN, DATABASE, ROLE, EmbeddedPostgres
from pyfi_hpc.db.engine import connect


@dataclass(frozen=True)
class Database:
    """One database: `uri` for the ordinary role, `admin_uri` for migrations."""

    uri: str
    admin_uri: str

    @contextmanager
    def engine(self, role: str = "ordinary") -> Iterator[Engine]:
        """An engine for "ordinary" or "admin"."""
        engine = connect(self.admin_uri if role == "admin" else self.uri)
        try:
            yield engine
        finally:
            engine.dispose()


@contextmanager
def new_database(server: EmbeddedPostgres) -> Iterator[Database]:
    """An empty database, gone afterwards."""
    name = f"test_{uuid.uuid4().hex[:10]}"
    _run(server, f"CREATE DATABASE {name}")
    try:
        yield Database(*(server.uri(role).replace(f"/{DATABASE}?", f"/{name}?") for role in (ROLE, ADMIN)))
    finally:
        _run(server, f"DROP DATABASE {name} WITH (FORCE)")


def _run(server: EmbeddedPostgres, statement: str) -> None:
    with closing(psycopg2.connect(server.uri(ADMIN))) as connection:
        connection.autocommit = True
        connection.cursor().execute(statement)
