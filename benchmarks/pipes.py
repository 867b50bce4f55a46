"""What pipes between workers are set against: the same arrays through raw shared memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence

from benchmarks.system import ROOT, Driver, Surroundings


class SharedMemory:
    """Two processes, no system at all."""

    name = "shared-memory"
    what = "raw shared memory with a pipe as its bell"
    does: Collection[str] = ("pipe",)

    def start(self, around: Surroundings) -> Driver:
        """See `System`."""
        command = [sys.executable, "-m", "benchmarks.drivers.shared_memory"]
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
