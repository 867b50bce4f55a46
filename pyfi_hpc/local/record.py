"""What the background service writes down about itself, and whether that is still true."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec

from pyfi_hpc.errors import BadInput, PyfiError
from pyfi_hpc.processes import alive, start_ticks


class Running(msgspec.Struct, frozen=True):
    """The record `local.json`: a process, known by number and start, that serves the state directory."""

    pid: int
    ticks: int
    started: float
    cores: int
    idle_minutes: float
    version: str

    @property
    def true(self) -> bool:
        return alive(self.pid) and start_ticks(self.pid) == self.ticks


class NotStarted(msgspec.Struct, frozen=True):
    """What a service says that cannot start; `refused`: as long as nobody changes something."""

    code: str
    what: str
    at: str | None
    cure: str | None
    refused: bool

    @classmethod
    def of(cls, error: PyfiError) -> Self:
        """What is to be said of `error`."""
        return cls(error.code, error.what, error.at, error.cure, isinstance(error, BadInput))


class Records:
    """The files of the service in one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self._file = state_dir / "local.json"
        self.log = state_dir / "log" / "local.log"

    def make(self) -> None:
        """The state directory is there, and nobody else may enter it; one that was there keeps its permissions.

        Raises:
            BadInput: E_CONFIG, it cannot be made.
        """
        try:
            self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.log.parent.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            what = f"the state directory cannot be made: {(error.strerror or 'no reason given').lower()}"
            cure = "name another one: PYFI_HOME=/path/to/folder"
            raise BadInput.of("E_CONFIG", "paths.state", str(self.state_dir), what, cure=cure) from error

    def running(self) -> Running | None:
        """The service that runs now."""
        try:
            found = msgspec.json.decode(self._file.read_bytes(), type=Running)
        except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
            return None
        return found if found.true else None

    def write(self, running: Running) -> None:
        """The service is ready."""
        fresh = self._file.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(running))
        fresh.rename(self._file)

    def remove(self) -> None:
        """The service is not to be used any more."""
        self._file.unlink(missing_ok=True)

    def touch(self) -> None:
        """Somebody is about to use the service."""
        os.utime(self._file)

    def touched_seconds_ago(self) -> float:
        """Since when nobody was about to use it."""
        try:
            return time.time() - self._file.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock `name`; waits for another process that has it."""
        with (self.state_dir / f"{name}.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
