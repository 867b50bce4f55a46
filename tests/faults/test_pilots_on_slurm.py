"""Agents in jobs of a real Slurm: what it sends reaches every process of a step, and costs no call its budget."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pyfi_hpc.box.slurm import SlurmCluster
from tests.pilots import Job, job
from tests.site import Site
from tests.support import eventually

pytestmark = pytest.mark.parametrize("broker_uri", ["postgres"], indirect=True)

SCRIPT = """#!/bin/bash
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --kill-on-bad-exit=0 \\
    --cpu-bind=none --quiet "$@"
"""


@dataclass
class Pilots:
    """Jobs on record that are in the cluster as well."""

    site: Site
    slurm: SlurmCluster

    def submit(self, *options: str, **request: int) -> Job:
        """A job for processor `p`, submitted with these options of sbatch."""
        sent = job(self.site, "p", scheduler="sched1", **request)
        script = self.site.home / "pilot.sh"
        script.write_text(SCRIPT)
        agent = [sys.executable, "-P", "-m", "pyfi_hpc.agent.main", "--respawn", "--job", sent.token]
        output = f"--output={self.site.home}/job-%j"
        slurm_id = self.slurm.ask(
            "sbatch", "--parsable", "--open-mode=append", "--requeue", output, *options, str(script), *agent,
            env=self.site.environment | {"PYFI_AGENT_KILL_WAIT_SECONDS": "2"},
        )  # fmt: skip
        sent.change(slurm_id=slurm_id)
        return Job(self.site, sent.token, slurm_id)

    def state(self, sent: Job) -> str:
        """Slurm's word."""
        return self.slurm.ask("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={sent.slurm_id}")


@pytest.fixture
def pilots(site: Site, slurm: SlurmCluster) -> Iterator[Pilots]:
    yield Pilots(site, slurm)
    slurm.clear()


def test_every_node_of_a_job_has_one_agent_with_its_slots(pilots: Pilots) -> None:
    site = pilots.site
    site.processor("work", workers=4)
    sent = pilots.submit("--nodes=2", "--ntasks=4", "--time=10", ntasks=4, nodes=2)

    site.ready(4)
    assert [host for host, _ in sent.agents()] == ["n1", "n2"]
    rows = site.rows("SELECT DISTINCT n.cluster <> '', a.ends_at > now() FROM pyfi.agent a JOIN pyfi.node n"
                     " ON n.id = a.node_id")  # fmt: skip
    assert rows == [(True, True)]
    futures = site.submit("p.work", [(number, str(site.runs)) for number in range(8)])
    assert [future.result(timeout=30) for future in futures] == [2 * number for number in range(8)]
    site.quiet()


def test_a_warning_to_every_process_of_the_step_drains_it(pilots: Pilots) -> None:
    site = pilots.site
    site.processor("work", workers=2)
    sent = pilots.submit("--nodes=1", "--ntasks=2", "--time=10", ntasks=2)
    site.ready(2)
    futures = site.submit("p.work", [(number, str(site.runs), 1.0) for number in range(4)])
    eventually(lambda: len(site.executions()) >= 2)

    pilots.slurm.run("scancel", "--signal=USR2", sent.slurm_id)

    eventually(lambda: pilots.state(sent) == "COMPLETED", timeout=30)
    site.agent()
    assert [future.result(timeout=60) for future in futures] == [0, 2, 4, 6]
    site.quiet()
    assert set(site.executions().values()) == {1}
    assert site.rows("SELECT count(*) FROM pyfi.attempt WHERE status = 'FAILED'") == [(0,)]


def test_a_requeued_job_takes_its_calls_up_again_at_no_cost(pilots: Pilots) -> None:
    site = pilots.site
    site.processor("work", workers=1, retry_delay_seconds=0.1)
    sent = pilots.submit("--nodes=1", "--ntasks=1", "--time=10", ntasks=1)
    site.ready()
    (future,) = site.submit("p.work", [(3, str(site.runs), 5.0)])
    eventually(lambda: site.executions().get(future.id))

    pilots.slurm.run("scontrol", "requeue", sent.slurm_id)

    assert future.result(timeout=60) == 6
    site.quiet()
    assert [incarnation for _, incarnation in sent.agents()] == [1]
    assert site.causes(future) == ["preempted"]
    # the first is not started again by its parent, nor does anything of it stay
    assert site.rows("SELECT count(*) FROM pyfi.agent") == [(2,)]
    # a worker takes calls a moment before that is on record
    eventually(lambda: site.rows("SELECT status FROM pyfi.processor") == [("RUNNING",)], timeout=60)
