"""pyfi-hpc on each of its brokers: one agent, two workers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.system import ROOT, Driver, Surroundings
from pyfi_hpc.box.postgres import ADMIN, ROLE, Postgres
from pyfi_hpc.db import schema
from pyfi_hpc.db.embedded import EmbeddedPostgres
from tests.site import Site

WORKERS = 2
_SOCKET = "p.double"


class _Pyfi:
    """An installation as `tests/site.py` puts it together, with servers of its own."""

    name: str
    what: str

    def __init__(self) -> None:
        self._servers: list[int] = []
        self._agent = 0

    def start(self, around: Surroundings) -> Driver:
        """Servers, schema, agent and driver; see `System`."""
        home = around.folder / self.name
        home.mkdir()
        site = self._site(around, home)
        around.stack.callback(site.close)
        site.processor("double", workers=WORKERS)
        self._agent = site.agent().pid
        site.ready(WORKERS)
        command = [sys.executable, "-m", "benchmarks.pyfi_driver", _SOCKET]
        return around.stack.enter_context(Driver(command, {**site.environment, "PYTHONPATH": str(ROOT)}))

    def _site(self, around: Surroundings, home: Path) -> Site:
        raise NotImplementedError

    def pids(self) -> Sequence[int]:
        """See `System`."""
        return [*self._servers, self._agent]


class PyfiRabbitMQ(_Pyfi):
    """With the servers that a group of people would have."""

    name = "pyfi-rabbitmq"
    what = f"pyfi-hpc, RabbitMQ quorum queue, PostgreSQL server, {WORKERS} workers"

    def _site(self, around: Surroundings, home: Path) -> Site:
        postgres = around.stack.enter_context(Postgres())
        schema.init(postgres.uri(ADMIN), grant_to=ROLE)
        self._servers = [around.rabbitmq.pid or 0, postgres.pid or 0]
        return Site(home, postgres.uri(), around.rabbitmq.uri)


class PyfiEmbedded(_Pyfi):
    """With nothing but what pip installs."""

    name = "pyfi-embedded"
    what = f"pyfi-hpc, embedded (PostgreSQL is the broker too), {WORKERS} workers"

    def _site(self, around: Surroundings, home: Path) -> Site:
        postgres = EmbeddedPostgres.start(home / "server")
        around.stack.callback(postgres.remove)
        schema.init(postgres.uri(ADMIN), grant_to=ROLE)
        self._servers = [postgres.pid or 0]
        return Site(home, postgres.uri())
