"""Slurm's controller dies, stalls or loses its state, and schedulers die at the worst moments: one job for each asking.

The Slurm is a real one; a scheduler that dies is a real process, `pyfi scheduler start`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg2.extras import Json

from pyfi_hpc.box.slurm import SlurmCluster
from pyfi_hpc.brokers.connect import connect as connect_broker
from pyfi_hpc.control.pilots import LOST
from pyfi_hpc.db import schema
from pyfi_hpc.db.embedded import ROLE, EmbeddedPostgres
from pyfi_hpc.db.jobs import Wanted
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.slurm.command_line import SlurmCommands
from pyfi_hpc.slurm.launcher import TOKEN_MARK, Submission
from tests.services.databases import new_database
from tests.services.scheduler_support import Desk
from tests.support import eventually

POINTS = ("submit_before_intent", "submit_after_intent", "submit_after_sbatch")
SLEEPS = "#!/bin/sh\nexec sleep 1000\n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    """A Slurm of the module's own: its tests hurt it."""
    with SlurmCluster(2, cpus=16) as made:
        yield made


class SlurmDesk(Desk):
    """A desk whose jobs sleep in a real Slurm."""

    cluster: SlurmCluster

    def sleeps(self, wanted: Wanted) -> tuple[Submission, str | None]:
        """A job that stays."""
        options = [f"--comment={TOKEN_MARK}{wanted.token}", "--output=/dev/null", "--ntasks=1", *wanted.request.extra]
        return Submission(wanted.token, SLEEPS, options), None

    def carrying(self, token: str) -> list[str]:
        """Slurm's jobs with that token, live or ended."""
        lines = self.cluster.ask("squeue", "--noheader", "--states=all", "--format=%i %k").splitlines()
        return [line.split()[0] for line in lines if token in line]

    def saved(self) -> None:
        """Return once the controller has written down what it knows: a crash loses the last few seconds."""
        state = self.cluster.home / "state" / "job_state"
        before = state.stat().st_mtime_ns if state.exists() else 0
        self.cluster.run("sbatch", "--hold", "--wrap=true")  # something to save
        eventually(lambda: state.exists() and state.stat().st_mtime_ns > before, timeout=30)

    def pass_until(self, token: str, status: str, **patience: float) -> None:
        """Lead and look until the job is there."""
        scheduler = self.scheduler(**patience)

        def there() -> bool:
            self.lapse()
            scheduler.once()
            return bool(self.job(token, "status") == status)

        eventually(there, timeout=60, interval=0.2)


@pytest.fixture
def desk(shared_postgres: EmbeddedPostgres, cluster: SlurmCluster, tmp_path: Path) -> Iterator[SlurmDesk]:
    """With a database of its own; commands of Slurm are given up after two seconds."""
    launcher = SlurmCommands(environment=cluster.environment, patience_seconds=2.0, submit_patience_seconds=2.0)
    with new_database(shared_postgres) as database:
        schema.init(database.admin_uri, grant_to=ROLE)
        broker = connect_broker(None, database_uri=database.uri)
        made = SlurmDesk(database.uri, broker, launcher, tmp_path, "default")
        made.cluster, made.prepare = cluster, made.sleeps
        yield made
        made.close()
        broker.close()
        cluster.clear()


def started(desk: SlurmDesk, home: Path, failpoint: str = "") -> subprocess.Popen[bytes]:
    """`pyfi scheduler start` as a process."""
    ours = {
        "PYFI_DATABASE_URI": desk.uri, "PYFI_HOME": str(home), "PYFI_FAILPOINT": failpoint,
        "PYFI_SLURM_POLL_SECONDS": "1", "PYFI_SLURM_LAUNCHER": "slurm",
    }  # fmt: skip
    with (home / "scheduler.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "pyfi_hpc", "scheduler", "start", "-n", "sched1"],
            env={**os.environ, **desk.cluster.environment, **ours},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip


@pytest.mark.parametrize("point", POINTS)
def test_a_scheduler_that_dies_while_it_submits_leaves_one_job_for_the_next(
    desk: SlurmDesk, tmp_path: Path, point: str
) -> None:
    held = ResourceRequest(ntasks=1, extra=("--hold",))
    token = desk.want(request=Json(held.to_json()))
    process = started(desk, tmp_path, f"{point}:crash")
    assert process.wait(60) == -signal.SIGKILL, (tmp_path / "scheduler.log").read_text()
    assert len(desk.carrying(token)) == (point == "submit_after_sbatch")

    desk.pass_until(token, "PENDING", missing=0.5)
    assert desk.carrying(token) == [desk.job(token, "slurm_id")]
    desk.pass_until(token, "PENDING", missing=0.5)
    assert len(desk.carrying(token)) == 1


def test_two_schedulers_and_a_dying_one_submit_each_job_once(desk: SlurmDesk, tmp_path: Path) -> None:
    held = Json(ResourceRequest(ntasks=1, extra=("--hold",)).to_json())
    tokens = [desk.want(request=held) for _ in range(12)]
    homes = [tmp_path / name for name in "abc"]
    for home in homes:
        home.mkdir()
    processes = [started(desk, home, failpoint) for home, failpoint in
                 zip(homes, ("submit_after_sbatch:crash:3", "", ""), strict=True)]  # fmt: skip
    try:
        eventually(lambda: len([True for token in tokens if desk.job(token, "status") == "PENDING"]) >= 11, timeout=60)
        desk.lapse()
        eventually(lambda: all(desk.job(token, "status") == "PENDING" for token in tokens), timeout=60)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)
    assert [len(desk.carrying(token)) for token in tokens] == [1] * len(tokens)


def test_a_controller_that_dies_changes_nothing_and_is_followed_again(desk: SlurmDesk, cluster: SlurmCluster) -> None:
    token = desk.want()
    desk.pass_until(token, "RUNNING")
    later = desk.want()
    desk.saved()
    cluster.kill_slurmctld()
    leader = desk.scheduler()
    assert leader.once()
    assert (desk.job(token, "status"), desk.job(later, "status")) == ("RUNNING", "WANTED")
    assert "E_SLURM" in desk.ours("problem")
    cluster.start_slurmctld()
    desk.pass_until(later, "RUNNING")
    assert desk.job(token, "status") == "RUNNING"
    assert desk.ours("problem") is None
    assert [len(desk.carrying(each)) for each in (token, later)] == [1, 1]


def test_a_controller_that_stalls_while_it_is_asked_has_the_job_once(desk: SlurmDesk, cluster: SlurmCluster) -> None:
    token = desk.want()
    leader = desk.leading()
    cluster.stall("slurmctld")
    try:
        leader.turn(look=False)
        assert desk.job(token, "status") == "SUBMITTING"
        leader.turn(look=True)
        assert (desk.job(token, "status"), desk.job(token, "missed")) == ("SUBMITTING", None)
    finally:
        cluster.resume("slurmctld")
    # what was sent while it stalled may come to it now: the token is looked for twice
    desk.pass_until(token, "RUNNING", missing=5.0)
    assert desk.carrying(token) == [desk.job(token, "slurm_id")]


def test_a_controller_that_lost_its_state_is_given_its_pilots_again(desk: SlurmDesk, cluster: SlurmCluster) -> None:
    desk.processor(workers=4, shape=ResourceRequest(ntasks=4))
    desk.scheduler().once()
    ((token,),) = desk.rows("SELECT token FROM pyfi.job")
    desk.pass_until(token, "RUNNING")
    cluster.kill_slurmctld()
    cluster.lose_state()
    cluster.start_slurmctld()
    cluster.wait_idle()
    desk.pass_until(token, "UNKNOWN")
    assert len(desk.jobs()) == 1, "unknown is not gone"
    desk.pass_until(token, "ENDED", lost=1.0)
    assert desk.job(token, "reason") == LOST
    ((other,),) = desk.rows("SELECT token FROM pyfi.job WHERE status <> 'ENDED'")
    desk.pass_until(other, "RUNNING")
    assert (len(desk.carrying(token)), len(desk.carrying(other))) == (0, 1)


def test_an_administrators_scancel_ends_the_job_and_hold_and_requeue_are_shown(
    desk: SlurmDesk, cluster: SlurmCluster
) -> None:
    token = desk.want()
    desk.pass_until(token, "RUNNING")
    job = desk.job(token, "slurm_id")
    cluster.run("scontrol", "requeuehold", job)
    desk.pass_until(token, "PENDING")
    assert desk.job(token, "restarts") == 1
    assert "held" in desk.job(token, "slurm_reason").lower()
    cluster.run("scancel", job)
    desk.pass_until(token, "ENDED")
    assert desk.job(token, "reason").startswith("CANCELLED")
