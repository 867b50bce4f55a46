"""Calls that start later, that must start by a time, or that may run for so long: real agents, both brokers."""

from __future__ import annotations

import asyncio
import datetime
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from pyfi_hpc import AsyncClient
from pyfi_hpc.brokers.base import Publication
from pyfi_hpc.cli.main import run
from pyfi_hpc.errors import BadInput, Cancelled, Dead, RemoteError, WaitTimeout
from pyfi_hpc.wire import messages, values
from pyfi_hpc.wire.ids import call_digest, new_id
from pyfi_hpc.wire.messages import Call, Message
from tests.site import Site, embedded_broker_only
from tests.support import eventually

LONG = 3600.0


@pytest.fixture
def pyfi(site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """The command line at that site: exit code, what it prints, what it says."""
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)

    def typed(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(words)
        said = capfd.readouterr()
        return code, said.out, said.err

    yield typed


def starts(site: Site) -> dict[str, float]:
    """Invocation id -> UTC seconds at which the attempt began that made its outcome."""
    rows = site.rows("SELECT id, extract(epoch FROM started)::float8 FROM pyfi.outcome WHERE started IS NOT NULL")
    return {str(identity): began for identity, began in rows}


def test_a_call_starts_and_ends_within_the_times_that_it_was_given(site: Site, pyfi: Any) -> None:
    """All at once, since an agent takes its time to start: delays, deadlines and time limits, also as typed."""
    runs = str(site.runs)
    site.processor("work", "never_ends", workers=2, retries=0)
    client = site.client
    began = time.time()
    # nobody runs anything yet: deadlines pass in the queue
    late = client.submit("p.work", 1, runs, deadline=time.time() + 0.2)
    code, out, _ = pyfi("call", "p.work", "2", json.dumps(runs), "--deadline", "0.2", "--no-wait")
    assert code == 0
    late_as_typed = client.future(out.strip())
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=4)
    timed = client.submit("p.work", 3, runs, at=at, deadline=at + datetime.timedelta(seconds=LONG))
    assert timed.status == "WAITING"
    delayed = client.submit("p.work", 4, runs, delay=4.0)
    assert delayed.status == "WAITING"
    code, out, _ = pyfi("call", "p.work", "5", json.dumps(runs), "--delay", "4s", "--no-wait")
    delayed_as_typed = client.future(out.strip())
    waits = [timed, delayed, delayed_as_typed]
    site.accepted += [each.id for each in (late, late_as_typed, *waits)]
    eventually(lambda: time.time() > began + 0.5)

    site.agent()
    site.ready()
    endless = client.submit("p.never_ends", 6, runs, timeout=0.3)
    site.accepted.append(endless.id)
    code, _, err = pyfi("call", "p.never_ends", "7", json.dumps(runs), "--time-limit", "0.3", "--timeout", "60")
    assert (code, "timeout" in err) == (1, True)

    for each in (late, late_as_typed):
        error = each.exception(60)
        assert isinstance(error, RemoteError)
        assert error.code == "E_TIMEOUT"
        assert each.status == "FAILED"
    assert isinstance(endless.exception(60), Dead)
    assert site.causes(endless) == ["timeout"]
    assert [each.result(60) for each in waits] == [6, 8, 10]
    site.quiet()
    # what was late never ran, all else ran once; nothing ran before its time
    ran = site.executions()
    assert {each.id for each in (late, late_as_typed)}.isdisjoint(ran)
    assert {ran[each.id] for each in (*waits, endless)} == {1}
    assert all(starts(site)[each.id] >= began + 4.0 for each in waits)
    listed = {row["id"]: row for row in client.operations.invocations(100)}
    assert [listed[each.id]["status"] for each in (late, endless, timed)] == ["FAILED", "DEAD", "SUCCEEDED"]
    assert (listed[late.id]["code"], listed[timed.id]["error"], listed[timed.id]["node"]) == (
        "E_TIMEOUT",
        None,
        "host1",
    )
    assert len(client.operations.invocations(1)) == 1


@embedded_broker_only
def test_a_call_that_waits_can_be_listed_waited_for_and_cancelled(site: Site, pyfi: Any) -> None:
    site.processor("double")
    future = site.client.submit("p.double", 1, delay=LONG)
    known = site.client.future(future.id[-10:])
    with pytest.raises(WaitTimeout):
        known.result(0.05)

    code, out, _ = pyfi("ls", "invocations", "-o", "json")
    (row,) = json.loads(out)["items"]
    due = datetime.datetime.fromisoformat(row["due"])
    assert (code, row["id"], row["socket"], row["status"]) == (0, future.id, "p.double", "WAITING")
    assert LONG - 60 < (due - datetime.datetime.now(datetime.UTC)).total_seconds() <= LONG
    code, _, err = pyfi("wait", future.id, "--timeout", "1.2")
    assert code == 4
    assert f"WAITING until {row['due']}" in err
    code, out, _ = pyfi("verify")
    assert (code, out.splitlines()[-1]) == (0, "sent 1  done 0  waiting 1  lost 0  recorded twice 0")
    assert pyfi("verify", "--strict")[0] == 5
    with pytest.raises(BadInput, match="E_IN_USE"):
        site.client.network.delete("socket", "p.double")

    assert future.cancel() is True
    with pytest.raises(Cancelled):
        known.result(60)
    assert site.rows("SELECT count(*) FROM pyfi.hold") == [(0,)]
    assert json.loads(pyfi("ls", "calls", "-o", "json")[1])["items"][0]["status"] == "CANCELLED"


@embedded_broker_only
def test_the_same_id_is_held_once_and_another_call_of_it_is_refused(site: Site, pyfi: Any) -> None:
    site.processor("double")
    own = uuid.uuid4()
    first, again = (site.client.submit("p.double", 1, id=own, delay=LONG) for _ in range(2))
    assert first.id == again.id
    with pytest.raises(BadInput, match="E_ID_CONFLICT"):
        site.client.submit("p.double", 2, id=own, delay=LONG)
    # one that was not to wait makes the outcome of both, and the row goes when it is due
    site.agent()
    site.accepted.append(site.client.submit("p.double", 1, id=own).id)
    assert (first.result(60), again.result(60)) == (2, 2)
    eventually(lambda: site.check().ok, timeout=60)
    (listed,) = json.loads(pyfi("ls", "invocations", "-o", "json")[1])["items"]
    (shown,) = json.loads(pyfi("ps", first.id, "-o", "json")[1])["items"]
    assert (listed["status"], shown["status"], shown["hold"]) == ("SUCCEEDED", "SUCCEEDED", "DUE")
    with pytest.raises(BadInput, match="E_ID_CONFLICT"):
        site.client.submit("p.double", 2, id=own, delay=LONG)
    assert site.client.submit("p.double", 1, id=own, delay=LONG).result(0) == 2
    site.rows_changed("UPDATE pyfi.hold SET due = now()")
    site.client.session.broker.hint("default", "due")
    site.quiet()
    assert site.rows("SELECT count(*) FROM pyfi.hold") == [(0,)]


@embedded_broker_only
def test_a_call_that_waits_for_an_id_that_another_one_took_is_set_aside_and_leaves_no_hold_row(site: Site) -> None:
    site.processor("double")
    own = uuid.uuid4()
    late = site.client.submit("p.double", 1, id=own, delay=LONG)
    # whoever does not look first is the first to be decided
    way, data = site.client.session.way("p.double"), values.encode_arguments((2,), {})
    call = Call(own.bytes, data, call_digest(way.socket.id, data))
    message = Message(1, new_id(), site.client.session.owner, way.socket.id, way.socket.generation, (call,))
    sent = Publication(way.socket.exchange, way.socket.key, messages.encode(message), new_id().hex())
    site.client.session.broker.publish(sent).result(60)
    site.agent()
    site.accepted.append(late.id)
    with pytest.raises(BadInput, match="E_ID_CONFLICT"):
        late.result(60)

    site.rows_changed("UPDATE pyfi.hold SET due = now()")
    site.client.session.broker.hint("default", "due")
    site.quiet()
    assert site.rows("SELECT count(*) FROM pyfi.hold") == [(0,)]
    assert site.rows("SELECT reason FROM pyfi.quarantine") == [("E_ID_CONFLICT",)]
    assert site.client.future(own).result(60) == 4


@embedded_broker_only
def test_what_is_listed_of_a_held_call_is_what_its_future_says(site: Site) -> None:
    site.processor("double")
    future = site.client.submit("p.double", 1, delay=LONG)

    def told() -> tuple[str, str]:
        (listed,) = site.client.operations.invocations(10)
        return listed["status"], future.status

    assert told() == ("WAITING", "WAITING")
    site.rows_changed("UPDATE pyfi.hold SET state = 'OUT'")
    assert told() == ("QUEUED", "QUEUED")
    site.rows_changed(
        "INSERT INTO pyfi.attempt (owner, id, serial, status) VALUES (session_user, %s, 2, 'STARTED')", future.id
    )
    assert told() == ("RUNNING", "RUNNING")
    site.rows_changed("UPDATE pyfi.attempt SET status = 'FAILED'")
    site.rows_changed("UPDATE pyfi.hold SET state = 'LEASED'")
    assert told() == ("RUNNING", "RUNNING")
    site.rows_changed("UPDATE pyfi.hold SET state = 'DUE', used = 1")
    assert told() == ("QUEUED", "QUEUED")


@embedded_broker_only
def test_what_cannot_be_is_refused_as_typed_and_nothing_is_held(site: Site, pyfi: Any) -> None:
    site.processor("double")
    for words, told in (
        (("--delay", "-5"), "E_RANGE"),
        (("--delay", "soon"), "E_RANGE"),
        (("--delay", "400d"), "more than a year"),
        (("--at", "tomorrow"), "2026-12-01T10:00"),
        (("--at", "1h", "--delay", "1h"), "not both"),
        (("--delay", "2h", "--deadline", "1h"), "could never run"),
        (("--time-limit", "0"), "E_RANGE"),
        (("--kw", "delay=1"), "E_USAGE"),
    ):
        code, out, err = pyfi("call", "p.double", "1", *words)
        assert (code, out) == (2, "")
        assert told in err
    assert site.rows("SELECT count(*) FROM pyfi.hold") == [(0,)]


@embedded_broker_only
@pytest.mark.parametrize("point", ["hold_before_publish", "hold_after_publish"])
def test_an_agent_that_dies_as_it_publishes_a_call_that_is_due_loses_nothing(site: Site, point: str) -> None:
    site.processor("work", workers=1)
    future = site.client.submit("p.work", 1, str(site.runs), delay=0.5)
    site.accepted.append(future.id)
    assert site.agent(f"{point}:crash").ended(60) != 0
    # the row is due again in a while; a person waits for that, a test does not
    site.rows_changed("UPDATE pyfi.hold SET due = now() WHERE state = 'DUE'")
    site.agent()
    assert future.result(60) == 2
    site.quiet()
    assert site.executions() == {future.id: 1}


@embedded_broker_only
def test_a_coroutine_may_have_its_call_wait(site: Site) -> None:
    site.processor("double")
    site.agent()

    async def work() -> Any:
        return await (await AsyncClient.of(site.client).submit("p.double", 4, delay=0.2))

    assert asyncio.run(work()) == 8
