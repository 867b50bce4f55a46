"""Celery, as durable as it gets: quorum queue, confirmed publishes, late acks, results in Redis."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.environment import environment_of
from benchmarks.redis import Redis
from benchmarks.system import ROOT, Driver, Surroundings
from pyfi_hpc.box.rabbitmq import RabbitMQ

REQUIREMENTS = ("celery[redis]>=5.5,<6",)
WORKERS = 2


class Celery:
    """One worker process of the prefork kind with two children."""

    name = "celery"
    what = f"Celery, RabbitMQ quorum queue, Redis results, prefork -c {WORKERS}"

    def __init__(self) -> None:
        self._pids: list[int] = []

    def start(self, around: Surroundings) -> Driver:
        """See `System`."""
        python = environment_of(self.name, REQUIREMENTS)
        redis = around.stack.enter_context(Redis(around.folder / "redis"))
        variables = {
            **os.environ,
            "BENCH_BROKER": around.rabbitmq.uri,
            "BENCH_RESULTS": redis.uri,
            "PYTHONPATH": str(ROOT),
        }
        worker = self._worker(python, variables, around)
        self._pids = [_pid(around.rabbitmq), redis.pid, worker.pid]
        return around.stack.enter_context(Driver([str(python), "-m", "benchmarks.celery_driver"], variables))

    def _worker(self, python: Path, variables: dict[str, str], around: Surroundings) -> subprocess.Popen[bytes]:
        words = f"--app benchmarks.celery_app worker --pool prefork -c {WORKERS} --loglevel WARNING".split()
        with (around.folder / "celery.log").open("wb") as log:
            worker = subprocess.Popen(
                [str(python), "-m", "celery", *words, "--without-gossip", "--without-mingle"],
                env=variables,
                cwd=around.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        around.stack.callback(_end, worker)
        return worker

    def pids(self) -> Sequence[int]:
        """See `System`."""
        return self._pids


def _pid(server: RabbitMQ) -> int:
    assert server.pid is not None
    return server.pid


def _end(worker: subprocess.Popen[bytes]) -> None:
    """A warm shutdown, and where that takes long a cold one."""
    worker.terminate()
    try:
        worker.wait(10)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
