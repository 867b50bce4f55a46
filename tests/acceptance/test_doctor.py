"""`pyfi doctor` names what is wrong, by itself and beside what is right, and what mends it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pyfi_hpc.box.rabbitmq import RabbitMQ
from pyfi_hpc.cli.main import run
from pyfi_hpc.db import engine as engines
from pyfi_hpc.db import schema
from pyfi_hpc.db.embedded import ROLE, EmbeddedPostgres
from pyfi_hpc.doctor.database import Database as Look
from pyfi_hpc.doctor.findings import Mark
from pyfi_hpc.doctor.machine import kind_of_disk, nearest
from pyfi_hpc.doctor.processors import Seen, judged
from pyfi_hpc.wire import blobs
from tests.services.databases import Database, new_database

Examine = Callable[..., tuple[int, list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with our schema."""
    server = EmbeddedPostgres.start(tmp_path_factory.mktemp("doctor"))
    try:
        with new_database(server) as made:
            schema.init(made.admin_uri, grant_to=ROLE)
            yield made
    finally:
        server.remove()


@pytest.fixture
def examine(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Examine:
    """Runs `pyfi doctor -o json …` with settings of the test's own; exit code and findings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PYFI_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PYFI_DATABASE_URI", database.uri)

    def examined(*words: str, **variables: str) -> tuple[int, list[dict[str, Any]]]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            capfd.readouterr()
            code = run(["doctor", "-o", "json", *words])
        return code, json.loads(capfd.readouterr().out)["items"]

    return examined


def seen(findings: list[dict[str, Any]], check: str) -> dict[str, Any]:
    """The one finding of that name."""
    (found,) = [finding for finding in findings if finding["check"] == check]
    return found


def execute(database: Database, statement: str) -> None:
    """Do it as the administrator."""
    with closing(psycopg2.connect(database.admin_uri)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)


def test_where_all_is_well_nothing_is_in_the_way(examine: Examine) -> None:
    code, findings = examine()
    assert code == 0
    assert {finding["mark"] for finding in findings} <= {"✓", "!", "-"}
    good = {finding["check"] for finding in findings if finding["mark"] == "✓"}
    assert good >= {"settings", "database", "schema", "durability", "role", "clock", "broker", "queues", "git", "uv"}
    # nobody serves yet: worth a word, but not wrong
    assert seen(findings, "agents")["mark"] == "!"
    assert seen(findings, "agents")["try"] == "pyfi submit --processor NAME, or here: pyfi agent run --respawn"


def test_where_the_local_service_runs_without_an_agent_its_log_says_why(database: Database, tmp_path: Path) -> None:
    engine = engines.connect(database.uri, pool=1, application="test")
    try:
        look = Look(engine, "default", tmp_path / "local.log")
        list(look.server())
        (agents,) = [finding for finding in look.network() if finding.check == "agents"]
    finally:
        engine.dispose()
    assert agents.mark is Mark.DOUBTFUL and f"tail {tmp_path / 'local.log'}" in (agents.cure or "")


def test_a_stopped_service_is_named_and_the_others_still_looked_at(examine: Examine) -> None:
    code, findings = examine(
        PYFI_DATABASE_URI="postgresql://ana:hunter2@127.0.0.1:1/pyfi",
        PYFI_BROKER_URI="amqp://ana:hunter2@127.0.0.1:2/v",
    )
    assert code == 3
    assert [finding["check"] for finding in findings if finding["mark"] == "✗"] == ["database", "broker"]
    assert "E_DB_UNAVAILABLE" in seen(findings, "database")["seen"]
    assert "Connection refused" in seen(findings, "broker")["seen"]
    assert all(seen(findings, check)["try"] for check in ("database", "broker"))
    assert seen(findings, "git")["mark"] == "✓"
    assert "hunter2" not in json.dumps(findings)


def test_a_quota_of_large_values_is_told_and_so_is_that_it_is_used_up(examine: Examine, tmp_path: Path) -> None:
    _, findings = examine("machine")
    assert "blob quota" not in {finding["check"] for finding in findings}
    blobs.put(tmp_path / "blobs", bytes(2**21))
    for gib, mark in (("1", "✓"), ("0.0021", "!"), ("0.0019", "✗")):
        _, findings = examine("machine", PYFI_PATHS_BLOBS=str(tmp_path / "blobs"), PYFI_PATHS_BLOBS_GIB=gib)
        assert seen(findings, "blob quota")["mark"] == mark, gib
    assert "pyfi config set paths.blobs_gib" in seen(findings, "blob quota")["try"]


def test_an_area_limits_it(examine: Examine) -> None:
    _, findings = examine("db")
    assert [finding["check"] for finding in findings] == ["database", "durability", "role", "clock", "schema"]
    _, findings = examine("broker")
    assert [finding["check"] for finding in findings] == ["broker", "queues"]


def test_a_service_must_not_be_superuser(examine: Examine, database: Database) -> None:
    code, findings = examine("db", PYFI_DATABASE_URI=database.admin_uri)
    assert code == 3
    assert seen(findings, "role")["mark"] == "✗"
    assert "superuser" in seen(findings, "role")["seen"]


def test_a_password_that_others_can_read_is_named(examine: Examine, tmp_path: Path) -> None:
    file = tmp_path / "pyfi.ini"
    file.write_text("[broker]\nuri = amqp://ana:hunter2@host/v\n")
    file.chmod(0o644)
    code, findings = examine()
    assert code == 3
    assert [(finding["check"], finding["try"]) for finding in findings] == [("settings", f"chmod 600 {file}")]
    assert "E_CONFIG_MODE" in findings[0]["seen"]


def test_agents_that_went_silent_and_failed_processors_are_named(examine: Examine, database: Database) -> None:
    execute(
        database,
        """WITH n AS (INSERT INTO pyfi.node (network_id, name, host)
               SELECT id, 'silent', 'silent.example' FROM pyfi.network RETURNING id)
           INSERT INTO pyfi.agent (node_id, pid, cores, version, lease_until)
               SELECT id, 1, '{0}', '1', now() - interval '60 seconds' FROM n""",
    )
    execute(
        database,
        """INSERT INTO pyfi.processor (network_id, name, repository, commit, module)
               SELECT id, 'broken', 'file:///gone', repeat('0', 40), 'm' FROM pyfi.network;
           UPDATE pyfi.processor SET status = 'STARTING';
           UPDATE pyfi.processor SET status = 'FAILED', reason = '{"code": "E_BUILD", "what": "no compiler"}'""",
    )
    code, findings = examine("network")
    execute(database, "TRUNCATE pyfi.node, pyfi.processor CASCADE")
    assert code == 3
    assert re.search(r"has not renewed its lease for [6-9]\d s", seen(findings, "agent")["seen"])
    assert seen(findings, "agent")["try"] == "on silent.example: pyfi agent run --respawn"
    assert seen(findings, "processor")["seen"] == "broken FAILED: no compiler"


def test_a_scheduler_that_nobody_leads_is_named_where_it_has_something_to_do(
    examine: Examine, database: Database
) -> None:
    execute(database, "INSERT INTO pyfi.scheduler (network_id, name) SELECT id, 'sched1' FROM pyfi.network")
    idle = seen(examine("network")[1], "scheduler")
    execute(
        database,
        """INSERT INTO pyfi.node (network_id, name, host, scheduler_id)
               SELECT network_id, 'n1', 'n1', id FROM pyfi.scheduler""",
    )
    code, findings = examine("network")
    execute(database, "UPDATE pyfi.scheduler SET lease_until = now() + interval '1 minute'")
    led = seen(examine("network")[1], "scheduler")
    execute(database, "TRUNCATE pyfi.node, pyfi.scheduler CASCADE")
    assert (idle["mark"], led["mark"]) == ("✓", "✓")
    stopped = seen(findings, "scheduler")
    assert (code, stopped["mark"], stopped["try"]) == (0, "!", "pyfi scheduler start -n sched1")
    assert "nobody leads sched1" in stopped["seen"]


def test_a_processor_that_nobody_runs_is_named_until_somebody_does(examine: Examine, database: Database) -> None:
    execute(
        database,
        """INSERT INTO pyfi.processor
                   (network_id, name, repository, commit, module, shape, wanted_since, requested_status)
               SELECT n.id, v.name, 'file:///here', repeat('0', 40), 'm', v.shape::jsonb, v.since, v.requested
               FROM pyfi.network n, (VALUES
                   ('alone', NULL, now() - interval '1 minute', 'RUNNING'::pyfi.requested_status),
                   ('new', NULL, now(), 'RUNNING'), ('off', NULL, now() - interval '1 minute', 'STOPPED'),
                   ('queued', '{}', now() - interval '1 minute', 'RUNNING'),
                   ('over', '{}', now() - interval '1 minute', 'RUNNING')) AS v (name, shape, since, requested);
           INSERT INTO pyfi.scheduler (network_id, name) SELECT id, 's' FROM pyfi.network;
           INSERT INTO pyfi.job (network_id, scheduler_id, processor_id, token, request, workers, status, ended)
               SELECT p.network_id, s.id, p.id, md5(p.name), '{}', 1,
                   CASE p.name WHEN 'queued' THEN 'PENDING' ELSE 'ENDED' END::pyfi.job_status,
                   CASE p.name WHEN 'over' THEN now() - interval '1 minute' END
               FROM pyfi.processor p, pyfi.scheduler s WHERE p.shape IS NOT NULL""",
    )
    code, alone = examine("network")
    execute(
        database,
        """WITH n AS (INSERT INTO pyfi.node (network_id, name, host)
               SELECT id, 'n1', 'h1' FROM pyfi.network RETURNING id)
           INSERT INTO pyfi.agent (node_id, pid, cores, version, lease_until)
               SELECT id, 1, '{0}', '1', now() + interval '60 seconds' FROM n""",
    )
    _, served = examine("network")
    execute(
        database,
        """INSERT INTO pyfi.worker (processor_id, node_id, agent_id, cores, commit)
               SELECT p.id, a.node_id, a.id, '{0}', p.commit FROM pyfi.processor p, pyfi.agent a
               WHERE p.name IN ('alone', 'over')""",
    )
    _, working = examine("network")
    execute(database, "UPDATE pyfi.agent SET lease_until = now() - interval '1 second'")
    _, lapsed = examine("network")
    execute(database, "TRUNCATE pyfi.scheduler, pyfi.node, pyfi.processor CASCADE")

    assert code == 0
    without = "is wanted RUNNING but has no worker:"
    assert _told(alone) == [
        ("!", f"alone {without} no agent serves this network", "pyfi agent run --respawn"),
        ("!", f"over {without} its last pilot has ended", "another: pyfi proc start over"),
        ("✓", "3 of 5 are as they should be", None),
    ]
    assert _told(served)[0][1] == f"alone {without} no agent of this network has 1 core free"
    assert _told(working) == [("✓", "5 of 5 are as they should be", None)]
    assert _told(lapsed)[0][1] == f"alone {without} no agent serves this network"


def _told(findings: list[dict[str, Any]]) -> list[tuple[str, str, str | None]]:
    """Mark, words and cure of what was said of processors."""
    return [(each["mark"], each["seen"], each["try"]) for each in findings if each["check"].startswith("processor")]


def test_cores_that_this_machine_lacks_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYFI_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PYFI_AGENT_CORES", "9999")
    assert run(["doctor", "settings"]) == 3
    assert "may not use core 9999" in capfd.readouterr().out


def test_a_failed_processor_s_cure_is_what_its_reason_says() -> None:
    (found,) = judged([Seen("p", "RUNNING", "FAILED", {"what": "no module", "try": "-rq numpy"})], "START")
    assert (found.mark, found.seen, found.cure) == (Mark.BAD, "p FAILED: no module", "-rq numpy")
    (found,) = judged([Seen("p", "RUNNING", "FAILED", {"what": "no module", "try": None})], "START")
    assert found.cure == "pyfi show processor p"


@pytest.mark.parametrize(
    ("processor", "why", "cure"),
    [
        (Seen("p", "RUNNING", "STOPPED", host="h1"), "no agent serves node h1", "on h1: START"),
        (Seen("p", "RUNNING", "STOPPED", agents=2), "this network are asked to drain", "pyfi node resume NODE"),
        (
            Seen("p", "RUNNING", "STOPPED", cpus=4, gpus=1, agents=1, accepting=1),
            "has 4 cores and 1 GPU free",
            "pyfi update processor NAME --workers N",
        ),
        (
            Seen("p", "RUNNING", "STOPPED", {"what": "its pilots fail: no account"}, pilots=True),
            "its pilots fail: no account",
            "pyfi proc start p",
        ),
        (Seen("p", "RUNNING", "STOPPED", workers=2, pilots=True), "its scheduler has not sent", "pyfi ls schedulers"),
    ],
)
def test_what_a_processor_without_workers_lacks_is_said(processor: Seen, why: str, cure: str) -> None:
    (found,) = judged([processor], "START")
    assert found.mark is Mark.DOUBTFUL
    assert why in found.seen and cure in (found.cure or "")


@pytest.mark.parametrize(
    ("older", "words"), [(0, "p FAILED: no lib"), (2, "(2 of its workers go on in an older version)")]
)
def test_of_a_failed_processor_it_is_said_who_serves(older: int, words: str) -> None:
    (found,) = judged([Seen("p", "RUNNING", "FAILED", {"what": "no lib"}, older=older)], "START")

    assert found.mark is Mark.BAD and words in found.seen and found.seen.endswith(": no lib")


def test_a_folder_that_cannot_be_written_is_named(examine: Examine, tmp_path: Path) -> None:
    code, findings = examine("machine", PYFI_PATHS_BLOBS="/proc/pyfi/blobs")
    assert code == 3
    assert seen(findings, "blobs")["mark"] == "✗"
    assert nearest(tmp_path / "not" / "there") == tmp_path


def test_the_kind_of_a_disk_is_that_of_the_nearest_mount() -> None:
    mounts = "/dev/a / ext4 rw 0 0\nserver:/x /shared\\040disk nfs4 rw 0 0\n"
    assert kind_of_disk(Path("/shared disk/blobs"), mounts) == "nfs4"
    assert kind_of_disk(Path("/shared"), mounts) == "ext4"


@pytest.mark.slow
def test_queues_of_rabbitmq_are_held_against_what_is_declared(examine: Examine, database: Database) -> None:
    execute(
        database,
        """WITH q AS (INSERT INTO pyfi.queue (network_id, name) SELECT id, 'doctors' FROM pyfi.network RETURNING id)
           INSERT INTO pyfi.task_queue (queue_id, task_key, generation, declared)
               SELECT id, key, 1, now() FROM q, unnest(ARRAY['gone', 'unlike']) AS key""",
    )
    with RabbitMQ() as server:
        unlike = "q.default.doctors.unlike.g1"
        _declare_plainly(server.uri, unlike)
        code, findings = examine("broker", PYFI_BROKER_URI=server.uri, PYFI_BROKER_ACK_TIMEOUT_SECONDS="60")
        _, again = examine("broker", PYFI_BROKER_URI=server.uri)
    execute(database, "TRUNCATE pyfi.queue CASCADE")
    assert code == 3
    assert seen(findings, "broker")["seen"].startswith("RabbitMQ 3.")
    assert seen(findings, "ack timeout")["mark"] == "!" and seen(again, "ack timeout")["mark"] == "✓"
    queues = {finding["mark"]: finding["seen"] for finding in findings if finding["check"] == "queue"}
    assert "was gone" in queues["!"] and "E_QUEUE_MISMATCH" in queues["✗"]
    # the one that was gone stands again
    assert seen(again, "queues")["seen"] == "1 of 2 stand as declared"


def _declare_plainly(uri: str, queue: str) -> None:
    import pika

    with closing(pika.BlockingConnection(pika.URLParameters(uri))) as connection:
        connection.channel().queue_declare(queue, durable=True)
