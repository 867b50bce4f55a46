"""Dask's side, run in its own environment: a worker on Slurm, one call, its result printed. Argument: a folder."""

from __future__ import annotations

import sys

from dask_jobqueue import SLURMCluster
from distributed import Client


def double(x: int) -> int:
    """Twice x."""
    return x * 2


def main() -> None:
    """One worker on one node, everything else as dask-jobqueue has it."""
    cluster = SLURMCluster(
        queue="main", cores=1, processes=1, memory="1GB", walltime="00:10:00", log_directory=sys.argv[1],
        local_directory=sys.argv[1], scheduler_options={"host": "127.0.0.1"},
    )  # fmt: skip
    with cluster, Client(cluster) as client:
        cluster.scale(jobs=1)
        print(client.submit(double, 21).result(), flush=True)


if __name__ == "__main__":
    main()
