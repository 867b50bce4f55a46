"""A cancel races the commit: each call is either cancelled or has a value (fault matrix 32)."""

from __future__ import annotations

import random
import time

import pytest

from pyfi_hpc.errors import Cancelled
from tests.faults.own import change
from tests.site import Site, embedded_broker_only
from tests.support import eventually

CALLS = 200


def test_cancels_at_any_moment_never_leave_both_or_neither(site: Site) -> None:
    site.processor("work", workers=2)
    site.agent()
    site.ready(2)
    chance = random.Random(32)
    futures = site.submit("p.work", [(number, str(site.runs), 0.01) for number in range(CALLS)])

    won: dict[str, bool] = {}
    for future in chance.sample(futures, CALLS):
        time.sleep(chance.uniform(0.0, 0.01))
        (told,) = site.client.operations.cancel([future.id])
        won[future.id] = told["cancelled"]

    site.quiet()
    recorded = site.outcomes()
    assert recorded == {identity: "CANCELLED" if cancelled else "SUCCEEDED" for identity, cancelled in won.items()}
    # both happened, or the race was none
    assert set(won.values()) == {True, False}
    for number, future in enumerate(futures):
        if won[future.id]:
            with pytest.raises(Cancelled):
                future.result(timeout=10)
        else:
            assert future.result(timeout=10) == 2 * number
    # a cancelled call that had not started was not run
    assert len(site.executions()) < CALLS


@embedded_broker_only
def test_a_call_that_runs_without_end_is_stopped_by_a_cancel(site: Site) -> None:
    site.processor("never_ends", "work", workers=1)
    site.agent()
    site.ready()
    (endless,) = site.submit("p.never_ends", [(1, str(site.runs))])
    eventually(site.executions)

    assert endless.cancel(running=True)

    (after,) = site.submit("p.work", [(21, str(site.runs))])
    assert after.result(timeout=20) == 42
    with pytest.raises(Cancelled):
        endless.result(timeout=5)
    site.quiet()
    assert site.outcomes() == {endless.id: "CANCELLED", after.id: "SUCCEEDED"}
    assert site.executions() == {endless.id: 1, after.id: 1}


def _running(site: Site) -> list[str]:
    """The calls that live workers are said to run."""
    return [row["running"] for row in site.client.network.list("worker") if row["running"] and not row["ended"]]


def test_a_first_attempt_that_runs_is_called_so_and_a_plain_cancel_leaves_it_alone(site: Site) -> None:
    site.processor("work", workers=1)
    site.processor("double", name="other", workers=1)
    site.agent()
    site.ready(2)
    first, behind = (site.submit("p.work", [(number, str(site.runs), 5.0)])[0] for number in (1, 2))
    eventually(first.running)
    assert _running(site) == [first.id]

    assert first.cancel() is False

    # its row names the worker already, and is found by its last digits
    row = site.client.operations.invocation(first.id[-10:])
    assert (row["id"], row["status"], row["node"], row["processor"]) == (first.id, "RUNNING", "host1", "p")
    assert row["started"] and row["outcome"] is None and row["attempts"] == []
    # so does the list, with one row of it beside other workers
    (listed,) = site.client.operations.invocations(10)
    assert (listed["id"], listed["socket"], listed["status"]) == (first.id, "p.work", "RUNNING")
    assert listed["node"] == row["node"] and listed["started"] == row["started"] and row["socket"] == "p.work"
    # what waits behind it has not begun
    assert behind.status == "QUEUED"
    assert behind.cancel() is True
    assert first.result(timeout=20) == 2
    assert site.causes(first) == []
    eventually(lambda: _running(site) == [])
    site.quiet()
    assert site.executions() == {first.id: 1}


@embedded_broker_only
def test_a_cancel_that_asks_stops_a_first_attempt_and_says_that_it_had_begun(site: Site) -> None:
    site.processor("never_ends", "work", workers=1)
    site.agent()
    site.ready()
    running, waiting = (site.submit("p.never_ends", [(number, str(site.runs))])[0] for number in (1, 2))
    eventually(running.running)

    told = site.client.cancel(waiting.id, running.id, waiting.id)

    assert [(row["cancelled"], row["begun"]) for row in told] == [(True, False), (True, True), (True, False)]
    eventually(lambda: _running(site) == [])
    site.quiet()
    assert site.executions() == {running.id: 1}
    # who cancelled it did not know where it ran; the attempt's own row does
    row = site.client.operations.invocation(running.id)
    listed = {each["id"]: each for each in site.client.operations.invocations(10)}[running.id]
    for each in (row, listed):
        assert (each["status"], each["socket"], each["node"]) == ("CANCELLED", "p.never_ends", "host1")
        assert each["started"] and each["ended"]


@embedded_broker_only
def test_what_a_dead_agent_said_of_its_workers_counts_no_longer_than_its_lease(site: Site) -> None:
    site.processor("never_ends", workers=1)
    agent = site.agent()
    site.ready()
    (lost,) = site.submit("p.never_ends", [(1, str(site.runs))])
    eventually(lost.running)
    agent.kill()

    # its lease runs out
    assert change(site, "UPDATE pyfi.agent SET lease_until = now() - interval '1 second'") == 1

    assert lost.status == "QUEUED"
    assert lost.cancel() is True


@embedded_broker_only
def test_a_call_that_waits_for_its_next_attempt_does_not_run(site: Site) -> None:
    site.processor("raises", workers=1, retry_delay_seconds=60)
    site.agent()
    site.ready()
    (failing,) = site.submit("p.raises", [(1, str(site.runs))])
    eventually(lambda: site.causes(failing))
    # as if its worker's row were one look behind
    assert change(site, "UPDATE pyfi.worker SET running = %s, running_since = now()", failing.id) == 1

    assert failing.status == "QUEUED"
    assert failing.cancel() is False  # it has begun once
    assert failing.cancel(running=True) is True


@embedded_broker_only
def test_what_follows_from_a_call_is_cancelled_with_it_where_it_has_not_begun(site: Site) -> None:
    site.processor("work", "counts", workers=1)
    for name, task in (("q", "follow"), ("r", "double")):
        site.client.network.add_queue(name=f"{site.queue}.{name}")
        site.client.network.add_processor(name=name, gitrepo=site.repository, module="tasks", workers=1)
        site.client.network.add_socket(name=f"{name}.{task}", queue=f"{site.queue}.{name}", processor=name, task=task)
    plugs = (("one", "p.work", "q.follow"), ("items", "p.counts", "q.follow"), ("two", "q.follow", "r.double"))
    for plug, source, target in plugs:
        to = f"{site.queue}.{target[0]}"
        site.client.network.add_plug(name=plug, source=source, target=target, processor=source[0], queue=to)
    # what follows waits in its queue
    site.client.network.pause("q")
    site.agent()
    site.ready(1)
    head, yields, other = (site.submit(*what)[0] for what in (
        ("p.work", [(1, str(site.runs))]), ("p.counts", [(3, str(site.runs))]), ("p.work", [(2, str(site.runs))]),
    ))  # fmt: skip
    for future in (head, yields, other):
        future.result(timeout=60)

    told = site.client.cancel(head.id, yields.id, tree=True)

    assert [row["cancelled"] for row in told] == [False, False, True, True, True, True]
    site.client.network.resume("q")
    eventually(lambda: len(site.outcomes()) == 3 + 3 + 5 + 1, timeout=60)
    site.quiet()
    recorded = site.outcomes()
    assert {row["id"] for row in told if row["cancelled"]} == {
        each for each in recorded if recorded[each] == "CANCELLED"
    }
    # of the third its child and what followed from that
    assert site.rows(
        "SELECT s.name, count(*) FROM pyfi.outcome o JOIN pyfi.socket s ON s.id = o.socket_id"
        " WHERE o.status = 'SUCCEEDED' AND s.name IN ('q.follow', 'r.double') GROUP BY 1 ORDER BY 1"
    ) == [("q.follow", 1), ("r.double", 1)]
