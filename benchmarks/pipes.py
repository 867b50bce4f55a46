"""Pipes between workers, without agents, and what they are set against: the same arrays through raw shared memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence

from benchmarks.system import ROOT, Driver, Surroundings


class _Ends:
    """Two processes, one of them the driver."""

    name: str
    what: str
    does: Collection[str] = ("pipe",)

    def start(self, around: Surroundings) -> Driver:
        """See `System`."""
        folder = around.folder / self.name
        folder.mkdir(mode=0o700)
        command = [sys.executable, "-m", f"benchmarks.drivers.{self.name.replace('-', '_')}", str(folder)]
        return around.stack.enter_context(Driver(command, {**os.environ, "PYTHONPATH": str(ROOT)}))

    def pids(self) -> Sequence[int]:
        """See `System`."""
        return ()

    def restart(self, driver: Driver) -> float:
        """See `System`."""
        raise NotImplementedError

    def versions(self) -> Mapping[str, str]:
        """See `System`."""
        return {}


class PyfiPipes(_Ends):
    """As workers use them."""

    name = "pyfi-pipes"
    what = "pyfi-hpc's pipes between workers"


class SharedMemory(_Ends):
    """No system at all."""

    name = "shared-memory"
    what = "raw shared memory with a pipe as its bell"
