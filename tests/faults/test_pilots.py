"""Agents in jobs: their slots, their incarnations, their ends (fault matrix 17, 19-22)."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from pyfi_hpc.box.nvml import FakeGpu
from pyfi_hpc.client import rows
from pyfi_hpc.control.leftovers import forget_job
from pyfi_hpc.errors import BadInput
from tests.faults.own import change
from tests.gpus import FakeDriver
from tests.pilots import CLUSTER, Job, job
from tests.site import AgentProcess, Site
from tests.support import eventually

pytestmark = pytest.mark.parametrize("broker_uri", ["postgres"], indirect=True)


def slots(site: Site) -> list[tuple[str, str, int | None]]:
    """Host, processor and slot of each live worker."""
    return site.rows(
        "SELECT n.host, p.name, w.slot FROM pyfi.worker w JOIN pyfi.node n ON n.id = w.node_id"
        " JOIN pyfi.processor p ON p.id = w.processor_id WHERE w.status = 'READY' ORDER BY 1, 2, 3"
    )


def said(agent: AgentProcess) -> str:
    return agent.log.read_text()


def test_an_agent_in_a_job_serves_its_slots_for_the_jobs_processor(site: Site) -> None:
    site.processor("work", workers=2)
    sent = job(site)
    agent = sent.agent(seconds=3600)

    eventually(lambda: slots(site) == [("n1", "p", 0), ("n1", "p", 1)], timeout=30)
    assert site.client.call("p.work", 4, str(site.runs), timeout=30) == 8

    rows = site.rows(
        "SELECT n.name, n.cluster, s.name, jsonb_array_length(a.slots), a.ends_at > now() + interval '58 minutes'"
        " FROM pyfi.agent a JOIN pyfi.node n ON n.id = a.node_id JOIN pyfi.scheduler s ON s.id = n.scheduler_id"
    )
    assert rows == [("n1", CLUSTER, "sched1", 2, True)]
    assert agent.stop() == 0
    assert list((site.home / "state" / "nodes" / "n1").iterdir()) == []
    assert site.rows("SELECT status FROM pyfi.node") == [("DOWN",)]


def test_a_node_that_was_added_by_hand_is_adopted(site: Site) -> None:
    site.client.network.add_node(name="node1", host="n1")
    site.processor("work")
    sent = job(site)
    sent.agent()
    sent.serves("n1")
    assert site.rows(
        "SELECT n.name, n.cluster, s.name FROM pyfi.node n LEFT JOIN pyfi.scheduler s ON s.id = n.scheduler_id"
    ) == [("node1", CLUSTER, "sched1")]

    # an agent that is started by hand there is of the same node
    site.agent(host="n1", PYFI_AGENT_CORES="0")
    eventually(lambda: len(site.rows("SELECT FROM pyfi.agent WHERE ended IS NULL")) == 2, timeout=20)
    assert site.rows("SELECT name FROM pyfi.node") == [("node1",)]


def test_two_jobs_serve_one_node_at_once(site: Site) -> None:
    for name in ("a", "b"):
        site.processor("work", name=name)
    first, second = job(site, "a", ntasks=1), job(site, "b", ntasks=2)
    ends = first.agent(), second.agent()

    eventually(lambda: slots(site) == [("n1", "a", 0), ("n1", "b", 0), ("n1", "b", 1)], timeout=30)
    assert [site.client.call(f"{name}.work", 1, str(site.runs), timeout=30) for name in "ab"] == [2, 2]

    assert ends[0].stop() == 0
    assert (first.agents(), second.agents()) == ([], [("n1", 0)])
    assert site.rows("SELECT status FROM pyfi.node") == [("UP",)]


def test_what_a_killed_agent_leaves_goes_with_its_job(site: Site) -> None:
    sent = job(site, None)
    agent = sent.agent()
    sent.serves("n1")
    folder = site.home / "state" / "nodes" / "n1" / sent.token
    agent.kill()
    assert folder.is_dir()

    forget_job(site.home / "state", sent.token)

    assert not folder.exists()


def test_a_second_agent_of_a_job_on_a_node_is_refused(site: Site, tmp_path: Path) -> None:
    sent = job(site, None)
    first = sent.agent()
    sent.serves("n1")

    # as `-n` larger than the number of nodes would start it; with a state directory of its own, too
    for second in (sent.agent(), sent.agent(variables={"PYFI_HOME": str(tmp_path)})):
        assert second.ended() == 2
        assert "E_NODE_LEASED" in said(second)
    assert first.process.poll() is None


def test_a_token_that_no_job_has_is_refused_for_good(site: Site) -> None:
    for token in ("0" * 32, "../../etc"):
        agent = Job(site, token, "1").agent(respawn=True)
        assert agent.ended() == 2
        assert "E_NOT_FOUND" in said(agent)


def test_a_requeued_jobs_new_incarnation_takes_over_and_the_old_one_ends_for_good(site: Site) -> None:
    site.processor("work", workers=1)
    sent = job(site, ntasks=1)
    old = sent.agent(respawn=True)
    site.ready()
    futures = site.submit("p.work", [(number, str(site.runs), 0.05) for number in range(60)])
    eventually(lambda: len(site.executions()) > 4)

    # Slurm has put the job on another node while the first cannot be reached
    sent.agent("n2", restarts=1)

    assert old.ended(60) == 2
    assert "E_SUPERSEDED" in said(old)
    sent.serves("n2", incarnation=1)
    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(60)]
    site.quiet()
    assert site.rows("SELECT count(*) FROM pyfi.attempt WHERE status = 'FAILED'") == [(0,)]
    assert site.rows("SELECT host, status FROM pyfi.node ORDER BY 1") == [("n1", "DOWN"), ("n2", "UP")]

    # and one that comes late does not begin
    late = sent.agent(respawn=True)
    assert late.ended() == 2
    assert "E_SUPERSEDED" in said(late)
    assert sent.agents() == [("n2", 1)]


def test_an_incarnation_that_was_out_of_reach_wakes_up_and_its_values_lose(site: Site) -> None:
    site.processor("work", workers=1)
    sent = job(site, ntasks=1)
    old = sent.agent()
    site.ready()
    futures = site.submit("p.work", [(number, str(site.runs), 0.2) for number in range(6)])
    eventually(lambda: len(site.executions()) > 1)

    # slurmd is stopped, its node counts as down: the job is requeued while its old agent and worker are still there
    old.stall()
    sent.agent("n2", restarts=1)
    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(6)]
    decided = site.rows("SELECT id, worker_id FROM pyfi.outcome ORDER BY 1")
    old.wake()

    assert old.ended(60) == 2
    assert "E_SUPERSEDED" in said(old)
    site.quiet()
    assert site.rows("SELECT id, worker_id FROM pyfi.outcome ORDER BY 1") == decided
    assert max(site.executions().values()) == 2


def test_an_agent_hears_from_the_jobs_row_that_it_is_superseded(site: Site) -> None:
    site.processor("work", workers=1)
    sent = job(site, ntasks=1)
    agent = sent.agent(respawn=True)
    site.ready()
    (running,) = site.submit("p.work", [(1, str(site.runs), 2.0)])
    eventually(lambda: site.executions().get(running.id))

    sent.change(restarts=1)

    # what runs is finished, and counts while nobody else was faster
    assert agent.ended(30) == 2
    assert "E_SUPERSEDED" in said(agent)
    assert running.result(timeout=10) == 2
    assert site.executions()[running.id] == 1


def test_the_early_warning_drains_the_pilot(site: Site) -> None:
    site.processor("work", workers=2)
    pilots = job(site, ntasks=1), job(site, ntasks=1)
    warned = pilots[0].agent("n1", seconds=3600, respawn=True)
    pilots[1].agent("n2")
    site.ready(2)
    futures = site.submit("p.work", [(number, str(site.runs), 0.02) for number in range(100)])
    eventually(lambda: len(site.executions()) > 10)

    warned.process.send_signal(signal.SIGUSR2)

    assert warned.ended(30) == 0
    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(100)]
    site.quiet()
    assert set(site.executions().values()) == {1}
    assert site.rows("SELECT count(*) FROM pyfi.attempt WHERE status = 'FAILED'") == [(0,)]


@pytest.mark.parametrize("why", ["walltime", "preempted"])
def test_what_cannot_finish_in_time_is_given_back_at_no_cost(site: Site, why: str) -> None:
    site.processor("work", workers=1)
    agent = job(site, ntasks=1).agent(seconds=3600, variables={"PYFI_AGENT_KILL_WAIT_SECONDS": "2"})
    site.ready()
    (future,) = site.submit("p.work", [(7, str(site.runs), 60.0)])
    eventually(lambda: site.executions().get(future.id))

    if why == "walltime":
        # nobody warns it: it knows how much time is left
        change(site, "UPDATE pyfi.agent SET ends_at = now() + interval '8 seconds'")
    else:
        agent.process.terminate()

    assert agent.ended(30) == 0
    assert site.causes(future) == [why]
    assert site.rows("SELECT used, returns FROM pyfi.hold") == [(0, 1)]


def test_an_agent_near_its_end_is_given_no_new_worker(site: Site) -> None:
    site.processor("work", workers=1)
    sent = job(site, ntasks=1)
    agent = sent.agent(seconds=12)

    assert agent.ended(30) == 0
    assert site.rows("SELECT count(*) FROM pyfi.worker") == [(0,)]


def test_a_worker_of_a_slot_sees_its_own_gpu_and_no_other(site: Site, driver: FakeDriver) -> None:
    driver.has(FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-b", name="NVIDIA H100"), FakeGpu(uuid="GPU-c"))
    site.processor("sees", workers=1)
    sent = job(site, gpus_per_node="1", ntasks=None)
    sent.agent(variables={"SLURM_GPUS_ON_NODE": "1", "SLURM_STEP_GPUS": "1", **driver.environment})
    site.ready()

    future = site.client.submit("p.sees", "CUDA_VISIBLE_DEVICES")

    assert future.result(timeout=30) == "GPU-b"
    assert site.client.call("p.sees", "CUDA_DEVICE_ORDER", timeout=30) == "PCI_BUS_ID"
    assert site.rows("SELECT devices FROM pyfi.worker WHERE status = 'READY'") == [(["GPU-b"],)]
    assert site.rows("SELECT uuid, model FROM pyfi.device") == [("GPU-b", "NVIDIA H100")]
    made_by = site.client.operations.worker(future.identity)
    assert made_by is not None
    assert (made_by["node"], made_by["slot"], made_by["job"]) == ("n1", 0, sent.slurm_id)
    assert made_by["devices"] == [{"uuid": "GPU-b", "model": "NVIDIA H100"}]
    session = site.client.session
    provenance = session.link.run(lambda cursor: rows.provenance(cursor, session.owner, future.identity))
    assert provenance is not None
    assert provenance.line().startswith("p.sees@")
    assert provenance.line().endswith(f" on n1 core 0,1 gpu NVIDIA H100 GPU-b, job {sent.slurm_id}, attempt 1 of 3")
    (device,) = site.client.network.list("device")
    assert (device["uuid"], device["node"], device["processor"]) == ("GPU-b", "n1", "p")
    node = site.client.network.show("node", "n1")
    assert (node["scheduler"], node["agents"], node["workers"], node["gpus"]) == ("sched1", 1, 1, 1)
    assert [each["uuid"] for each in node["devices"]] == ["GPU-b"]


def test_a_node_by_hand_gives_out_its_gpus_and_shows_how_they_are_used(site: Site, driver: FakeDriver) -> None:
    driver.has(FakeGpu(uuid="GPU-a", utilization=10), FakeGpu(uuid="GPU-b", utilization=10))
    site.processor("sees", workers=2, gpus=1)
    site.agent("", "n1", respawn=False, job="", **driver.environment)
    site.ready(2)

    seen = {str(site.client.call("p.sees", "CUDA_VISIBLE_DEVICES", timeout=30)) for _ in range(30)}
    assert seen <= {"GPU-a", "GPU-b"}
    assert site.rows("SELECT DISTINCT unnest(devices) FROM pyfi.worker ORDER BY 1") == [("GPU-a",), ("GPU-b",)]

    driver.has(FakeGpu(uuid="GPU-a", utilization=99), FakeGpu(uuid="GPU-b", utilization=1))
    eventually(
        lambda: site.rows("SELECT uuid, utilization FROM pyfi.device ORDER BY 1") == [("GPU-a", 0.99), ("GPU-b", 0.01)],
        timeout=20,
    )


def test_a_jobs_gpus_are_not_given_out_by_the_agent_that_serves_its_node_by_hand(
    site: Site, driver: FakeDriver
) -> None:
    driver.has(FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-b"))
    site.processor("sees", workers=1)
    site.processor("sees", name="other", workers=2, gpus=1)
    sent = job(site, gpus_per_node="1", ntasks=None)
    sent.agent(variables={"SLURM_GPUS_ON_NODE": "1", "SLURM_STEP_GPUS": "0", **driver.environment})
    eventually(lambda: slots(site) == [("n1", "p", 0)], timeout=30)

    site.agent("", "n1", respawn=False, job="", **driver.environment)

    eventually(lambda: slots(site) == [("n1", "other", None), ("n1", "p", 0)], timeout=30)
    given = site.rows("SELECT p.name, w.devices FROM pyfi.worker w JOIN pyfi.processor p ON p.id = w.processor_id")
    assert sorted(given) == [("other", ["GPU-b"]), ("p", ["GPU-a"])]
    assert site.client.call("other.sees", "CUDA_VISIBLE_DEVICES", timeout=30) in ("GPU-a", "GPU-b")


def test_a_drained_node_is_emptied_at_once_and_takes_work_again_when_resumed(site: Site) -> None:
    site.processor("work", workers=2)
    site.agent(host="n1", PYFI_AGENT_POLL_SECONDS="600")
    before = site.ready(2)
    (running,) = site.submit("p.work", [(1, str(site.runs), 1.0)])
    eventually(lambda: site.executions().get(running.id))
    network = site.client.network

    assert network.drain_node("n1")["status"] == "DRAINING"
    assert running.result(timeout=20) == 2
    # the next poll is minutes away: it was the hint
    eventually(lambda: site.worker_pids() == [], timeout=10)
    assert site.executions()[running.id] == 1
    (row,) = network.list("node")
    assert (row["status"], row["drain_requested"], row["workers"]) == ("DRAINING", True, 0)

    assert network.resume_node("n1")["status"] == "UP"
    assert not set(site.ready(2)) & set(before)
    said = [each["what"] for each in network.list("event") if each["kind"] == "node"]
    assert said == ["asked to take work again", "asked to drain"]


def test_a_node_that_nobody_knows_cannot_be_drained(site: Site) -> None:
    for ask in (site.client.network.drain_node, site.client.network.resume_node):
        with pytest.raises(BadInput, match="no node 'nowhere'") as refused:
            ask("nowhere")
        assert refused.value.code == "E_NODE"
