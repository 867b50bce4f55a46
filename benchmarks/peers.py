"""What the systems have in common that others make: an environment of their own, and processes that are found again."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from benchmarks.environment import environment_of
from benchmarks.marks import marked, sweep
from benchmarks.system import ROOT, WORKERS, Driver, Surroundings
from pyfi_hpc.processes import children


class Peer:
    """A system that others make: in an environment of its own, called by its module in `benchmarks.drivers`."""

    name: str
    what: str
    requirements: Sequence[str]
    does: Collection[str] = (
        "start", "bulk", "unbatched", "single", "cpu", "array-10kb", "array-1mb", "chain", "fan",
    )  # fmt: skip

    def __init__(self) -> None:
        self._python = Path()

    def start(self, around: Surroundings) -> Driver:
        """See `System`."""
        self._python = self._interpreter()
        around.stack.callback(sweep, self._mark)
        self._furnish(around)
        command = [str(self._python), "-m", f"benchmarks.drivers.{self.name}", *self._arguments(around)]
        return around.stack.enter_context(Driver(command, self.environment(around), self.log(around)))

    def _interpreter(self) -> Path:
        return environment_of(self.name, self.requirements)

    @property
    def _mark(self) -> str:
        """In the environment of everything that it starts: some daemons have no parent any more."""
        return f"{self.name}-{os.getpid()}"

    def environment(self, around: Surroundings) -> dict[str, str]:
        """Of its processes."""
        return {**os.environ, "BENCH_MARK": self._mark, "PYTHONPATH": str(ROOT)}

    def log(self, around: Surroundings) -> Path:
        """Where its workers write."""
        return around.folder / f"{self.name}.log"

    def _furnish(self, around: Surroundings) -> None:
        """Start the servers and workers that it has outside the calling process."""

    def _arguments(self, around: Surroundings) -> Sequence[str]:
        """Of its driver."""
        folder = around.folder / self.name
        folder.mkdir()
        return [str(WORKERS), str(folder)]

    def pids(self) -> Sequence[int]:
        """See `System`."""
        return sorted(marked(self._mark))

    def restart(self, driver: Driver) -> float:
        """See `System`."""
        seconds: float = driver.ask(restart=True)["seconds"]
        return seconds

    def versions(self) -> Mapping[str, str]:
        """See `System`."""
        code = "import sys, importlib.metadata as m; print(*[m.version(name) for name in sys.argv[1:]], sep='\\n')"
        names = [requirement.partition("[")[0].partition(">")[0] for requirement in self.requirements]
        done = subprocess.run([str(self._python), "-c", code, *names], capture_output=True, text=True, check=True)
        return dict(zip(names, done.stdout.split(), strict=True))


class ServedPeer(Peer):
    """A peer with RabbitMQ, Redis, and workers that a command line starts."""

    #: what is typed after `python -m`
    command: Sequence[str]
    #: The time that its workers have to end by themselves.
    ENDING_SECONDS = 10

    def __init__(self) -> None:
        super().__init__()
        self._worker: subprocess.Popen[bytes] | None = None
        self._around: Surroundings | None = None

    def environment(self, around: Surroundings) -> dict[str, str]:
        """See `Peer`."""
        return super().environment(around) | {"BENCH_BROKER": around.rabbitmq.uri, "BENCH_RESULTS": around.redis.uri}

    def _furnish(self, around: Surroundings) -> None:
        self._around = around
        around.stack.callback(self._end)
        self._launch()

    def _launch(self) -> None:
        assert self._around is not None
        with self.log(self._around).open("ab") as log:
            self._worker = subprocess.Popen(
                [str(self._python), "-m", *self.command],
                env=self.environment(self._around),
                cwd=self._around.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _end(self) -> None:
        """A warm shutdown, and where that takes long a cold one."""
        if self._worker is None:
            return
        self._worker.terminate()
        try:
            self._worker.wait(self.ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            helpers = children(self._worker.pid)
            self._worker.kill()
            self._worker.wait()
            sweep(self._mark, only=helpers)

    def _arguments(self, around: Surroundings) -> Sequence[str]:
        return ()

    def restart(self, driver: Driver) -> float:
        """See `System`."""
        self._end()
        began = time.perf_counter()
        self._launch()
        driver.first_call()
        return time.perf_counter() - began

    def pids(self) -> Sequence[int]:
        """See `System`: the servers too."""
        assert self._around is not None
        return [*super().pids(), self._around.rabbitmq.pid or 0, self._around.redis.pid]
