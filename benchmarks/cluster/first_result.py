"""From `pyfi submit` to the first result of a call, beside Parsl and Dask on the same Slurm, all as they are typed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cluster import store
from benchmarks.cluster.report import Round, Surroundings
from benchmarks.environment import environment_of
from benchmarks.system import ROOT
from pyfi_hpc.box.cluster import Cluster
from pyfi_hpc.processes import until
from tests.support_git import make_repository

SECONDS, NET, RATIO = "seconds", "less Slurm's own start", "of pyfi's"
#: The peers: requirements of their environments, and the programs that are run there.
PEERS: Mapping[str, tuple[Sequence[str], str]] = {
    "Parsl": (("parsl",), "benchmarks.cluster.parsl_driver"),
    "dask-jobqueue": (("dask-jobqueue",), "benchmarks.cluster.dask_driver"),
}
_PYFI, _SBATCH = "pyfi submit, pyfi call", "sbatch to the first line of its script"
#: As they are where nobody sets them: the box itself is set for tests.
_DEFAULTS = {"PYFI_AGENT_POLL_SECONDS": "2", "PYFI_SLURM_POLL_SECONDS": "10"}
_SCRIPT = "#!/bin/bash\necho $EPOCHREALTIME > {file}\n"
_TASKS = "def double(x):\n    return x * 2\n"


@contextmanager
def open_first_result(around: Surroundings) -> Iterator[Callable[[], Round]]:
    """Everything that is made once is there: the processor's environment, and the peers'. See `report.Benchmark`."""
    pythons = {name: environment_of(name, requirements) for name, (requirements, _) in PEERS.items()}
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(1, gpus=0))
        site = _Site(cluster, around.folder, pythons)
        site.furnish()
        stack.enter_context(site.scheduler())
        site.round()
        yield site.round


@dataclass
class _Site:
    """A cluster in a box with one processor, and somebody who types."""

    cluster: Cluster
    folder: Path
    pythons: Mapping[str, Path]

    @property
    def environment(self) -> dict[str, str]:
        """Of everything that is typed."""
        cache = {"XDG_CACHE_HOME": str(self.folder / "cache")}
        return {**os.environ, **self.cluster.environment, **_DEFAULTS, **cache}

    def furnish(self) -> None:
        """A processor of one task."""
        url, _ = make_repository(self.folder / "repository", {"tasks.py": _TASKS})
        self.pyfi("add", "processor", "-n", "bench", "-g", url, "-m", "tasks", "-rs", "stopped")
        self.pyfi("add", "queue", "-n", "bench")
        self.pyfi("add", "socket", "-n", "bench.double", "-q", "bench", "-pn", "bench", "-t", "double")
        self.pyfi("add", "scheduler", "-n", "bench")

    def pyfi(self, *words: str) -> str:
        """What the command prints."""
        return _run([_program("pyfi"), *words], self.environment, self.folder)

    @contextmanager
    def scheduler(self) -> Iterator[None]:
        """It runs."""
        command = [_program("pyfi"), "scheduler", "start", "-n", "bench"]
        with (self.folder / "scheduler.log").open("wb") as log:
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
            try:
                yield
            finally:
                process.terminate()
                process.wait(30)

    # one round

    def round(self) -> Round:
        """Slurm alone, ours and the peers', one after another."""
        start = self._sbatch()
        seconds, parts = self._submit_and_call()
        rows = {_SBATCH: {SECONDS: start}, _PYFI: self._row(seconds, start, seconds)}
        for name in PEERS:
            rows[name] = self._row(self._peer(name), start, seconds)
        return {**rows, **{f"pyfi: {part}": {SECONDS: value} for part, value in parts.items()}}

    def _row(self, seconds: float, start: float, ours: float) -> dict[str, float]:
        return {SECONDS: seconds, NET: seconds - start, RATIO: (seconds - start) / (ours - start)}

    def _sbatch(self) -> float:
        script = self._noting("started")
        began = time.time()
        self.cluster.slurm.run("sbatch", "--ntasks=1", "--mem=100", "--output=/dev/null", str(script))
        return self._noted("started") - began

    def _submit_and_call(self) -> tuple[float, dict[str, float]]:
        script = self._noting("set-up")
        began = time.time()
        job = self.pyfi("submit", "-n", "1", "--mem=100", "-t", "10", "--parsable", "--processor", "bench", str(script))
        printed = self.pyfi("call", "bench.double", "21")
        ended = time.time()
        _check(printed)
        parts = self._parts(job, began, ended)
        self.pyfi("cancel", job)
        self._reach(lambda: self._one("SELECT status = 'ENDED' FROM pyfi.job WHERE slurm_id = %s", job)[0])
        return ended - began, parts

    def _parts(self, job: str, began: float, ended: float) -> dict[str, float]:
        """Where the time went, by what is on record; the parts together are the whole."""
        recorded, asked, registered = self._one(
            """SELECT extract(epoch FROM j.created)::float8, extract(epoch FROM j.submitted)::float8,
                   (SELECT extract(epoch FROM min(a.started))::float8 FROM pyfi.agent a WHERE a.job_id = j.id)
               FROM pyfi.job j WHERE j.slurm_id = %s""",
            job,
        )
        started, committed = self._one(
            """SELECT extract(epoch FROM started)::float8, extract(epoch FROM committed)::float8 FROM pyfi.outcome
               ORDER BY committed DESC LIMIT 1"""
        )
        names = {
            "pyfi submit starts, checks, puts the job on record": recorded,
            "the scheduler comes to it": asked,
            "sbatch, Slurm, srun": self._noted("set-up"),
            "the agent starts and registers": registered,
            "the worker starts and gets the call": started,
            "the call is run and committed": committed,
            "pyfi call prints it": ended,
        }
        ends = [began, *names.values()]
        return {name: ends[place + 1] - ends[place] for place, name in enumerate(names)}

    def _peer(self, name: str) -> float:
        python = self.pythons[name]
        environment = {**self.environment, "PATH": f"{python.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        command = [str(python), "-m", PEERS[name][1], str(self.folder / name)]
        with (self.folder / f"{name}.log").open("wb") as log:
            began = time.time()
            process = subprocess.Popen(command, env=environment, cwd=self.folder, stdout=subprocess.PIPE, stderr=log)
            assert process.stdout is not None
            printed = process.stdout.readline().decode().strip()
            ended = time.time()
            process.wait(60)
        _check(printed, (self.folder / f"{name}.log").read_text)
        self.cluster.slurm.clear()
        return ended - began

    # a little help

    def _noting(self, name: str) -> Path:
        """A script that writes down when it runs."""
        (self.folder / name).unlink(missing_ok=True)
        script = self.folder / f"{name}.sh"
        script.write_text(_SCRIPT.format(file=self.folder / name))
        return script

    def _noted(self, name: str) -> float:
        self._reach(lambda: (self.folder / name).exists() and (self.folder / name).read_text().endswith("\n"))
        return float((self.folder / name).read_text())

    def _one(self, statement: str, *values: object) -> tuple[float, ...]:
        with store.session(self.cluster.postgres.uri()) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
            row: tuple[float, ...] = cursor.fetchone()
            return row

    def _reach(self, true: Callable[[], object]) -> None:
        if not until(lambda: bool(true()), 60.0, interval=0.01):
            raise RuntimeError(f"nothing happens: {self.cluster.slurm.ask('squeue')}")


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _run(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> str:
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-1000:]}")
    return done.stdout.strip()


def _check(printed: str, why: Callable[[], str] = str) -> None:
    if printed != "42":
        raise RuntimeError(f"a result is wrong: {printed!r} {why()[-1000:]}")
