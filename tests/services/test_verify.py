"""The invariant checker is only worth something if it sees what is wrong: each breach is planted and must be found."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pyfi_hpc import verify
from pyfi_hpc.db import schema
from pyfi_hpc.db.embedded import ROLE, EmbeddedPostgres
from pyfi_hpc.errors import BadInput
from pyfi_hpc.wire import blobs, messages, values
from pyfi_hpc.wire.ids import call_digest, child_id, id_text, new_id
from pyfi_hpc.wire.messages import Route
from tests.services.databases import new_database
from tests.support import eventually

ROUTE = Route(new_id(), b"edge", new_id(), 1, "q.default.next", "key")


@pytest.fixture(scope="module")
def uri(embedded_postgres: EmbeddedPostgres) -> Iterator[str]:
    """The administrator's address of a database with our schema, to plant in it what nobody else could."""
    with new_database(embedded_postgres) as database:
        schema.init(database.admin_uri, grant_to=ROLE)
        yield database.admin_uri


@pytest.fixture
def record(uri: str) -> Iterator[Any]:
    """A connection to a record that is empty before and after."""
    with closing(psycopg2.connect(uri)) as connection:
        yield connection
        with connection, connection.cursor() as cursor:
            cursor.execute("TRUNCATE pyfi.outcome, pyfi.hold, pyfi.processor, pyfi.node CASCADE")


def outcome(
    record: Any,
    identity: bytes | None = None,
    *,
    status: str = "SUCCEEDED",
    value: bytes | None = b"\x01",
    digest: bytes | None = None,
    routes: tuple[Route, ...] = (),
    owner: str = "pyfi",
) -> bytes:
    """Put an outcome on record; its id."""
    known = identity or new_id()
    stored = value if status == "SUCCEEDED" else None
    with record, record.cursor() as cursor:
        cursor.execute(
            "INSERT INTO pyfi.outcome (owner, id, status, value, digest, routes) VALUES (%s, %s::uuid, %s, %s, %s, %s)",
            (owner, known.hex(), status, stored, digest, messages.encode(routes) if routes else None),
        )
    return known


def hold(record: Any, identity: bytes, state: str, *, hours: float = 0.0, owner: str = "pyfi") -> None:
    """Put a hold row on record, due in so many hours."""
    with record, record.cursor() as cursor:
        cursor.execute(
            "INSERT INTO pyfi.hold (owner, id, state, due, serial, payload, exchange, key)"
            " VALUES (%s, %s::uuid, %s, now() + make_interval(secs => %s), 1, 'x', 'e', 'k')",
            (owner, identity.hex(), state, hours * 3600),
        )


def test_a_whole_record_is_fine(record: Any) -> None:
    ids = [outcome(record), outcome(record, status="FAILED"), outcome(record, status="CANCELLED")]
    dead = outcome(record, status="DEAD")
    hold(record, dead, "DEAD")

    report = verify.check(record, [*ids, dead])

    assert report.ok
    assert report.lines == ["sent 4  done 4  lost 0  recorded twice 0"]


def test_an_accepted_id_without_outcome_is_lost(record: Any) -> None:
    there, missing = outcome(record), new_id()
    report = verify.check(record, [there, missing])
    assert not report.ok
    assert report.line == "sent 2  done 1  lost 1  recorded twice 0"
    assert report.problems == [f"I1: 1 accepted ids have no outcome: {id_text(missing)}"]


def test_a_reopened_outcome_is_not_done(record: Any) -> None:
    reopened = outcome(record, status="DEAD")
    with record, record.cursor() as cursor:
        cursor.execute("UPDATE pyfi.outcome SET status = 'REOPENED'")
    assert verify.check(record, [reopened]).lost == 1


def test_an_id_that_was_recorded_twice_is_seen_where_nothing_forbids_it(record: Any) -> None:
    identity = outcome(record)
    with record, record.cursor() as cursor:
        cursor.execute("ALTER TABLE pyfi.outcome DROP CONSTRAINT pk_outcome")
    outcome(record, identity)

    report = verify.check(record, [identity])

    assert (report.ok, report.twice) == (False, 1)
    assert report.line == "sent 1  done 1  lost 0  recorded twice 1"
    with record, record.cursor() as cursor:
        cursor.execute("TRUNCATE pyfi.outcome")
        cursor.execute("ALTER TABLE pyfi.outcome ADD CONSTRAINT pk_outcome PRIMARY KEY (owner, id)")


def test_the_same_id_of_two_owners_is_two_calls(record: Any) -> None:
    identity = outcome(record, owner="ana")
    outcome(record, identity, owner="ben")
    assert verify.check(record, [identity]).ok
    assert verify.check(record, [identity], owner="ana").ok
    assert verify.check(record, [identity], owner="eve").lost == 1


def test_a_value_other_than_expected_is_found(record: Any) -> None:
    right, wrong = outcome(record, value=b"\x05"), outcome(record, value=b"\x06")
    report = verify.check(record, [right, wrong], known={right: b"\x05", wrong: b"\x05"})
    assert report.problems == [f"I1: 1 outcomes have another value than was expected: {id_text(wrong)}"]


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (b"\x2a", None),
        (b"\x2b", "I2: 1 children carry another value than their parent committed"),
        (None, "I2: 1 children of committed outcomes have no outcome"),
    ],
)
def test_children_carry_what_their_parent_committed(record: Any, sent: bytes | None, problem: str | None) -> None:
    parent = outcome(record, value=b"\x2a", routes=(ROUTE,))
    if sent is not None:
        digest = call_digest(ROUTE.socket, values.arguments_of(sent))
        outcome(record, child_id(parent, ROUTE.edge), digest=digest)

    problems = verify.check(record).problems

    assert [line.partition(": ")[2].partition(": ")[0] for line in problems] == (
        [problem.partition(": ")[2]] if problem else []
    )


@pytest.mark.parametrize(("state", "invariant"), [("DUE", "I4"), ("OUT", "I4"), ("LEASED", "I5")])
def test_a_hold_row_that_is_left_is_found(record: Any, state: str, invariant: str) -> None:
    identity = outcome(record)
    hold(record, identity, state)
    assert verify.check(record).problems == [f"{invariant}: 1 hold rows are {state}: {id_text(identity)}"]


def test_a_call_that_is_to_start_later_is_counted_and_is_no_breach(record: Any) -> None:
    done, delayed = outcome(record), new_id()
    hold(record, delayed, "DUE", hours=1)

    for accepted in (None, [done, delayed]):
        report = verify.check(record, accepted)
        assert (report.ok, report.quiet) == (True, False)
        assert report.line == "sent 2  done 1  waiting 1  lost 0  recorded twice 0"
        assert report.lines[0].startswith("calls that wait for their time: 1, the last until 2")
    assert verify.check(record, [done]).line == "sent 1  done 1  waiting 1  lost 0  recorded twice 0"


def test_a_reopened_call_waits_like_another(record: Any) -> None:
    reopened = outcome(record, status="DEAD")
    with record, record.cursor() as cursor:
        cursor.execute("UPDATE pyfi.outcome SET status = 'REOPENED'")
    hold(record, reopened, "DUE", hours=1)
    assert verify.check(record, [reopened]).line == "sent 1  done 0  waiting 1  lost 0  recorded twice 0"


@pytest.mark.parametrize(("state", "hours"), [("DUE", -1), ("OUT", 1), ("LEASED", 1)])
def test_only_what_is_due_later_may_wait(record: Any, state: str, hours: float) -> None:
    identity = new_id()
    hold(record, identity, state, hours=hours)
    report = verify.check(record, [identity])
    assert (report.ok, report.lost, report.waiting) == (False, 1, 0)


def test_a_call_that_is_under_way_leaves_the_verdict_open(record: Any) -> None:
    running, queued = new_id(), new_id()
    hold(record, running, "LEASED", hours=1)

    report = verify.check(record, [running, queued])

    assert (report.ok, report.unsettled) == (False, True)
    assert report.line == "sent 2  done 0  open 2  recorded twice 0"
    # what no call under way can explain is a breach all the same
    wrong = outcome(record)
    report = verify.check(record, [running, wrong], known={wrong: b"\x05"})
    assert (report.ok, report.unsettled) == (False, False)
    # and so is all that is missing once nothing is under way
    with record, record.cursor() as cursor:
        cursor.execute("DELETE FROM pyfi.hold")
    assert not verify.check(record, [queued]).unsettled


def test_a_hold_row_of_a_decided_call_that_goes_at_its_time_is_counted_and_is_no_breach(record: Any) -> None:
    early = outcome(record)
    hold(record, early, "DUE", hours=1)
    report = verify.check(record, [early])
    assert (report.ok, report.quiet) == (True, False)
    assert report.lines == [
        "hold rows of decided calls, which go at their time: 1",
        "sent 1  done 1  lost 0  recorded twice 0",
    ]


def test_a_call_of_one_owner_does_not_wait_for_another(record: Any) -> None:
    identity = new_id()
    hold(record, identity, "DUE", hours=1, owner="ana")
    assert verify.check(record, [identity], owner="ana").lost == 0
    assert verify.check(record, [identity], owner="ben").lost == 1


def test_a_child_may_wait_as_well(record: Any) -> None:
    parent = outcome(record, value=b"\x2a", routes=(ROUTE,))
    hold(record, child_id(parent, ROUTE.edge), "DUE", hours=1)
    report = verify.check(record)
    assert (report.ok, report.waiting) == (True, 1)


def test_what_is_kept_as_dead_must_be_dead(record: Any) -> None:
    identity = outcome(record)
    hold(record, identity, "DEAD")
    assert "I4: 1 invocations are kept as dead" in verify.check(record).problems[0]


def test_blobs_are_there_and_whole(record: Any, tmp_path: Path) -> None:
    reference = blobs.put(tmp_path, b"content")
    outcome(record, value=values.encode_blob(reference.digest, reference.size))
    assert verify.check(record, blob_dir=tmp_path).ok

    blobs.path_of(tmp_path, reference.digest).write_bytes(b"changed")
    assert verify.check(record, blob_dir=tmp_path).problems[0].startswith("I8: 1 blobs are missing")

    blobs.path_of(tmp_path, reference.digest).unlink()
    assert not verify.check(record, blob_dir=tmp_path).ok


def test_a_process_of_an_ended_worker_is_found(record: Any) -> None:
    stray = subprocess.Popen(
        [sys.executable, "-c", "input()", "pyfi_hpc.worker", "--parent", "4711"], stdin=subprocess.PIPE
    )
    try:
        _worker_row(record, stray.pid, 4711)
        report = verify.check(record, host="here")
        assert report.problems == [f"I6: processes of ended workers still run: {stray.pid}"]
        assert verify.check(record, host="elsewhere").ok
    finally:
        stray.communicate(b"\n")
    eventually(lambda: verify.check(record, host="here").ok)


def _worker_row(record: Any, pid: int, agent: int) -> None:
    """A worker that has ended, on host `here`, with its agent."""
    with record, record.cursor() as cursor:
        cursor.execute(
            """WITH network AS (SELECT id FROM pyfi.network WHERE name = 'default'),
            node AS (
                INSERT INTO pyfi.node (network_id, name, host) SELECT id, 'here', 'here' FROM network RETURNING id
            ),
            processor AS (
                INSERT INTO pyfi.processor (network_id, name, repository, commit, module)
                SELECT id, 'p', '/r', repeat('0', 40), 'm' FROM network RETURNING id
            ),
            agent AS (
                INSERT INTO pyfi.agent (node_id, pid, cores, version, lease_until)
                SELECT id, %s, '{0}', '', now() FROM node RETURNING id, node_id
            )
            INSERT INTO pyfi.worker (processor_id, node_id, agent_id, cores, pid, commit)
            SELECT processor.id, agent.node_id, agent.id, '{0}', %s, repeat('0', 40) FROM processor, agent""",
            (agent, pid),
        )
        cursor.execute("UPDATE pyfi.worker SET status = 'EXITED'")


def test_a_list_of_accepted_ids_is_read_up_to_its_torn_last_line(tmp_path: Path) -> None:
    one, two = new_id(), new_id()
    log = tmp_path / "accepted"
    log.write_text(f"{id_text(one)}\n{two.hex()}\n0198c7a2-4f")
    assert verify.read_accepted(log) == {one, two}
    log.write_text("no id\n")
    with pytest.raises(BadInput) as refused:
        verify.read_accepted(log)
    assert refused.value.code == "E_ID"
