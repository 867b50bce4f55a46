"""Where the soak plays: RabbitMQ, Postgres, two agents that are started again when they die, four processors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg2

from benchmarks.system import ROOT
from pyfi_hpc import verify
from pyfi_hpc.box.postgres import ADMIN, ROLE, Postgres
from pyfi_hpc.box.rabbitmq import RabbitMQ
from pyfi_hpc.brokers.base import dead_queue
from pyfi_hpc.brokers.connect import connect
from pyfi_hpc.brokers.rabbitmq.broker import SETTLE_SECONDS
from pyfi_hpc.client.session import ACCEPTED_LOG
from pyfi_hpc.db import schema, topology
from pyfi_hpc.processes import arguments, children, until
from pyfi_hpc.wire.ids import id_text
from tests.site import Site
from tests.support_git import make_repository

#: The node whose agent is killed now and then, and the one whose agent lives, so that its memory can be watched.
MORTAL, LASTING = "host1", "host2"
LINE = ("line1", "line2", "line3")
WORK = ("flaky", "slow", "large")
#: Whoever is killed thrice while it runs a call is no fault of the call's.
RETRIES = 30


class SoakSite(Site):
    """With the soak's own tasks."""

    @cached_property
    def repository(self) -> str:
        """Its processors need nothing."""
        url, _ = make_repository(
            self.home / "repository", {"tasks.py": Path(__file__).with_name("tasks.py").read_text()}
        )
        return url


class Stage:
    """As a context manager all of it is up, and gone afterwards."""

    def __init__(self, home: Path, *, embedded: bool = False) -> None:
        """`embedded`: Postgres is the broker too."""
        self.home = home
        self.rabbitmq, self.postgres = None if embedded else RabbitMQ(), Postgres()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self.rabbitmq is not None:
                stack.enter_context(self.rabbitmq)
            stack.enter_context(self.postgres)
            schema.init(self.postgres.uri(ADMIN), grant_to=ROLE)
            patient = {"PYFI_CLIENT_CONNECT_SECONDS": "120", ACCEPTED_LOG: str(self.accepted)}
            broker = self.rabbitmq.uri if self.rabbitmq is not None else ""
            self.site = SoakSite(self.home, self.postgres.uri(), broker, patient)
            stack.callback(self.site.close)
            self._furnish()
            # else it would tell of each kill in its own way
            self.site.client.close()
            for host in (MORTAL, LASTING):
                self.site.agent(host=host, respawn=True)
            self.site.ready(len(LINE) + 1, timeout=120)
            # RabbitMQ may lose a quorum queue that is younger when it is killed; it was waited for when it was declared
            until(lambda: False, SETTLE_SECONDS)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def _furnish(self) -> None:
        network = self.site.client.network
        shape = {"workers": 1, "retries": RETRIES, "retry_delay_seconds": 0.2}
        for name in (*LINE, "work"):
            network.add_processor(name=name, gitrepo=self.site.repository, module="tasks", **shape)
            network.add_queue(name=name)
        for task in WORK:
            network.add_socket(name=f"work.{task}", queue="work", processor="work", task=task)
        for number, name in enumerate(LINE):
            task = "go_on" if number else "begin"
            network.add_socket(name=f"{name}.{task}", queue=name, processor=name, task=task)
            if number:
                network.add_plug(name=name, queue=name, processor=LINE[number - 1])

    @property
    def accepted(self) -> Path:
        """The ids that the broker has confirmed."""
        return self.home / "accepted"

    def load(self, rate: float, seed: int) -> subprocess.Popen[str]:
        """Who calls, once it runs."""
        command = [sys.executable, "-m", "benchmarks.soak.load", str(self.site.runs), str(rate), str(seed)]
        with (self.home / "load.log").open("wb") as log:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT,
                env=self.site.environment,
            )  # fmt: skip

    # looking, while the database may be away

    def agent(self, host: str) -> int | None:
        """The agent's own process: the child of the one that keeps it; None while there is none."""
        keeper = next(agent for agent in self.site.agents if agent.host == host)
        return next((pid for pid in children(keeper.pid) if "pyfi_hpc.agent.main" in arguments(pid)), None)

    def workers(self) -> Sequence[int]:
        """Processes of workers."""
        agents = [pid for host in (MORTAL, LASTING) if (pid := self.agent(host)) is not None]
        return [pid for agent in agents for pid in children(agent) if "pyfi_hpc.worker" in arguments(pid)]

    # the end

    def mend(self) -> None:
        """Every server runs."""
        self.postgres.start()
        if self.rabbitmq is not None:
            self.rabbitmq.start()

    def told(self, seconds: float, socket: str, identity: str) -> str:
        """What the record says of a call that took so long."""
        rows = self.site.rows(
            "SELECT serial, to_char(started, 'HH24:MI:SS'), to_char(committed, 'HH24:MI:SS'),"
            " array(SELECT serial || ' ' || cause || ' ' || to_char(ended, 'HH24:MI:SS') FROM pyfi.attempt a"
            "       WHERE a.id = o.id AND a.status = 'FAILED' ORDER BY serial)"
            " FROM pyfi.outcome o WHERE id = %s",
            identity,
        )
        serial, started, committed, failed = rows[0] if rows else ("?", "?", "never", [])
        before = f"; before that {', '.join(failed)}" if failed else ""
        return f"slow: {socket} {identity[-10:]} {seconds} s, attempt {serial} from {started} to {committed}{before}"

    def held(self) -> int:
        """How many calls have a hold row and no outcome."""
        query = "SELECT count(*) FROM pyfi.hold h WHERE NOT EXISTS (SELECT FROM pyfi.outcome o WHERE o.id = h.id)"
        return int(self.site.rows(query)[0][0])

    def queued(self) -> int:
        """How many messages are in queues, dead letters among them, taken or not."""
        broker = connect(self.site.broker_uri or None, database_uri=self.site.database_uri)
        with closing(psycopg2.connect(self.site.database_uri)) as connection, connection.cursor() as cursor:
            queues = [queue.name for queue in topology.task_queues(cursor, "default")]
        try:
            depths = [broker.depth(name) for name in [*queues, dead_queue("default")]]
        finally:
            broker.close()
        return sum(depth.ready + (depth.unacked or 0) for depth in depths)

    def checked(self) -> verify.Report:
        """What the invariant checker says now."""
        self.site.accepted = [id_text(identity) for identity in verify.read_accepted(self.accepted)]
        return self.site.check()
