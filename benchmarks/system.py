"""What can be measured: a system with its servers and workers, and the process that calls it."""

from __future__ import annotations

import json
import select
import subprocess
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from benchmarks.redis import Redis
from pyfi_hpc.box.rabbitmq import RabbitMQ

#: The repository's root: what the drivers import is found from there.
ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2
#: No answer takes longer: a system that hangs ends the run.
PATIENCE_SECONDS = 600.0


class Surroundings:
    """What the systems of one run share; each part is started when the first of them asks for it."""

    def __init__(self, folder: Path, stack: ExitStack, wanted: Collection[str]) -> None:
        """`folder` is the run's own; what is started ends with `stack`; `wanted` names the measures of the run."""
        self.folder, self.stack, self.wanted = folder, stack, wanted
        self._rabbitmq: RabbitMQ | None = None
        self._redis: Redis | None = None

    @property
    def rabbitmq(self) -> RabbitMQ:
        """One RabbitMQ node."""
        if self._rabbitmq is None:
            self._rabbitmq = self.stack.enter_context(RabbitMQ())
        return self._rabbitmq

    @property
    def redis(self) -> Redis:
        """One Redis."""
        if self._redis is None:
            self._redis = self.stack.enter_context(Redis(self.folder / "redis"))
        return self._redis


class System(Protocol):
    """One row of the tables."""

    #: what `--systems`, `--json` and messages call it
    name: str
    #: what it is, in one line
    what: str
    #: the names of the measures that it has
    does: Collection[str]

    def start(self, around: Surroundings) -> Driver:
        """It is up; everything that it started ends with the surroundings."""

    def pids(self) -> Sequence[int]:
        """Its processes besides the driver, servers included; what they started counts with them."""

    def restart(self, driver: Driver) -> float:
        """End its workers, and start others: seconds from there to the first result, with servers up."""

    def versions(self) -> Mapping[str, str]:
        """Package -> version, of what makes the difference."""


class Driver:
    """A process that runs `drivers.serving.serve`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path | None = None) -> None:
        """`log`: where its workers write, for when it fails."""
        self._log = log
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )
        self._command = command

    @property
    def pid(self) -> int:
        """The calling process."""
        return self._process.pid

    def wait_ready(self) -> None:
        """Its first call has come back."""
        self._answer()

    def ask(self, **command: float | str | bool) -> dict[str, Any]:
        """What it answers.

        Raises:
            RuntimeError: it has ended, or does not answer; its standard error says why.
        """
        self._say(command)
        return self._answer()

    def first_call(self) -> None:
        """One call, waited for."""
        self.ask(one="single", seconds=0.0)

    def _say(self, command: Mapping[str, float | str | bool]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        # it writes one line for each command, so that none is left in the buffer
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE_SECONDS)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            why = f"ended with status {self._process.wait(10)}" if ready else f"is silent for {PATIENCE_SECONDS:g} s"
            said = self._log.read_text(errors="replace")[-2000:] if self._log and self._log.exists() else ""
            raise RuntimeError(f"{' '.join(self._command)} {why}\n{said}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
