"""pyfi-hpc on each of its brokers: an agent with two workers; and one with three processors in a line, a worker each.

They are two agents because a node of two cores has room for two workers of one processor only if nobody else is there.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from benchmarks.environment import CACHE
from benchmarks.system import ROOT, WORKERS, Driver, Surroundings
from pyfi_hpc.box.postgres import ADMIN, ROLE, Postgres
from pyfi_hpc.client.objects import plugs
from pyfi_hpc.db import schema
from pyfi_hpc.db.embedded import EmbeddedPostgres
from tests.site import Site
from tests.support_git import make_repository

TASKS = ("double", "total", "where")
STAGES = ("first", "second", "third")
#: The nodes' names.
CALLS, LINE = "calls", "line"
#: Lines of sockets `STAGE.LINE`: how many stages, and the `route` of their plugs ("" is the default).
LINES: Mapping[str, tuple[int, str]] = {"alone": (1, ""), "chain": (3, ""), "hop": (2, ""), "hop-broker": (2, "broker")}


class BenchSite(Site):
    """A site with the tasks that every system has."""

    #: Whether its processors are given NumPy, which takes a while.
    numpy = False

    @cached_property
    def repository(self) -> str:
        """Of those tasks."""
        files = {"tasks.py": (ROOT / "benchmarks" / "drivers" / "tasks.py").read_text()}
        if self.numpy:
            files["requirements.txt"] = "numpy\n"
        url, _ = make_repository(self.home / "repository", files)
        return url

    def furnish(self) -> None:
        """The processor `p`."""
        self.processor(workers=WORKERS, host=CALLS)
        with ThreadPoolExecutor(len(TASKS)) as pool:
            list(pool.map(self._task, TASKS))

    def _task(self, task: str) -> None:
        """A queue of its own for each: a new one is waited for until it is old enough, here at the same time."""
        queue = f"{self.queue}.{task}"
        self.client.network.add_queue(name=queue)
        self.client.network.add_socket(name=f"p.{task}", queue=queue, processor="p", task=task)

    def furnish_lines(self) -> None:
        """The processors in a line, and every line of sockets through them."""
        network = self.client.network
        for stage in STAGES:
            network.add_processor(name=stage, gitrepo=self.repository, module="tasks", workers=1, host=LINE)
        sockets = [(line, stage) for line in lines() for stage in STAGES[: LINES[line][0]]]
        with ThreadPoolExecutor(len(sockets)) as pool:
            list(pool.map(self._socket, sockets))
        for line in lines():
            stages, route = LINES[line]
            for before, stage in pairwise(STAGES[:stages]):
                self._plug(line, before, stage, {"route": route} if route else {})

    def _socket(self, where: tuple[str, str]) -> None:
        line, stage = where
        queue = f"{self.queue}.{line}.{stage}"
        self.client.network.add_queue(name=queue)
        self.client.network.add_socket(name=f"{stage}.{line}", queue=queue, processor=stage, task="double")

    def _plug(self, line: str, before: str, stage: str, how: Mapping[str, str]) -> None:
        queue, ends = f"{self.queue}.{line}.{stage}", {"source": f"{before}.{line}", "target": f"{stage}.{line}"}
        self.client.network.add_plug(name=f"{line}.{stage}", queue=queue, processor=before, **ends, **how)


def lines() -> list[str]:
    """Those that can be had: where plugs have no route, all of them lead through the broker."""
    routed = "route" in inspect.signature(plugs.add).parameters
    return [line for line, (_, route) in LINES.items() if routed or not route]


class _Pyfi:
    """An installation as `tests/site.py` puts it together, with servers of its own."""

    name: str
    what: str
    does: Collection[str] = (
        "start", "bulk", "unbatched", "single", "cpu", "array-10kb", "array-1mb", "chain", "fan", "hop",
    )  # fmt: skip

    def __init__(self) -> None:
        self._servers: list[int] = []
        self._workers = 0
        self._made: BenchSite | None = None

    @property
    def site(self) -> BenchSite:
        """Once it is started."""
        assert self._made is not None
        return self._made

    def start(self, around: Surroundings) -> Driver:
        """Servers, schema, agent and driver; see `System`."""
        home = around.folder / self.name
        home.mkdir()
        self._made = site = self._site(around, home)
        around.stack.callback(site.close)
        site.numpy = any(measure.startswith("array-") for measure in around.wanted)
        site.furnish()
        self._workers = WORKERS
        if {"chain", "hop"} & set(around.wanted):
            site.furnish_lines()
            site.agent(host=LINE)
            self._workers += len(STAGES)
        site.agent(host=CALLS)
        site.ready(self._workers, timeout=120)
        command = [sys.executable, "-m", "benchmarks.drivers.pyfi", *lines()]
        return around.stack.enter_context(Driver(command, {**site.environment, "PYTHONPATH": str(ROOT)}))

    def _site(self, around: Surroundings, home: Path) -> BenchSite:
        raise NotImplementedError

    def restart(self, driver: Driver) -> float:
        """See `System`."""
        self.site.agents[-1].stop()
        began = time.perf_counter()
        self.site.agent(host=CALLS)
        driver.first_call()
        seconds = time.perf_counter() - began
        self.site.ready(self._workers)
        return seconds

    def pids(self) -> Sequence[int]:
        """See `System`."""
        return [*self._servers, *(agent.pid for agent in self.site.agents)]

    def versions(self) -> Mapping[str, str]:
        """See `System`."""
        return {"pyfi-hpc": importlib.metadata.version("pyfi-hpc")}


#: Packages of processors' environments are fetched once, not in each run.
UV_VARIABLES = {"UV_CACHE_DIR": str(CACHE / "uv")}


class PyfiRabbitMQ(_Pyfi):
    """With the servers that a group of people would have."""

    name = "pyfi-rabbitmq"
    what = f"pyfi-hpc, RabbitMQ quorum queue, PostgreSQL server, {WORKERS} workers"

    def _site(self, around: Surroundings, home: Path) -> BenchSite:
        postgres = around.stack.enter_context(Postgres())
        schema.init(postgres.uri(ADMIN), grant_to=ROLE)
        self._servers = [around.rabbitmq.pid or 0, postgres.pid or 0]
        return BenchSite(home, postgres.uri(), around.rabbitmq.uri, UV_VARIABLES)


class PyfiEmbedded(_Pyfi):
    """With nothing but what pip installs."""

    name = "pyfi-embedded"
    what = f"pyfi-hpc, embedded (PostgreSQL is the broker too), {WORKERS} workers"

    def _site(self, around: Surroundings, home: Path) -> BenchSite:
        postgres = EmbeddedPostgres.start(home / "server")
        around.stack.callback(postgres.remove)
        schema.init(postgres.uri(ADMIN), grant_to=ROLE)
        self._servers = [postgres.pid or 0]
        return BenchSite(home, postgres.uri(), variables=UV_VARIABLES)
