"""Calls that can never work end with a verdict of their own, and harm nobody else (fault matrix 26)."""

from __future__ import annotations

from pyfi_hpc.errors import Dead, PyfiError
from tests.site import Site, embedded_broker_only
from tests.support import eventually


@embedded_broker_only
def test_each_kind_of_poison_ends_with_its_own_cause(site: Site) -> None:
    for task in ("raises", "killed", "never_ends", "huge"):
        site.processor(task, name=task, workers=1, retries=1, timeout_seconds=1.0)
    agent = site.agent(PYFI_AGENT_MAX_VALUE_BYTES="1000000")
    site.ready(4)

    raises, killed, never_ends, huge = (
        site.submit(f"{task}.{task}", [(7, str(site.runs))])[0] for task in ("raises", "killed", "never_ends", "huge")
    )

    assert isinstance(raises.exception(timeout=30), ValueError)
    assert isinstance(killed.exception(timeout=30), Dead)
    assert isinstance(never_ends.exception(timeout=30), Dead)
    refused = huge.exception(timeout=30)
    assert isinstance(refused, PyfiError)
    assert refused.code == "E_LIMIT"

    site.quiet()
    assert site.outcomes() == {raises.id: "DEAD", killed.id: "DEAD", never_ends.id: "DEAD", huge.id: "FAILED"}
    assert site.causes(raises) == ["user_error", "user_error"]
    assert site.causes(killed) == ["signal", "signal"]
    assert site.causes(never_ends) == ["timeout", "timeout"]
    # a result over the quota would be so again
    assert site.causes(huge) == ["refused"]
    assert site.executions() == {raises.id: 2, killed.id: 2, never_ends.id: 2, huge.id: 1}
    listed = {row["id"]: (row["socket"], row["cause"], row["attempts"]) for row in site.client.operations.dead()}
    assert listed == {
        raises.id: ("raises.raises", "user_error", 2),
        killed.id: ("killed.killed", "signal", 2),
        never_ends.id: ("never_ends.never_ends", "timeout", 2),
    }
    assert agent.process.poll() is None


@embedded_broker_only
def test_a_dead_call_that_is_requeued_succeeds_once_its_cause_is_mended(site: Site) -> None:
    site.processor("needs", workers=1, retries=1)
    site.agent()
    site.ready()
    missing = site.home / "missing"
    (future,) = site.submit("p.needs", [(7, str(site.runs), str(missing))])
    assert isinstance(future.exception(timeout=30), FileNotFoundError)
    assert site.outcomes() == {future.id: "DEAD"}

    missing.touch()
    site.client.operations.requeue([future.id])

    eventually(lambda: site.outcomes() == {future.id: "SUCCEEDED"}, timeout=20)
    assert site.client.future(future.id).result(timeout=5) == 7
    site.quiet()
    assert site.client.operations.dead() == []
    assert site.rows("SELECT serial FROM pyfi.outcome") == [(3,)]


@embedded_broker_only
def test_a_requeued_call_that_fails_again_is_dead_again(site: Site) -> None:
    site.processor("needs", workers=1, retries=1)
    site.agent()
    site.ready()
    (future,) = site.submit("p.needs", [(7, str(site.runs), str(site.home / "missing"))])
    assert isinstance(future.exception(timeout=30), FileNotFoundError)

    site.client.operations.requeue([future.id])

    eventually(lambda: site.executions() == {future.id: 4} and site.outcomes() == {future.id: "DEAD"}, timeout=20)
    site.quiet()
    assert [row["id"] for row in site.client.operations.dead()] == [future.id]


def test_a_call_that_kills_its_agent_dies_alone(site: Site) -> None:
    site.processor("kills_agent", workers=1, retries=1)
    parent = site.agent(respawn=True)
    site.ready()

    futures = site.submit("p.kills_agent", [(number, str(site.runs), 3) for number in range(8)])
    poison = futures.pop(3)

    dead = poison.exception(timeout=60)
    assert isinstance(dead, Dead), dead
    assert dead.facts["cause"] == "agent_lost"
    assert [future.result(timeout=30) for future in futures] == [0, 2, 4, 8, 10, 12, 14]
    site.quiet()
    assert parent.process.poll() is None
    assert site.causes(poison) == ["agent_lost", "agent_lost"]
    # what its neighbours lost by it is not charged to them
    assert site.rows("SELECT count(*) FROM pyfi.attempt WHERE status = 'FAILED'") == [(2,)]
    # the first time nobody could tell who it was
    assert site.executions()[poison.id] == 3
