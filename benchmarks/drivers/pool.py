"""Calls `concurrent.futures`: `python -m benchmarks.drivers.pool WORKERS`. Nothing is durable: the floor."""

from __future__ import annotations

import sys
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from benchmarks.drivers import tasks
from benchmarks.drivers.caller import PATIENCE, Caller
from benchmarks.drivers.serving import serve


class _Pool(Caller):
    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool = ProcessPoolExecutor(workers)

    def restart(self) -> None:
        self._pool.shutdown()
        self._pool = ProcessPoolExecutor(self._workers)

    def submit(self, task: str, *arguments: object) -> Any:
        return self._pool.submit(getattr(tasks, task), *arguments)

    def result(self, handle: Future[Any]) -> Any:
        return handle.result(PATIENCE)

    def close(self) -> None:
        """End the workers."""
        self._pool.shutdown()


if __name__ == "__main__":
    pool = _Pool(int(sys.argv[1]))
    try:
        serve(pool)
    finally:
        pool.close()
