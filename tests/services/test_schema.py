"""The database's schema: made, taken back, held against the models, and its guards against `model.status`."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, text

from pyfi_hpc.box.postgres import Postgres
from pyfi_hpc.cli.main import run
from pyfi_hpc.db import broker_tables, guards, schema, tables, versions
from pyfi_hpc.db.embedded import EmbeddedPostgres
from pyfi_hpc.db.engine import check_safe, connect, database_errors, place, session_user
from pyfi_hpc.errors import BadInput, DatabaseUnavailable, PyfiError
from tests.services.databases import Database, new_database

OBJECTS = ("network", "queue", "processor", "socket", "plug", "node", "agent", "worker")
assert broker_tables  # its tables are part of the models


@pytest.fixture(scope="module")
def database(embedded_postgres: EmbeddedPostgres) -> Iterator[Database]:
    """A database with the newest schema, for the module; every test rolls back what it does."""
    with new_database(embedded_postgres) as made:
        schema.init(made.admin_uri, grant_to="pyfi")
        yield made


@pytest.fixture
def rows(database: Database) -> Iterator[Connection]:
    """A transaction of the ordinary role that is rolled back."""
    engine = connect(database.uri)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def refused(rows: Connection, statement: str, **values: object) -> PyfiError:
    """What the database says to a statement that it must refuse."""
    with pytest.raises(BadInput) as caught, database_errors(rows.engine), rows.begin_nested():
        rows.execute(text(statement), values)
    return caught.value


# the schema as a whole


def differences(engine: Engine) -> list[object]:
    """What a migration would have to change to reach the models."""
    options = {
        "include_schemas": True,
        "version_table_schema": tables.SCHEMA,
        "include_name": lambda name, kind, parents: kind != "schema" or name == tables.SCHEMA,
        "compare_type": True,
    }
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, tables.Base.metadata))


def test_the_migrations_make_the_models_and_take_everything_back(embedded_postgres: EmbeddedPostgres) -> None:
    with new_database(embedded_postgres) as database, database.engine("admin") as engine:
        for _ in range(2):
            assert schema.init(database.admin_uri) == versions.revisions()[-1] == schema.version_of(engine)
            assert differences(engine) == []
            schema.downgrade(database.admin_uri, "base")
            with engine.connect() as connection:
                left = connection.scalars(
                    text(
                        "SELECT relname FROM pg_class WHERE relnamespace = 'pyfi'::regnamespace"
                        " AND relname !~ '^alembic_version' UNION ALL "
                        "SELECT typname FROM pg_type WHERE typnamespace = 'pyfi'::regnamespace AND typtype = 'e'"
                        " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'pyfi'::regnamespace"
                    )
                ).all()
            assert left == []
            assert schema.version_of(engine) is None


#: What a database says of schema `pyfi`, one thing a row; Alembic looks at neither checks nor conditions of indexes.
SHAPE = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull::text,
        pg_get_expr(d.adbin, d.adrelid)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'pyfi'::regnamespace AND c.relkind = 'r' AND c.relname <> 'alembic_version'
    UNION ALL SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', ''
    FROM pg_constraint WHERE connamespace = 'pyfi'::regnamespace AND conrelid <> 'pyfi.alembic_version'::regclass
    UNION ALL SELECT tablename, indexname, indexdef, '', ''
    FROM pg_indexes WHERE schemaname = 'pyfi' AND tablename <> 'alembic_version'
    UNION ALL SELECT t.typname, e.enumlabel, e.enumsortorder::text, '', ''
    FROM pg_type t JOIN pg_enum e ON e.enumtypid = t.oid WHERE t.typnamespace = 'pyfi'::regnamespace
    UNION ALL SELECT sequencename, data_type::text, '', '', '' FROM pg_sequences WHERE schemaname = 'pyfi'
"""


def shape(engine: Engine) -> set[tuple[str, ...]]:
    """Every column, constraint, index, enum value and sequence of ours."""
    with engine.connect() as connection:
        return {tuple(row) for row in connection.execute(text(SHAPE))}


def test_the_models_alone_would_make_the_same_database(embedded_postgres: EmbeddedPostgres) -> None:
    with new_database(embedded_postgres) as database, database.engine("admin") as engine:
        schema.init(database.admin_uri)
        migrated = shape(engine)
        schema.downgrade(database.admin_uri, "base")
        tables.Base.metadata.create_all(engine)
        assert shape(engine) == migrated


def test_defaults_of_the_models_are_those_of_the_database(database: Database) -> None:
    query = text(
        "SELECT table_name, column_name, column_default FROM information_schema.columns"
        " WHERE table_schema = 'pyfi' AND column_default IS NOT NULL"
    )
    with database.engine("admin") as engine, engine.connect() as connection:
        have = {(row[0], row[1]) for row in connection.execute(query)}
    want = {
        (table.name, column.name)
        for table in tables.Base.metadata.tables.values()
        for column in table.columns
        if column.server_default is not None and column.identity is None
    }
    assert have == want


def test_a_second_init_changes_nothing(database: Database) -> None:
    schema.init(database.admin_uri, grant_to="pyfi")
    with database.engine() as engine, engine.connect() as connection:
        assert connection.scalars(text("SELECT name FROM pyfi.network")).all() == [schema.DEFAULT_NETWORK]


def test_a_database_without_our_schema_is_refused_with_the_way_to_make_it(embedded_postgres: EmbeddedPostgres) -> None:
    with new_database(embedded_postgres) as database, database.engine() as engine:
        for refuse in (lambda: schema.check(engine), lambda: schema.migrate(database.admin_uri)):
            with pytest.raises(BadInput) as caught:
                refuse()
            assert (caught.value.code, caught.value.cure) == ("E_SCHEMA", "pyfi db init")


def test_a_schema_that_is_dropped_is_gone_and_can_be_made_anew(embedded_postgres: EmbeddedPostgres) -> None:
    with new_database(embedded_postgres) as database, database.engine() as engine:
        schema.init(database.admin_uri, grant_to="pyfi")
        with pytest.raises(BadInput) as refused:
            schema.drop(database.uri)
        assert refused.value.code == "E_DENIED" and schema.version_of(engine) is not None
        assert run(["-d", database.admin_uri, "db", "drop"]) == 2  # nobody is there to be asked
        assert schema.version_of(engine) is not None
        assert run(["-d", database.admin_uri, "db", "drop", "--yes"]) == 0
        assert schema.version_of(engine) is None
        with pytest.raises(BadInput, match="E_SCHEMA"):
            schema.drop(database.admin_uri)
        assert schema.init(database.admin_uri) == versions.revisions()[-1]


def test_an_older_schema_is_refused_until_it_is_migrated(embedded_postgres: EmbeddedPostgres) -> None:
    with new_database(embedded_postgres) as database, database.engine("admin") as engine:
        schema.init(database.admin_uri, grant_to="pyfi")
        schema.downgrade(database.admin_uri, "0001")
        with pytest.raises(BadInput) as caught:
            schema.check(engine)
        assert (caught.value.code, caught.value.cure) == ("E_SCHEMA", "pyfi db migrate")

        schema.migrate(database.admin_uri)

        schema.check(engine)
        with database.engine() as ordinary, ordinary.connect() as connection:
            # a table that a later migration made is the ordinary role's too
            connection.execute(text("SELECT * FROM pyfi.broker_queue"))


def test_a_newer_schema_is_refused_and_left_alone(embedded_postgres: EmbeddedPostgres) -> None:
    with new_database(embedded_postgres) as database, database.engine("admin") as engine:
        schema.init(database.admin_uri)
        with engine.begin() as connection:
            connection.execute(text("UPDATE pyfi.alembic_version SET version_num = '9999'"))
        for refuse in (lambda: schema.check(engine), lambda: schema.init(database.admin_uri)):
            with pytest.raises(BadInput) as caught:
                refuse()
            assert caught.value.code == "E_SCHEMA"
            assert "upgrade pyfi" in str(caught.value.cure)
        assert schema.version_of(engine) == "9999"


def test_the_ordinary_role_cannot_change_the_schema(rows: Connection) -> None:
    for statement in (
        "CREATE TABLE pyfi.mine (x int)",
        "DROP TABLE pyfi.outcome",
        "TRUNCATE pyfi.outcome",
        "UPDATE pyfi.alembic_version SET version_num = '0001'",
        "ALTER TABLE pyfi.outcome DISABLE TRIGGER ALL",
    ):
        assert refused(rows, statement).code == "E_DENIED"


# the guards


def test_the_database_knows_the_transitions_of_the_model(rows: Connection) -> None:
    stored = rows.scalar(text("SELECT prosrc FROM pg_proc WHERE oid = 'pyfi.may_become'::regproc"))
    assert stored == guards.transitions_sql(), "status.py has changed: add a migration that replaces pyfi.may_become"
    for kind, ways in guards.TRANSITIONS.items():
        for was, wanted in itertools.product(ways, ways):
            allowed = rows.scalar(text("SELECT pyfi.may_become(:kind, :was, :wanted)"), locals())
            assert allowed is (wanted in ways[was]), (kind, was, wanted)


def processor(rows: Connection, **values: object) -> uuid.UUID:
    """A processor's row; its id."""
    given = {"status": "STOPPED", "requested_status": "RUNNING"} | values
    statement = """INSERT INTO pyfi.processor (network_id, name, repository, commit, module, status, requested_status)
        SELECT id, :name, 'file:///r', repeat('a', 40), 'm', CAST(:status AS pyfi.processor_status),
            CAST(:requested_status AS pyfi.requested_status) FROM pyfi.network RETURNING id"""
    identity = rows.scalar(text(statement), {"name": f"p{uuid.uuid4().hex[:8]}", **given})
    assert isinstance(identity, uuid.UUID)
    return identity


@pytest.mark.parametrize("column", ["status", "requested_status"])
def test_a_processor_goes_only_where_the_table_says(rows: Connection, column: str) -> None:
    ways = guards.TRANSITIONS[f"processor.{column}"]
    for was, wanted in itertools.product(ways, ways):
        one = processor(rows, **{column: was.value})
        change = f"UPDATE pyfi.processor SET {column} = '{wanted}' WHERE id = :id"
        if wanted is was or wanted in ways[was]:
            rows.execute(text(change), {"id": one})
        else:
            error = refused(rows, change, id=one)
            assert (error.code, error.facts["field"]) == ("E_BAD_TRANSITION", column)
            assert f"{was} to {wanted}" in error.what


def test_a_status_that_does_not_exist_is_refused(rows: Connection) -> None:
    one = processor(rows)
    assert (
        refused(rows, "UPDATE pyfi.processor SET requested_status = 'RUNING' WHERE id = :id", id=one).code == "E_CHOICE"
    )


def worker(rows: Connection, status: str) -> uuid.UUID:
    """A worker's row with all that it needs; its id."""
    host = f"h{uuid.uuid4().hex[:8]}"
    node = rows.scalar(
        text("INSERT INTO pyfi.node (network_id, name, host) SELECT id, :host, :host FROM pyfi.network RETURNING id"),
        {"host": host},
    )
    agent = rows.scalar(
        text(
            "INSERT INTO pyfi.agent (node_id, pid, cores, version, lease_until)"
            " VALUES (:node, 1, '{0}', '1', now()) RETURNING id"
        ),
        {"node": node},
    )
    statement = """INSERT INTO pyfi.worker (processor_id, node_id, agent_id, cores, commit, status)
        VALUES (:processor, :node, :agent, '{0}', repeat('a', 40), CAST(:status AS pyfi.worker_status)) RETURNING id"""
    values = {"processor": processor(rows), "node": node, "agent": agent, "status": status}
    identity = rows.scalar(text(statement), values)
    assert isinstance(identity, uuid.UUID)
    return identity


def test_a_worker_goes_only_where_the_table_says(rows: Connection) -> None:
    ways = guards.TRANSITIONS["worker.status"]
    for was, wanted in itertools.product(ways, ways):
        change = f"UPDATE pyfi.worker SET status = '{wanted}' WHERE id = :id"
        one = worker(rows, was.value)
        if wanted is was or wanted in ways[was]:
            rows.execute(text(change), {"id": one})
        else:
            assert refused(rows, change, id=one).code == "E_BAD_TRANSITION"


def outcome(rows: Connection, status: str) -> uuid.UUID:
    """An outcome's row; its id."""
    identity = uuid.uuid4()
    statement = """INSERT INTO pyfi.outcome (owner, id, status, value)
        VALUES ('ana', :id, CAST(:status AS pyfi.outcome_status), 'v')"""
    rows.execute(text(statement), {"id": identity, "status": status})
    return identity


@pytest.mark.parametrize("was", ["SUCCEEDED", "FAILED", "CANCELLED", "DEAD"])
def test_a_result_for_a_finished_invocation_is_fenced(rows: Connection, was: str) -> None:
    one = outcome(rows, was)
    for change in ("status = 'SUCCEEDED', value = 'w'", "value = 'w'", "error = 'e'", "serial = 7", "routes = 'r'"):
        error = refused(rows, f"UPDATE pyfi.outcome SET {change} WHERE id = :id", id=one)
        assert error.code == "E_FENCED"
        assert str(one) in error.what


def test_retention_clears_the_value_of_an_outcome_and_nothing_else(rows: Connection) -> None:
    one = outcome(rows, "SUCCEEDED")
    rows.execute(text("UPDATE pyfi.outcome SET value = NULL WHERE id = :id"), {"id": one})
    change = "UPDATE pyfi.outcome SET value = NULL, serial = 2 WHERE id = :id"
    assert refused(rows, change, id=one).code == "E_FENCED"


def test_only_a_dead_invocation_is_reopened_and_then_takes_a_result(rows: Connection) -> None:
    for was in ("SUCCEEDED", "FAILED", "CANCELLED"):
        change = "UPDATE pyfi.outcome SET status = 'REOPENED' WHERE id = :id"
        assert refused(rows, change, id=outcome(rows, was)).code == "E_BAD_TRANSITION"
    one = outcome(rows, "DEAD")
    for change in ("status = 'REOPENED', serial = 4", "status = 'SUCCEEDED', value = 'w', serial = 4"):
        rows.execute(text(f"UPDATE pyfi.outcome SET {change} WHERE id = :id"), {"id": one})
    assert refused(rows, "UPDATE pyfi.outcome SET value = 'x' WHERE id = :id", id=one).code == "E_FENCED"


def test_the_ordinary_role_never_deletes_an_outcome(rows: Connection) -> None:
    for status in ("SUCCEEDED", "DEAD", "REOPENED"):
        one = outcome(rows, status)
        assert refused(rows, "DELETE FROM pyfi.outcome WHERE id = :id", id=one).code == "E_DENIED"


def test_an_owner_never_changes(rows: Connection) -> None:
    one = processor(rows)
    error = refused(rows, "UPDATE pyfi.processor SET owner = 'eve' WHERE id = :id", id=one)
    assert (error.code, error.facts["field"]) == ("E_DENIED", "owner")
    made = outcome(rows, "SUCCEEDED")
    assert refused(rows, "UPDATE pyfi.outcome SET owner = 'eve' WHERE id = :id", id=made).code == "E_DENIED"


def test_every_table_with_an_owner_guards_it_and_every_object_counts_its_changes(rows: Connection) -> None:
    query = text(
        "SELECT c.relname, t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
        " WHERE c.relnamespace = 'pyfi'::regnamespace AND NOT t.tgisinternal AND t.tgenabled = 'O'"
    )
    have = {(row[0], row[1]) for row in rows.execute(query)}
    owned = {table.name for table in tables.Base.metadata.tables.values() if "owner" in table.columns}
    assert owned >= set(OBJECTS)
    assert {(name, "guard_owner") for name in owned} <= have
    assert {(name, "touch") for name in OBJECTS} <= have


def test_the_generation_counts_what_is_wanted_and_not_what_is_seen(rows: Connection) -> None:
    one = processor(rows)

    def generation(change: str) -> object:
        statement = f"UPDATE pyfi.processor SET {change} WHERE id = :id RETURNING generation, updated"
        return rows.execute(text(statement), {"id": one}).one()[0]

    for seen in ("status = 'STARTING'", "reason = '{}'", "observed_generation = 1", "failures = 2", "retry_at = now()"):
        assert generation(seen) == 1
    assert generation("workers = 2") == 2
    assert generation("workers = 2") == 2
    assert generation("requested_status = 'STOPPED', restarts = 1") == 3
    assert generation("generation = 99") == 3


# the engine


@pytest.mark.parametrize(
    ("uri", "code", "words"),
    [
        ("mysql://ana:secret@db/pyfi", "E_DB_URI", "mysql"),
        ("sqlite:///x", "E_DB_URI", "sqlite"),
        ("", "E_DB_URI", "database.uri"),
        ("postgresql://ana:secret@db:70000/pyfi", "E_RANGE", "port 70000"),
        ("postgresql://ana:secret@db:0/pyfi", "E_RANGE", "port 0"),
        ("postgresql://ana:secret@db:abc/pyfi", "E_RANGE", "port abc"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_its_password(uri: str, code: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        connect(uri)
    assert caught.value.code == code
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_database_that_is_away_is_named_without_its_password() -> None:
    engine = connect("postgresql+psycopg2://ana:secret@127.0.0.1:1/pyfi")
    with pytest.raises(DatabaseUnavailable) as caught:
        session_user(engine)
    assert caught.value.code == "E_DB_UNAVAILABLE"
    assert "127.0.0.1:1" in str(caught.value.at)
    assert "secret" not in str(caught.value)


def test_a_terminated_session_is_unavailable_once_and_then_replaced(database: Database) -> None:
    with database.engine() as engine, database.engine("admin") as admin:
        with pytest.raises(DatabaseUnavailable), database_errors(engine), engine.connect() as connection:
            pid = connection.scalar(text("SELECT pg_backend_pid()"))
            with admin.connect() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
            connection.execute(text("SELECT 1"))
        assert session_user(engine) == "pyfi"


def test_the_place_of_a_socket_is_its_folder(database: Database, embedded_postgres: EmbeddedPostgres) -> None:
    with database.engine() as engine:
        assert place(engine) == str(embedded_postgres.socket_dir)
        assert session_user(engine) == "pyfi"


def test_a_server_that_may_lose_committed_rows_is_refused(embedded_postgres: EmbeddedPostgres) -> None:
    with new_database(embedded_postgres) as database, database.engine() as engine:
        check_safe(engine)
    with Postgres(options={"fsync": "off"}) as server:
        engine = connect(server.uri())
        with pytest.raises(BadInput) as caught:
            check_safe(engine)
        engine.dispose()
    assert caught.value.code == "E_DB_UNSAFE"
    assert "fsync" in caught.value.what
