"""Agents stall, drain, compete and are paused: nothing is lost, nothing is decided twice (fault matrix 3, 17)."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest

from pyfi_hpc.errors import BadInput
from tests.site import AgentProcess, Site, embedded_broker_only
from tests.support import eventually

#: The cores of each of two agents on one machine: room for one worker.
ONE_CORE = "0"


def two_agents(site: Site) -> tuple[AgentProcess, AgentProcess]:
    """Agents of two nodes with one worker of processor `p` each."""
    site.processor("work", workers=2)
    agents = site.agent(host="host1", PYFI_AGENT_CORES=ONE_CORE), site.agent(host="host2", PYFI_AGENT_CORES=ONE_CORE)
    site.ready(2)
    assert site.rows("SELECT count(DISTINCT node_id) FROM pyfi.worker WHERE status = 'READY'") == [(2,)]
    return agents


def nodes_of_outcomes(site: Site) -> dict[str, str]:
    """Invocation id -> the host whose value was committed."""
    rows = site.rows(
        "SELECT o.id::text, n.host FROM pyfi.outcome o JOIN pyfi.worker w ON w.id = o.worker_id"
        " JOIN pyfi.node n ON n.id = w.node_id"
    )
    return dict(rows)


def test_a_stalled_agents_calls_are_run_elsewhere_and_its_late_values_lose(site: Site) -> None:
    stalled, other = two_agents(site)
    futures = site.submit("p.work", [(number, str(site.runs), 0.2) for number in range(20)])
    eventually(lambda: len(site.executions()) > 4)

    stalled.stall()
    # its worker finishes what it has, its messages go to the other agent once the broker has missed it
    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(20)]
    decided = nodes_of_outcomes(site)
    stalled.wake()

    site.quiet()
    assert nodes_of_outcomes(site) == decided
    twice = {identity for identity, times in site.executions().items() if times > 1}
    assert twice
    assert {decided[identity] for identity in twice} == {other.host}
    assert max(site.executions().values()) == 2
    assert (stalled.process.poll(), other.process.poll()) == (None, None)


def test_a_drained_agent_gives_back_what_it_has_not_started(site: Site) -> None:
    drained, _ = two_agents(site)
    futures = site.submit("p.work", [(number, str(site.runs), 0.02) for number in range(200)])
    eventually(lambda: len(site.executions()) > 20)

    assert drained.stop() == 0

    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(200)]
    site.quiet()
    # nothing ran twice, nothing was charged
    assert set(site.executions().values()) == {1}
    assert site.rows("SELECT count(*) FROM pyfi.attempt WHERE status = 'FAILED'") == [(0,)]
    assert set(nodes_of_outcomes(site).values()) == {"host1", "host2"}


@embedded_broker_only
def test_workers_end_with_their_agent_and_its_parent_starts_another(site: Site) -> None:
    site.processor("work", workers=2)
    parent = site.agent(respawn=True)
    workers = site.ready(2)
    ((agent,),) = site.rows("SELECT pid FROM pyfi.agent WHERE ended IS NULL")
    futures = site.submit("p.work", [(number, str(site.runs), 0.05) for number in range(40)])
    eventually(lambda: len(site.executions()) > 4)

    os.kill(agent, signal.SIGKILL)

    eventually(lambda: not set(workers) & set(site.worker_pids()), timeout=5)
    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(40)]
    site.quiet()
    assert max(site.executions().values()) <= 2
    assert parent.process.poll() is None


def test_two_processors_share_one_queue(site: Site) -> None:
    for name in ("first", "second"):
        site.processor("work", name=name, workers=1)
    site.agent()
    site.ready(2)

    futures = site.submit("first.work", [(number, str(site.runs), 0.05) for number in range(60)])

    assert [future.result(timeout=30) for future in futures] == [2 * number for number in range(60)]
    site.quiet()
    shares = site.rows(
        "SELECT p.name, count(*) FROM pyfi.outcome o JOIN pyfi.worker w ON w.id = o.worker_id"
        " JOIN pyfi.processor p ON p.id = w.processor_id GROUP BY p.name"
    )
    assert sorted(name for name, count in shares if count >= 10) == ["first", "second"]
    assert set(site.executions().values()) == {1}


def test_pausing_stopping_and_restarting_under_load_loses_and_repeats_nothing(site: Site) -> None:
    site.processor("work", workers=2)
    site.agent()
    site.ready(2)
    network = site.client.network
    futures = site.submit("p.work", [(number, str(site.runs), 0.02) for number in range(400)])

    def more() -> None:
        before = len(site.executions())
        eventually(lambda: len(site.executions()) > before, timeout=20)

    def status(wanted: str) -> None:
        eventually(lambda: network.show("processor", "p")["status"] == wanted, timeout=20)

    more()
    network.pause("p")
    status("PAUSED")
    network.resume("p")
    more()
    before = set(site.worker_pids())
    network.restart("p")
    eventually(lambda: (now := set(site.worker_pids())) and not now & before, timeout=20)
    more()
    network.stop("p")
    status("STOPPED")
    done = len(site.executions())
    assert (done < 400, site.worker_pids(), len(site.outcomes())) == (True, [], done)
    network.start("p")

    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(400)]
    site.quiet()
    assert set(site.executions().values()) == {1}


@embedded_broker_only
def test_a_processor_is_moved_to_and_fro_under_load_and_repeats_nothing(site: Site) -> None:
    site.processor("work", workers=2)
    network = site.client.network
    for host in ("host1", "host2"):
        site.agent(host=host)
    site.ready(2)
    eventually(lambda: len([row for row in network.list("node") if row["status"] == "UP"]) == 2)
    futures = site.submit("p.work", [(number, str(site.runs), 0.02) for number in range(600)])

    def serving() -> set[str]:
        return {row["node"] for row in network.list("worker") if row["status"] in ("READY", "DRAINING")}

    for host in ("host2", "host1", "host2"):
        network.move("p", host)
        eventually(partial(lambda to: serving() == {to}, host), timeout=30)
    assert not all(future.done() for future in futures)
    network.drain_node("host1")
    with pytest.raises(BadInput, match="node host1 drains") as refused:
        network.move("p", "host1")
    assert (refused.value.code, network.show("processor", "p")["host"]) == ("E_NODE", "host2")

    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(600)]
    site.quiet()
    assert set(site.executions().values()) == {1}
