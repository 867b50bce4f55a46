"""Retention and forget (RELIABILITY 1.16) on a real Postgres, and what an agent refuses to start on."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from pika import frame, spec

from pyfi_hpc.box.postgres import Postgres
from pyfi_hpc.cli.main import run as command_line
from pyfi_hpc.client.client import Client
from pyfi_hpc.control import retention
from pyfi_hpc.control.retention import Keep, Step
from pyfi_hpc.db import schema
from pyfi_hpc.db.embedded import ROLE, EmbeddedPostgres
from pyfi_hpc.errors import BadInput
from pyfi_hpc.wire import blobs, values
from pyfi_hpc.wire.values import BlobRef
from tests.services.client_support import execute, settings_with
from tests.services.databases import Database, new_database
from tests.site import Site
from tests.support import eventually

KEEP = Keep(outcomes_days=30, events_days=90)


@pytest.fixture(scope="module")
def shared(embedded_postgres: EmbeddedPostgres) -> Iterator[Database]:
    """A database with our schema."""
    with new_database(embedded_postgres) as made:
        schema.init(made.admin_uri, grant_to=ROLE)
        yield made


@pytest.fixture
def database(shared: Database) -> Database:
    """The same, with nothing in it but its network."""
    execute(
        shared.admin_uri,
        f"""TRUNCATE pyfi.outcome, pyfi.attempt, pyfi.hold, pyfi.event, pyfi.node, pyfi.queue, pyfi.processor,
                pyfi.broker_message, pyfi.broker_queue, pyfi.broker_consumer CASCADE;
            GRANT EXECUTE ON FUNCTION pyfi.remove_keys TO {ROLE}""",
    )
    return shared


def outcome(database: Database, days: float, *, value: bytes | None = b"\xc0", cleared: float | None = None) -> str:
    """An outcome that was committed so many days ago (and lost its value then); its id."""
    identity = str(uuid.uuid4())
    execute(
        database.admin_uri,
        """INSERT INTO pyfi.outcome (owner, id, status, value, committed, cleared)
           VALUES ('pyfi', %s, 'SUCCEEDED', %s, now() - %s * interval '1 day', now() - %s * interval '1 day')""",
        (identity, value, days, cleared),
    )
    return identity


def held(database: Database, identity: str, payload: bytes = b"") -> None:
    """A dead hold row of that id."""
    execute(
        database.uri,
        """INSERT INTO pyfi.hold (owner, id, state, serial, payload, exchange, key)
           VALUES ('pyfi', %s, 'DEAD', 1, %s, '', '')""",
        (identity, payload),
    )


def kept(database: Database) -> dict[str, bool]:
    """Id -> whether its value is still there."""
    return dict(execute(database.uri, "SELECT id::text, value IS NOT NULL FROM pyfi.outcome"))


def clean(database: Database, keep: Keep = KEEP, most: int = 2) -> int:
    """A whole pass as the ordinary role; how many batches it took."""
    at: Step | None = Step()
    batches = 0
    with closing(psycopg2.connect(database.uri)) as connection:
        while at is not None:
            with connection, connection.cursor() as cursor:
                at = retention.step(cursor, keep, at, most)
            batches += 1
            assert batches < 100
    return batches


# rows


def test_a_value_goes_after_its_days_and_its_key_a_week_later(database: Database) -> None:
    young, old = outcome(database, 29), [outcome(database, 31) for _ in range(5)]
    gone, late = outcome(database, 38, value=None, cleared=8), outcome(database, 60)
    failed, bare = outcome(database, 36, value=None), outcome(database, 38, value=None)
    soon = outcome(database, 60, value=None, cleared=6)

    clean(database)

    assert kept(database) == {young: True, **dict.fromkeys([*old, late, failed, soon], False)}
    assert not {gone, bare} & kept(database).keys()
    # what was cleared late stays for a week from then
    assert execute(
        database.uri, "SELECT cleared > now() - interval '1 minute' FROM pyfi.outcome WHERE id = %s", (late,)
    )


def test_a_hold_row_keeps_the_key_and_does_not_stop_the_others(database: Database) -> None:
    # more of them than a batch has, some committed in one instant
    execute(
        database.admin_uri,
        """INSERT INTO pyfi.outcome (owner, id, status, committed)
           SELECT 'pyfi', gen_random_uuid(), 'DEAD', now() - interval '50 days' FROM generate_series(1, 5)""",
    )
    dead = kept(database)
    for identity in dead:
        held(database, identity)
    for _ in range(3):
        outcome(database, 45, value=None)

    clean(database)

    assert kept(database) == dead


def test_events_and_attempts_go_after_their_own_days(database: Database) -> None:
    for days in (89, 91, 92, 93):
        identity = str(uuid.uuid4())
        execute(
            database.uri,
            "INSERT INTO pyfi.event (at, kind, what) VALUES (now() - %s * interval '1 day', 'x', 'y')",
            (days,),
        )
        # one that ended, and one whose agent died with it
        for serial, column in enumerate(("ended", "started")):
            execute(
                database.uri,
                f"""INSERT INTO pyfi.attempt (owner, id, serial, status, {column})
                    VALUES ('pyfi', %s, %s, 'STARTED', now() - %s * interval '1 day')""",
                (identity, serial, days),
            )

    clean(database)

    assert execute(database.uri, "SELECT count(*) FROM pyfi.event") == [(1,)]
    assert execute(database.uri, "SELECT count(*) FROM pyfi.attempt") == [(2,)]


def test_one_agent_at_a_time(database: Database) -> None:
    outcome(database, 31)
    with closing(psycopg2.connect(database.uri)) as busy, busy.cursor() as cursor:
        assert retention.step(cursor, KEEP, Step(), 1) == Step()
        assert clean(database) == 1  # sees the lock, and is over


@pytest.mark.parametrize("age", ["7 days 23 hours", "0", "-1 month", None])
def test_the_database_refuses_to_remove_young_keys(database: Database, age: str | None) -> None:
    identity = outcome(database, 7.99, value=None)
    with pytest.raises(psycopg2.Error, match="E_RANGE"):
        execute(database.uri, "SELECT * FROM pyfi.remove_keys(%s, '-infinity', 10)", (age,))
    execute(database.uri, "SELECT * FROM pyfi.remove_keys('8 days', '-infinity', 10)")
    assert identity in kept(database)


def test_only_that_function_removes_and_only_for_who_was_granted_it(database: Database) -> None:
    outcome(database, 100, value=None)
    with pytest.raises(psycopg2.Error, match="E_DENIED"):
        execute(database.uri, "DELETE FROM pyfi.outcome")
    with pytest.raises(psycopg2.Error, match="E_FENCED"):
        execute(database.uri, "UPDATE pyfi.outcome SET cleared = now() - interval '9 days'")
    granted = "SELECT has_function_privilege(%s, 'pyfi.remove_keys(interval, timestamptz, integer)', 'EXECUTE')"
    assert execute(database.admin_uri, granted, (ROLE,)) == [(True,)]
    assert execute(database.admin_uri, granted, ("pg_monitor",)) == [(False,)]
    # a temporary table of the caller's does not stand in for ours
    with closing(psycopg2.connect(database.uri)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE hold (owner text, id uuid)")
        cursor.execute("SELECT removed FROM pyfi.remove_keys('8 days', '-infinity', 10)")
        assert cursor.fetchall() == [(1,)]


def test_a_role_that_was_granted_before_the_migration_may_clean_too(database: Database) -> None:
    schema.downgrade(database.admin_uri, "0002")
    schema.migrate(database.admin_uri)
    outcome(database, 100, value=None)
    clean(database)
    assert kept(database) == {}


# forget


@pytest.fixture
def client(database: Database, tmp_path: Path) -> Iterator[Client]:
    """A client of that database."""
    with Client(settings_with(database.uri, tmp_path)) as made:
        yield made


def test_a_forgotten_value_is_an_error_and_its_id_stays_used(database: Database, site: Site) -> None:
    site.processor("double", "follow", workers=1)
    site.agent()
    site.ready()
    chosen = uuid.uuid4()
    first = site.client.submit("p.double", 21, id=chosen)
    assert first.result(30) == 42

    with pytest.raises(BadInput) as unconfirmed:
        refused(site, "forget", first.id)
    assert unconfirmed.value.code == "E_CONFIRM"
    assert site.client.forget(first.id) == [{"id": first.id, "forgotten": True, "status": "SUCCEEDED"}]
    assert site.client.forget(first.id) == [{"id": first.id, "forgotten": False, "status": "SUCCEEDED"}]

    for again in (site.client.future(chosen), site.client.submit("p.double", 21, id=chosen)):
        with pytest.raises(BadInput) as caught:
            again.result(10)
        assert caught.value.code == "E_FORGOTTEN"
    with pytest.raises(BadInput) as other:
        site.client.submit("p.follow", 1, id=chosen)
    assert other.value.code == "E_ID_CONFLICT"
    assert site.rows("SELECT count(*) FROM pyfi.event WHERE what = '1 forgotten'") == [(1,)]


def refused(site: Site, *words: str) -> None:
    """What the command line refuses, as an error."""
    from pyfi_hpc.cli.main import pyfi

    with pyfi.make_context("pyfi", ["-d", site.database_uri, *words]) as context:
        pyfi.invoke(context)


def test_nothing_is_forgotten_of_what_is_not_decided(client: Client) -> None:
    identity = str(uuid.uuid4())
    assert client.forget(identity) == [{"id": identity, "forgotten": False, "status": "QUEUED"}]


def test_what_is_to_be_forgotten_or_cancelled_is_named_by_its_future_or_its_id(client: Client) -> None:
    identity = uuid.uuid4()
    by_id = client.forget(identity)
    assert by_id == client.forget(str(identity)) == client.forget(client.future(identity))
    assert by_id[0]["id"] == str(identity)
    for given in ([str(identity)], (identity,), 7, None):
        wrong: Any = given
        for act in (client.forget, client.cancel):
            with pytest.raises(BadInput, match=r"E_ID(?s:.*)one by one"):
                act(wrong)


def test_the_command_forgets(database: Database, capfd: pytest.CaptureFixture[str]) -> None:
    identity = outcome(database, 1)
    assert command_line(["-d", database.uri, "forget", identity, "-y", "-o", "json"]) == 0
    assert '"forgotten": true' in capfd.readouterr().out
    assert kept(database) == {identity: False}


# blobs


def blob(folder: Path, content: bytes, days: float) -> BlobRef:
    """A blob that nobody has written for so many days."""
    reference = blobs.put(folder, content)
    then = time.time() - days * 86_400
    os.utime(blobs.path_of(folder, reference.digest), (then, then))
    return reference


def test_a_blob_goes_once_nothing_refers_to_it(database: Database, tmp_path: Path) -> None:
    names = ("value", "forgotten", "held", "young", "nobody")
    found = {name: blob(tmp_path, name.encode(), 36 if name == "young" else 38) for name in names}
    outcome(database, 1, value=values.encode_blob(*found["value"]))
    forgotten = outcome(database, 1, value=values.encode_blob(*found["forgotten"]))
    arguments = values.encode_arguments((1, [found["held"]]), {})
    held(database, outcome(database, 1, value=None), b"around " + arguments + b" it")
    with closing(psycopg2.connect(database.uri)) as connection, connection, connection.cursor() as cursor:
        assert len(retention.forget(cursor, [("pyfi", uuid.UUID(forgotten).bytes)])) == 1

    def connect() -> Any:
        return psycopg2.connect(database.uri)

    done = retention.collect_blobs(tmp_path, connect, KEEP)

    assert done is not None and done.blobs == 2
    left = {name for name, each in found.items() if blobs.path_of(tmp_path, each.digest).exists()}
    assert left == {"value", "held", "young"}
    # the folder's next turn is in an hour
    assert retention.collect_blobs(tmp_path, connect, KEEP) is None


def test_a_folder_of_two_databases_is_left_alone(
    database: Database, embedded_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    reference = blob(tmp_path, b"theirs", 400)
    with new_database(embedded_postgres) as other:
        schema.init(other.admin_uri, grant_to=ROLE)
        with closing(psycopg2.connect(other.uri)) as connection, connection.cursor() as cursor:
            assert retention.claim(cursor, tmp_path)
    assert retention.collect_blobs(tmp_path, lambda: psycopg2.connect(database.uri), KEEP) is None
    assert blobs.path_of(tmp_path, reference.digest).exists()


# the agent


@pytest.fixture
def site(database: Database) -> Iterator[Site]:
    """An installation on the embedded broker."""
    home = Path(tempfile.mkdtemp(prefix="pyfi-site-"))
    made = Site(home, database.uri, variables={"PYFI_RETENTION_OUTCOMES_DAYS": "1", "PYFI_RETENTION_EVENTS_DAYS": "1"})
    yield made
    made.close()
    shutil.rmtree(home, ignore_errors=True)


def test_an_agent_cleans_up_beside_its_work(database: Database, site: Site) -> None:
    execute(
        database.admin_uri,
        """INSERT INTO pyfi.outcome (owner, id, status, value, committed)
           SELECT 'pyfi', gen_random_uuid(), 'SUCCEEDED', 'v', now() - interval '2 days'
           FROM generate_series(1, 250)""",
    )
    removed, young = outcome(database, 9, value=None), outcome(database, 0.5)
    execute(database.uri, "INSERT INTO pyfi.event (at, kind, what) VALUES (now() - interval '2 days', 'old', 'x')")
    reference = blob(site.settings.blob_dir, b"nobody's", 9)
    site.processor("double", workers=1)
    site.agent()

    assert [each.result(30) for each in site.submit("p.double", range(50))] == [2 * x for x in range(50)]

    eventually(lambda: not blobs.path_of(site.settings.blob_dir, reference.digest).exists(), timeout=20)
    assert execute(database.uri, "SELECT count(*) FROM pyfi.outcome WHERE value IS NULL") == [(250,)]
    assert removed not in kept(database)
    assert kept(database)[young]
    assert execute(database.uri, "SELECT count(*) FROM pyfi.event WHERE kind = 'old'") == [(0,)]


def test_what_the_database_refuses_does_not_end_the_agent(database: Database, site: Site) -> None:
    execute(database.admin_uri, f"REVOKE EXECUTE ON FUNCTION pyfi.remove_keys FROM {ROLE}")
    site.processor("double", workers=1)
    agent = site.agent()
    eventually(lambda: "retention cannot go on" in agent.log.read_text(), timeout=20)
    (future,) = site.submit("p.double", [4])
    assert future.result(30) == 8


def started(arguments: tuple[str, ...], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """An agent that is expected to refuse."""
    command = [sys.executable, "-P", "-m", "pyfi_hpc.agent.main", "--host", "host1", *arguments]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=30)


def test_an_agent_refuses_a_database_that_may_lose_rows_unless_told(tmp_path: Path) -> None:
    with Postgres(options={"fsync": "off"}) as server:
        variables = {"PYFI_DATABASE_URI": server.uri(), "PYFI_HOME": str(tmp_path)}
        refusal = started((), variables)
        assert (refusal.returncode, "E_DB_UNSAFE" in refusal.stderr) == (2, True)
        # told so it goes on, to find that there is no schema
        assert "E_SCHEMA" in started(("--unsafe",), variables).stderr


def old_broker(listener: socket.socket) -> None:
    """Opens one connection as RabbitMQ 3.9 does: a version that cannot be had here."""
    link, _ = listener.accept()
    with link:
        properties = {"product": "RabbitMQ", "version": "3.9.29", "capabilities": {}}
        # what is waited for: the protocol's header, then methods of class 10 (connection) by their numbers
        turns = {
            b"AMQP": spec.Connection.Start(server_properties=properties, mechanisms=b"PLAIN", locales=b"en_US"),
            bytes((0, 10, 0, 11)): spec.Connection.Tune(channel_max=10, frame_max=131_072, heartbeat=0),
            bytes((0, 10, 0, 40)): spec.Connection.OpenOk(),
            bytes((0, 10, 0, 50)): spec.Connection.CloseOk(),
        }
        for awaited, answer in turns.items():
            heard = b""
            while awaited not in heard:
                heard += link.recv(65_536)
            link.sendall(frame.Method(0, answer).marshal())


def test_an_agent_refuses_a_broker_that_is_too_old(database: Database, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=old_broker, args=(listener,), daemon=True).start()
        uri = f"amqp://ana:x@127.0.0.1:{listener.getsockname()[1]}/"
        variables = {"PYFI_DATABASE_URI": database.uri, "PYFI_BROKER_URI": uri, "PYFI_HOME": str(tmp_path)}
        refusal = started((), variables)
    assert (refusal.returncode, "E_BROKER_VERSION" in refusal.stderr) == (2, True), refusal.stderr
    assert "3.9.29" in refusal.stderr
