"""The schema `pyfi`: made, brought up to date, and checked against what this program knows.

The migrations are in `db/migrations`, numbered 0001, 0002, …: the newest number is what this program works with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from sqlalchemy import Connection, Engine, text

from pyfi_hpc.db import plain, versions
from pyfi_hpc.db.engine import connect, database_errors, place
from pyfi_hpc.db.versions import MIGRATIONS, revisions

DEFAULT_NETWORK = "default"
_LOCK = 0x70796669_0002


def init(uri: str, grant_to: str | None = None) -> str:
    """Make the schema or bring it up to date, with a network `default`; returns its version.

    `uri` is of a role that may create schemas; `grant_to` is the ordinary role that everything else works as.

    Raises:
        BadInput: E_SCHEMA, it is newer than this program; E_DENIED.
    """
    with _alone(uri) as connection:
        if not connection.scalar(text("SELECT to_regnamespace('pyfi') IS NOT NULL")):
            connection.execute(text("CREATE SCHEMA pyfi"))
        _upgrade(connection)
        connection.execute(
            text("INSERT INTO pyfi.network (name) VALUES (:name) ON CONFLICT DO NOTHING"), {"name": DEFAULT_NETWORK}
        )
        if grant_to is not None:
            _grant(connection, grant_to)
    return revisions()[-1]


def migrate(uri: str) -> str:
    """Bring the schema up to date; returns its version.

    Raises:
        BadInput: E_SCHEMA, there is none, or it is newer than this program.
    """
    with _alone(uri) as connection:
        if _version(connection) is None:
            raise versions.missing(str(connection.engine.url.database))
        _upgrade(connection)
    return revisions()[-1]


def downgrade(uri: str, version: str) -> None:
    """Go back to `version`, or to nothing with "base": what newer versions hold is lost."""
    with _alone(uri) as connection:
        _migrate(connection, "downgrade", version)


def holds(uri: str) -> dict[str, int]:
    """How much would go with the schema: processors, outcomes, and agents that serve now.

    Raises:
        BadInput: E_SCHEMA, there is none.
    """
    with _alone(uri) as connection:
        if _version(connection) is None:
            raise versions.missing(str(connection.engine.url.database))
        row = connection.execute(
            text(
                """SELECT (SELECT count(*) FROM pyfi.processor), (SELECT count(*) FROM pyfi.outcome),
                       (SELECT count(*) FROM pyfi.agent WHERE ended IS NULL AND lease_until > now())"""
            )
        ).one()
    return dict(zip(("processor", "outcome", "live agent"), map(int, row), strict=True))


def drop(uri: str) -> None:
    """Remove the schema and all that is in it. Raises E_SCHEMA where there is none, E_DENIED."""
    with _alone(uri) as connection:
        if _version(connection) is None:
            raise versions.missing(str(connection.engine.url.database))
        connection.execute(text("DROP SCHEMA pyfi CASCADE"))


def version_of(engine: Engine) -> str | None:
    """The schema's version; None where there is no schema of ours."""
    with database_errors(engine), engine.connect() as connection:
        return _version(connection)


def check(engine: Engine) -> None:
    """The schema is the one that this program knows.

    Raises:
        BadInput: E_SCHEMA, with what is to be done.
    """
    versions.check(version_of(engine), place(engine))


@contextmanager
def _alone(uri: str) -> Iterator[Connection]:
    """A transaction in which nobody else changes the schema."""
    engine = connect(uri, pool=1, application="pyfi schema")
    try:
        with database_errors(engine), engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            yield connection
    finally:
        engine.dispose()


def _upgrade(connection: Connection) -> None:
    version = _version(connection)
    if version is not None and version not in revisions():
        raise versions.newer(version)
    _migrate(connection, "upgrade", "head")


def _migrate(connection: Connection, way: Literal["upgrade", "downgrade"], version: str) -> None:
    # not imported above: whoever only checks the version, as every agent does, has no need of it
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    getattr(command, way)(config, version)


def _version(connection: Connection) -> str | None:
    return plain.version(connection.connection.cursor())


def _grant(connection: Connection, role: str) -> None:
    """`role` may read and write every table, those of later migrations too, and change nothing about them."""
    quoted: Callable[[str], str] = connection.dialect.identifier_preparer.quote_identifier
    name, rights = quoted(role), "SELECT, INSERT, UPDATE, DELETE"
    for statement in (
        f"GRANT USAGE ON SCHEMA pyfi TO {name}",
        f"GRANT {rights} ON ALL TABLES IN SCHEMA pyfi TO {name}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA pyfi TO {name}",
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pyfi TO {name}",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA pyfi GRANT {rights} ON TABLES TO {name}",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA pyfi GRANT USAGE ON SEQUENCES TO {name}",
        f"REVOKE INSERT, UPDATE, DELETE ON pyfi.alembic_version FROM {name}",
    ):
        connection.exec_driver_sql(statement)
