"""Peers whose workers are the calling process's own: nothing of them is durable."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers import Peer
from benchmarks.system import WORKERS, Surroundings


class Parsl(Peer):
    """Its executor for clusters, on this machine, logging as it does by itself."""

    name = "parsl"
    what = f"Parsl HTEX, LocalProvider, {WORKERS} workers"
    requirements = ("parsl", "numpy")

    def environment(self, around: Surroundings) -> dict[str, str]:
        """See `Peer`: its programs are found on PATH."""
        own = super().environment(around)
        return own | {"PATH": f"{self._python.parent}:{own['PATH']}"}


class Dask(Peer):
    """The scheduler in the calling process, each worker in one of its own."""

    name = "dask"
    what = f"Dask distributed, LocalCluster, {WORKERS} workers of one thread"
    requirements = ("distributed", "numpy")


class Ray(Peer):
    """Everything local, without a dashboard."""

    name = "ray"
    what = f"Ray, num_cpus {WORKERS}"
    requirements = ("ray", "numpy")


class Pool(Peer):
    """The floor: pipes between processes, nothing else."""

    name = "pool"
    what = f"concurrent.futures.ProcessPoolExecutor, {WORKERS} workers"
    requirements = ()

    def _interpreter(self) -> Path:
        """Python's own, with nothing to install."""
        return Path(sys.executable)

    def _arguments(self, around: Surroundings) -> Sequence[str]:
        return [str(WORKERS)]
