"""What can be measured: a system with its servers and workers, and the process that calls it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from pyfi_hpc.box.rabbitmq import RabbitMQ

#: The repository's root: what the drivers import is found from there.
ROOT = Path(__file__).resolve().parent.parent


class Surroundings:
    """What the systems of one run share; each part is started when the first of them asks for it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        """`folder` is the run's own; what is started ends with `stack`."""
        self.folder, self.stack = folder, stack
        self._rabbitmq: RabbitMQ | None = None

    @property
    def rabbitmq(self) -> RabbitMQ:
        """One RabbitMQ node."""
        if self._rabbitmq is None:
            self._rabbitmq = self.stack.enter_context(RabbitMQ())
        return self._rabbitmq


class System(Protocol):
    """One row of the table."""

    #: what `--json` and messages call it
    name: str
    #: what it is, in one line
    what: str

    def start(self, around: Surroundings) -> Driver:
        """It is warm; everything that it started ends with the surroundings."""

    def pids(self) -> Sequence[int]:
        """Its processes besides the driver, servers included; what they started counts with them."""


class Driver:
    """A process that runs `driver.serve`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )
        self._command = command

    @property
    def pid(self) -> int:
        """The calling process."""
        return self._process.pid

    def wait_ready(self) -> None:
        """It has warmed up."""
        self._answer()

    def ask(self, **command: float) -> dict[str, Any]:
        """What it answers.

        Raises:
            RuntimeError: it has ended; its standard error says why.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self._command)} ended with status {self._process.wait(10)}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
