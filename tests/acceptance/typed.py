"""`pyfi` as a person types it, in this very process: what takes many commands takes no time to start them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from pyfi_hpc import logs
from pyfi_hpc.cli.main import run


@dataclass(frozen=True)
class Done:
    """What a command wrote, and its exit code."""

    status: int
    stdout: str
    stderr: str


class Typed:
    """Runs command lines with these variables, and without this process's own settings."""

    def __init__(self, home: Path, variables: Mapping[str, str]) -> None:
        ours = {"PYFI_HOME": str(home / "state"), "PYFI_PATHS_CACHE": str(home / "cache"), "HOME": str(home)}
        self.home = home
        self.environment = {**{k: v for k, v in os.environ.items() if not k.startswith("PYFI_")}, **ours, **variables}

    def run(self, line: str, status: int = 0) -> Done:
        """Run a command line, which must end with that exit code."""
        words = shlex.split(line)
        assert words[0] == "pyfi"
        out, err = io.StringIO(), io.StringIO()
        with self._surroundings(), _own_log(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(words[1:])
        done = Done(code, out.getvalue(), err.getvalue())
        assert code == status, f"{line}\n{done.stdout}{done.stderr}"
        return done

    def __call__(self, line: str, status: int = 0) -> str:
        """Its results, or what it says to an error."""
        done = self.run(line, status)
        return done.stdout if status == 0 else done.stderr

    def items(self, line: str) -> list[dict[str, Any]]:
        """Its results as records."""
        found: list[dict[str, Any]] = json.loads(self(f"{line} -o json"))["items"]
        return found

    @contextlib.contextmanager
    def _surroundings(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch, open(os.devnull) as nothing:
            for name in set(os.environ) - set(self.environment):
                patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.chdir(self.home)
            patch.setattr("sys.stdin", nothing)
            yield


@contextlib.contextmanager
def _own_log() -> Iterator[None]:
    """How a command sets up the log ends with the command, as it does with a process."""
    before = structlog.get_config() if structlog.is_configured() else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_pending", [])
        try:
            yield
        finally:
            structlog.reset_defaults()
            if before is not None:
                structlog.configure(**before)
