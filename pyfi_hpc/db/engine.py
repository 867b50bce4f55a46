"""The way to the control plane's database, and its errors in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pyfi_hpc import postgres
from pyfi_hpc.config import kinds
from pyfi_hpc.db import plain
from pyfi_hpc.db.plain import away, translated
from pyfi_hpc.errors import BadInput


def connect(uri: str, *, pool: int = 2, application: str = "pyfi") -> Engine:
    """An engine for the database at `uri`, with up to `pool` sessions; nothing is opened yet.

    Raises:
        BadInput: E_DB_URI, another scheme than postgresql; E_RANGE, its port. A password is not shown.
    """
    try:
        address = kinds.database_uri(uri)
    except kinds.Unfit as error:
        raise BadInput.of(error.code, "database.uri", error.value, error.what) from None
    if not address:
        raise BadInput.of("E_DB_URI", "database.uri", "", cure="postgresql://USER@HOST/DATABASE")
    return create_engine(
        address.replace("postgresql:", "postgresql+psycopg2:", 1),
        pool_size=pool,
        max_overflow=0,
        pool_pre_ping=True,
        creator=lambda: postgres.opened(address, application),
    )


def place(engine: Engine) -> str:
    """Where the database is, without a password."""
    url = engine.url
    host = url.host or url.query.get("host") or "localhost"
    return str(host) if str(host).startswith("/") else f"{host}:{url.port or url.query.get('port') or 5432}"


@contextmanager
def database_errors(engine: Engine) -> Iterator[None]:
    """Inside, what the database says is raised as ours.

    Raises:
        DatabaseUnavailable: E_DB_UNAVAILABLE. Unavailable: E_STORAGE_FULL.
        BadInput: what a guard or a constraint refuses (`guards`), E_SCHEMA, E_DENIED.
    """
    try:
        yield
    except DBAPIError as error:
        raise translated(error.orig, place(engine)) from error
    except psycopg2.Error as error:
        raise translated(error, place(engine)) from error
    except PoolTimeout as error:
        raise away(place(engine), "every session is in use") from error


def session_user(engine: Engine) -> str:
    """The role that our rows are owned by."""
    with database_errors(engine), engine.connect() as connection:
        return str(connection.scalar(text("SELECT session_user")))


def check_safe(engine: Engine) -> None:
    """The server keeps what it has committed.

    Raises:
        BadInput: E_DB_UNSAFE.
    """
    with database_errors(engine), closing(engine.raw_connection()) as connection:
        plain.check_safe(connection.cursor(), place(engine))
