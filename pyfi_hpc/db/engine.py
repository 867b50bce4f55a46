"""The way to the control plane's database, and its errors in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pyfi_hpc.config import kinds
from pyfi_hpc.db import guards
from pyfi_hpc.errors import BadInput, DatabaseUnavailable, PyfiError, Unavailable

#: For links that go silent; a unix socket ignores them. Source: libpq, "Parameter Key Words".
_LINK: dict[str, Any] = {
    "connect_timeout": 5,  # seconds, as are the next two
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
}

#: SQLSTATE -> (our code, what to do). Source: PostgreSQL, appendix A.
_REFUSED = {
    "22P02": ("E_CHOICE", None),  # no member of an enum
    "23503": ("E_IN_USE", None),
    "23505": ("E_EXISTS", None),
    "23514": ("E_RANGE", None),
    "3F000": ("E_SCHEMA", "pyfi db init"),
    "42501": ("E_DENIED", "ask an administrator of the database for the right"),
    "42P01": ("E_SCHEMA", "pyfi db init"),
}
_DISK_FULL = "53100"


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
        connect_args={**_LINK, "application_name": application},
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
        raise _away(place(engine), "every session is in use") from error


def translated(error: BaseException | None, where: str) -> BaseException:
    """The error of psycopg2 as one of ours; one that is a fault of ours stays as it is."""
    assert error is not None
    state = getattr(error, "pgcode", None)
    said = str(error).strip().splitlines() or [type(error).__name__]
    if state == guards.SQLSTATE:
        return guards.refusal(error)
    if state == _DISK_FULL:
        return Unavailable("E_STORAGE_FULL", f"the database has no space left: {said[0]}", at=where, cure="pyfi doctor")
    if state in _REFUSED:
        code, cure = _REFUSED[state]
        return BadInput(code, said[0], at=where, cure=cure, field=_field(error))
    if isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
        return _away(where, said[0])
    return error


def _field(error: BaseException) -> str | None:
    diagnostics = getattr(error, "diag", None)
    return diagnostics and (diagnostics.column_name or diagnostics.constraint_name or diagnostics.table_name)


def _away(where: str, reason: str) -> PyfiError:
    return DatabaseUnavailable(
        "E_DB_UNAVAILABLE", "the database does not answer", at=f"{where}: {reason}", cure="pyfi doctor"
    )


def session_user(engine: Engine) -> str:
    """The role that our rows are owned by."""
    with database_errors(engine), engine.connect() as connection:
        return str(connection.scalar(text("SELECT session_user")))


def check_safe(engine: Engine) -> None:
    """The server keeps what it has committed.

    Raises:
        BadInput: E_DB_UNSAFE.
    """
    query = "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY name"
    with database_errors(engine), engine.connect() as connection:
        off = connection.scalars(text(query)).all()
    if off:
        what = f"the database may lose committed rows: {' and '.join(off)} off"
        cure = f"ALTER SYSTEM SET {off[0]} = on; SELECT pg_reload_conf()"
        raise BadInput("E_DB_UNSAFE", what, at=place(engine), cure=cure, field=off[0], value="off")
