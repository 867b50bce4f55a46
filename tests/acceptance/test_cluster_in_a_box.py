"""`python -m pyfi_hpc.box`, as `make cluster` and `make cluster-stop` type it: a cluster, and no trace of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyfi_hpc.box.background import Background
from pyfi_hpc.box.cluster import traces
from pyfi_hpc.processes import alive, children
from tests.support import eventually


class Box:
    """The command, for a cluster of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "pyfi" / "cluster"
        self._environment = {**os.environ, "XDG_STATE_HOME": str(folder)}

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """What it prints on both streams."""
        command = [sys.executable, "-m", "pyfi_hpc.box", *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def shell(self, line: str) -> str:
        """What a shell prints that has sourced the cluster's variables."""
        command = ["bash", "-ec", f"source {self.home}/env; {line}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    @property
    def processes(self) -> list[int]:
        """Everything of it that runs."""
        pid = Background(self.home).pid
        return [pid, *below(pid)] if pid else []


def below(pid: int) -> list[int]:
    """The processes below one, at every depth."""
    return [found for child in children(pid) for found in (child, *below(child))]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path)
    yield made
    made("stop")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A cluster that runs."""
    made = Box(tmp_path_factory.mktemp("box"))
    try:
        made("start", "--nodes", "2")
        yield made
    finally:
        made("stop")


def test_after_source_slurm_s_commands_speak_to_it(started: Box) -> None:
    assert started.shell("sinfo --noheader --format=%P,%D") == "main*,2\ngpu,2\n"
    assert sorted(started.shell("srun --nodes=2 printenv SLURMD_NODENAME").split()) == ["n1", "n2"]


def test_after_source_pyfi_speaks_to_its_database_and_its_broker(started: Box) -> None:
    said = started.shell("pyfi doctor -o json")
    assert "RabbitMQ" in said
    assert "PostgreSQL" in said


def test_a_job_sees_the_gpus_of_its_node_by_nvml(started: Box) -> None:
    count = "import pynvml; pynvml.nvmlInit(); print(pynvml.nvmlDeviceGetCount())"
    assert started.shell(f"srun --gpus=1 {sys.executable} -c '{count}'") == "4\n"


def test_no_password_is_in_the_environment_of_a_job(started: Box) -> None:
    uri = next(line for line in (started.home / "pyfi.ini").read_text().splitlines() if line.startswith("uri"))
    password = uri.partition("pyfi:")[2].partition("@")[0]
    assert len(password) > 10
    assert password not in started.shell("srun env")
    assert (started.home / "pyfi.ini").stat().st_mode & 0o077 == 0


def test_a_second_start_says_that_it_runs_and_how_to_use_it(started: Box) -> None:
    before = Background(started.home).pid
    said = started("start")
    assert "runs already" in said
    assert f"source {started.home}/env" in said
    assert Background(started.home).pid == before
    assert "The cluster runs." in started("status")


def test_a_stop_leaves_nothing(box: Box) -> None:
    said = box("start", "--nodes", "1", "--gpus", "0")
    assert "==> Starting RabbitMQ" in said
    processes, folders = box.processes, traces(box.home)
    assert len(processes) > 10
    assert len(folders) == 4
    assert "nothing of it is left" in box("stop")
    assert not [pid for pid in processes if alive(pid)]
    assert not [folder for folder in folders if folder.exists()]
    assert list(box.home.parent.iterdir()) == []


@pytest.mark.parametrize("end", ["killed", "folder taken away"])
def test_a_cluster_that_ends_in_another_way_leaves_nothing_either(box: Box, end: str) -> None:
    box("start", "--nodes", "1", "--gpus", "0")
    processes, folders = box.processes, traces(box.home)
    if end == "killed":
        holder = children(processes[0])[0]
        os.kill(holder, signal.SIGKILL)
    else:
        shutil.rmtree(box.home)
    eventually(lambda: not [pid for pid in processes if alive(pid)], timeout=30)
    assert not [folder for folder in folders if folder.exists()]
    assert "No cluster runs." in box("status")


def test_what_does_not_run_is_not_stopped_and_that_is_no_error(box: Box) -> None:
    assert "No cluster runs." in box("stop")


def test_a_folder_that_is_not_a_cluster_s_is_left_alone(box: Box, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis").write_text("words")
    assert "not a cluster's" in box("start", "--home", str(mine), code=3)
    box("stop", "--home", str(mine))
    assert (mine / "thesis").read_text() == "words"
