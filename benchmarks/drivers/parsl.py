"""Calls Parsl: `python -m benchmarks.drivers.parsl WORKERS FOLDER` in its environment."""

from __future__ import annotations

import sys
from typing import Any

import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

from benchmarks.drivers import tasks
from benchmarks.drivers.caller import PATIENCE, GraphCaller
from benchmarks.drivers.serving import serve


class _Parsl(GraphCaller):
    def __init__(self, workers: int, folder: str) -> None:
        self._workers, self._folder = workers, folder
        self._open()

    def _open(self) -> None:
        provider = LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1)
        executor = HighThroughputExecutor(
            label="bench", address="127.0.0.1", max_workers_per_node=self._workers, cores_per_worker=0.1,
            prefetch_capacity=0, provider=provider,
        )  # fmt: skip
        self._kernel = parsl.load(Config(executors=[executor], run_dir=self._folder))
        names = ("double", "total", "where")
        self._tasks = {name: parsl.python_app(getattr(tasks, name), data_flow_kernel=self._kernel) for name in names}

    def restart(self) -> None:
        self.close()
        self._open()

    def submit(self, task: str, *arguments: object) -> Any:
        return self._tasks[task](*arguments)

    def result(self, handle: Any) -> Any:
        return handle.result(PATIENCE)

    def close(self) -> None:
        """End the workers."""
        self._kernel.cleanup()
        parsl.clear()


if __name__ == "__main__":
    calls = _Parsl(int(sys.argv[1]), sys.argv[2])
    try:
        serve(calls)
    finally:
        calls.close()
