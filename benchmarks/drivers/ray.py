"""Calls Ray: `python -m benchmarks.drivers.ray WORKERS FOLDER` in its environment."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import ray

from benchmarks.drivers import tasks
from benchmarks.drivers.caller import PATIENCE, GraphCaller
from benchmarks.drivers.serving import serve


class _Ray(GraphCaller):
    def __init__(self, workers: int, folder: str) -> None:
        self._workers, self._folder = workers, folder
        self._open()

    def _open(self) -> None:
        ray.init(
            num_cpus=self._workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
            _temp_dir=self._folder, object_store_memory=2**30,
        )  # fmt: skip
        self._tasks = {name: ray.remote(getattr(tasks, name)) for name in ("double", "total", "where")}

    def restart(self) -> None:
        ray.shutdown()
        self._open()

    def submit(self, task: str, *arguments: object) -> Any:
        return self._tasks[task].remote(*arguments)

    def result(self, handle: Any) -> Any:
        return ray.get(handle, timeout=PATIENCE)

    def results(self, handles: Sequence[Any]) -> list[Any]:
        return list(ray.get(list(handles), timeout=PATIENCE))


if __name__ == "__main__":
    calls = _Ray(int(sys.argv[1]), sys.argv[2])
    try:
        serve(calls)
    finally:
        ray.shutdown()
