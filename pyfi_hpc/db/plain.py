"""One session with the control plane's database, for whoever asks it little: it comes without SQLAlchemy.

The errors of psycopg2 in our words are here too, for every other way to the database.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2
from psycopg2.extensions import parse_dsn

from pyfi_hpc import postgres
from pyfi_hpc.db import guards, versions
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.errors import BadInput, DatabaseUnavailable, PyfiError, Unavailable

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


@contextmanager
def session(uri: str, application: str) -> Iterator[Cursor]:
    """A cursor in a transaction of its own, which is undone at the end: for questions.

    Raises:
        DatabaseUnavailable: E_DB_UNAVAILABLE. BadInput: as `translated` has it.
    """
    with translating(place(uri)), closing(postgres.opened(uri, application)) as connection:
        yield connection.cursor()


@contextmanager
def translating(where: str) -> Iterator[None]:
    """Within it, psycopg2's errors are raised as `session` has them; `where` is the database's `place`."""
    try:
        yield
    except psycopg2.Error as error:
        raise translated(error, where) from error


def place(uri: str) -> str:
    """Where the database is, without a password."""
    parts = parse_dsn(postgres.dsn(uri))
    host = parts.get("host", "localhost")
    return str(host if host.startswith("/") else f"{host}:{parts.get('port', 5432)}")


def check_safe(cursor: Cursor, where: str) -> None:
    """The server keeps what it has committed.

    Raises:
        BadInput: E_DB_UNSAFE.
    """
    cursor.execute(
        "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY name"
    )
    off = [row[0] for row in cursor.fetchall()]
    if off:
        what = f"the database may lose committed rows: {' and '.join(off)} off"
        cure = f"ALTER SYSTEM SET {off[0]} = on; SELECT pg_reload_conf()"
        raise BadInput("E_DB_UNSAFE", what, at=where, cure=cure, field=off[0], value="off")


def version(cursor: Cursor) -> str | None:
    """The schema's version; None where there is no schema of ours."""
    cursor.execute("SELECT to_regclass('pyfi.alembic_version') IS NOT NULL")
    if not cursor.fetchone()[0]:
        return None
    cursor.execute("SELECT version_num FROM pyfi.alembic_version")
    row = cursor.fetchone()
    return str(row[0]) if row else None


def check_schema(cursor: Cursor, where: str) -> None:
    """The schema is the one that this program knows.

    Raises:
        BadInput: E_SCHEMA, with what is to be done.
    """
    versions.check(version(cursor), where)


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
        return away(where, said[0])
    return error


def _field(error: BaseException) -> str | None:
    diagnostics = getattr(error, "diag", None)
    return diagnostics and (diagnostics.column_name or diagnostics.constraint_name or diagnostics.table_name)


def away(where: str, reason: str) -> PyfiError:
    return DatabaseUnavailable(
        "E_DB_UNAVAILABLE", "the database does not answer", at=f"{where}: {reason}", cure="pyfi doctor"
    )
