"""Calls Dask: `python -m benchmarks.drivers.dask WORKERS FOLDER` in its environment."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import dask
from distributed import Client, LocalCluster

from benchmarks.drivers import tasks
from benchmarks.drivers.caller import PATIENCE, GraphCaller
from benchmarks.drivers.serving import serve


class _Dask(GraphCaller):
    def __init__(self, workers: int, folder: str) -> None:
        self._workers, self._folder = workers, folder
        self._open()

    def _open(self) -> None:
        self._cluster = LocalCluster(
            n_workers=self._workers, threads_per_worker=1, processes=True, dashboard_address=None,
            local_directory=self._folder, host="127.0.0.1",
        )  # fmt: skip
        self._client = Client(self._cluster)

    def restart(self) -> None:
        self.close()
        self._open()

    def submit(self, task: str, *arguments: object) -> Any:
        # pure: it would take a second call with the same input for the first one
        return self._client.submit(getattr(tasks, task), *arguments, pure=False)

    def result(self, handle: Any) -> Any:
        return handle.result(PATIENCE)

    def results(self, handles: Sequence[Any]) -> list[Any]:
        return list(self._client.gather(handles))

    def close(self) -> None:
        """End the workers."""
        self._client.close()
        self._cluster.close()


if __name__ == "__main__":
    # many futures at once are meant here
    dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"})
    calls = _Dask(int(sys.argv[1]), sys.argv[2])
    try:
        serve(calls)
    finally:
        calls.close()
