"""A pilot's life as a person sees it: a real Slurm, real agents on its nodes, every command typed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyfi_hpc.box.postgres import ADMIN, ROLE, Postgres
from pyfi_hpc.box.slurm import SlurmCluster
from pyfi_hpc.db import schema
from tests.acceptance.typed import Typed
from tests.support import eventually
from tests.support_git import make_repository

pytestmark = pytest.mark.slow

CODE = """
def do_something(message):
    return f"Self: {message}"
"""


class Cluster(Typed):
    """A person on a login node."""

    def __init__(self, home: Path, slurm: SlurmCluster, database: str) -> None:
        ours = {
            "PYFI_DATABASE_URI": database,
            "PYFI_GIT_ALLOW": f"file://{home}",
            "PYFI_SLURM_POLL_SECONDS": "1",
        }
        super().__init__(home, {**slurm.environment, **ours})

    def job(self, which: str) -> dict[str, object]:
        """All of one job."""
        return self.items(f"pyfi show job {which}")[0]

    def live(self) -> list[str]:
        """The jobs that Slurm has and that have not ended."""
        return [row["job"] for row in self.items("pyfi ls jobs") if row["job"] and row["status"] != "ENDED"]

    def ends(self, which: str) -> None:
        """Return once the job has ended."""
        eventually(lambda: self.job(which)["status"] == "ENDED", timeout=60, interval=0.5)


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmCluster]:
    """Two nodes of four cores."""
    with SlurmCluster(2, cpus=4, gpus=0) as made:
        yield made


@pytest.fixture(scope="module")
def pyfi(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One processor, which is stopped, with a socket."""
    home = tmp_path_factory.mktemp("pilots")
    url, _ = make_repository(home / "repository", {"sample.py": CODE})
    with Postgres() as postgres:
        schema.init(postgres.uri(ADMIN), grant_to=ROLE)
        shell = Cluster(home, slurm, postgres.uri(ROLE))
        shell("pyfi add queue -n q1")
        shell(f"pyfi add processor -n proc1 -g {url} -m sample -t do_something -rs stopped")
        shell("pyfi add socket -n proc1.do_something -q q1 -pn proc1 -t do_something")
        yield shell
        slurm.clear()


def test_a_pilot_is_submitted_works_and_is_cancelled_with_nobody_leading(pyfi: Cluster) -> None:
    said = pyfi("pyfi submit -p main -N 2 -n 4 -t 10 --processor proc1")
    job = said.split()[2]
    assert said.startswith(f"Submitted job {job} (4 workers, one per task)")
    called = pyfi.run("pyfi call proc1.do_something '\"Hello World !\"' -v --timeout 100")
    assert called.stdout == "Self: Hello World !\n"
    assert f"job {job}" in called.stderr

    eventually(lambda: pyfi.job(job)["ready"] == 4, timeout=30, interval=0.5)
    (row,) = pyfi.items("pyfi ls jobs")
    assert (row["job"], row["processor"], row["status"], row["workers"]) == (job, "proc1", "RUNNING", 4)
    assert {worker["job"] for worker in pyfi.items("pyfi ps")} == {job}
    assert pyfi(f"pyfi show job {job} --script").startswith("#!/bin/bash\n#SBATCH")
    eventually(lambda: "agent ready" in pyfi(f"pyfi logs {job}"), timeout=30, interval=0.5)
    assert "live job" in pyfi("pyfi delete scheduler default -y", status=2)
    assert "live job" in pyfi("pyfi delete processor proc1 -y", status=2)

    (cancelled,) = pyfi.items(f"pyfi cancel {job}")
    assert (cancelled["id"], cancelled["cancelled"]) == (job, True)
    followed = pyfi.run(f"pyfi logs -f {job}")
    assert "stopping: finishing what runs" in followed.stdout
    assert f"job {job} ended" in followed.stderr
    assert pyfi.items("pyfi ps") == []
    assert [path.name for path in (pyfi.home / "state" / "jobs").glob("*.ini")] == []


def test_a_scheduler_that_leads_sends_the_pilots_that_processors_lack(pyfi: Cluster) -> None:
    log = pyfi.home / "scheduler.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pyfi_hpc", "scheduler", "start", "-n", "default"],
            env=pyfi.environment, cwd=pyfi.home, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        )  # fmt: skip
    try:
        eventually(lambda: pyfi.items("pyfi ls schedulers")[0]["leader"], timeout=30, interval=0.5)
        pyfi("pyfi proc start -n proc1")
        (job,) = eventually(pyfi.live, timeout=30, interval=0.5)
        assert pyfi("pyfi call proc1.do_something '\"again\"' --timeout 100") == "Self: again\n"
        pyfi("pyfi proc stop -n proc1")
        pyfi.ends(job)
        eventually(lambda: pyfi.items("pyfi ls processors")[0]["status"] == "STOPPED", timeout=30, interval=0.5)
        assert pyfi.live() == []
        cured = pyfi("pyfi doctor slurm -o json")
        assert all(word in cured for word in ("slurm-wlm", "answers for cluster", "main: 2 nodes"))
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(30)
    assert status == 0, log.read_text()
    assert pyfi.items("pyfi ls schedulers")[0]["leader"] is None


def test_with_nobody_leading_starting_and_stopping_a_processor_sends_and_cancels_its_pilot(pyfi: Cluster) -> None:
    before = len(pyfi.items("pyfi ls jobs"))
    pyfi("pyfi proc start -n proc1")
    (job,) = pyfi.live()
    pyfi("pyfi proc stop -n proc1")
    pyfi.ends(job)
    assert len(pyfi.items("pyfi ls jobs")) == before + 1, "looking at jobs sends none"


def test_doctor_names_a_controller_that_is_stopped(pyfi: Cluster, slurm: SlurmCluster) -> None:
    slurm.kill_slurmctld()
    try:
        found = json.loads(pyfi.run("pyfi doctor slurm -o json", status=3).stdout)["items"]
    finally:
        slurm.start_slurmctld()
    bad = [(each["check"], "E_SLURM" in each["seen"]) for each in found if each["mark"] == "✗"]
    assert bad == [("slurmctld", True)]
    eventually(lambda: slurm.ask("scontrol", "ping").endswith("UP"), timeout=30)
    pyfi("pyfi doctor slurm")


def test_doctor_names_a_node_whose_slurmd_does_not_answer(pyfi: Cluster, slurm: SlurmCluster) -> None:
    slurm.power_off("n2")
    try:
        eventually(lambda: "no slurmd answers on n2" in pyfi("pyfi doctor slurm"), timeout=60, interval=0.5)
    finally:
        slurm.power_on("n2")
    eventually(lambda: "no slurmd answers" not in pyfi("pyfi doctor slurm"), timeout=60, interval=0.5)


def test_what_slurm_refuses_is_told_in_its_own_words(pyfi: Cluster) -> None:
    refused = pyfi("pyfi submit -p nowhere -n 1 --processor proc1", status=2)
    assert "nowhere" in refused
    assert "no such" in refused or "E_NOT_FOUND" in refused
