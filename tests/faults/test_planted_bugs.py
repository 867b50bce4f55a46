"""The checker is tested: each planted bug is found, by a case that finds nothing in the product as it is."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg2
import pytest

import conftest
from pyfi_hpc import verify
from pyfi_hpc.box.rabbitmq import VHOST, RabbitMQ
from pyfi_hpc.brokers.base import Delivery, Publication, TaskQueue
from pyfi_hpc.brokers.connect import connect
from pyfi_hpc.brokers.rabbitmq import RabbitBroker
from pyfi_hpc.client.client import Client
from pyfi_hpc.db import schema
from pyfi_hpc.db.embedded import ADMIN, ROLE, EmbeddedPostgres
from pyfi_hpc.processes import alive
from tests.faults.planted import plant
from tests.services.databases import new_database
from tests.site import AgentProcess, Site
from tests.support import eventually
from tests.support_git import make_repository

TASKS = '''
import os
import time

from pyfi_hpc import current


def work(x, log):
    with open(log, "a") as file:
        file.write(f"{current().id} {current().serial}\\n")
    return x * 2


def nth(log, gates):
    """Which run of this call it is, told once the gate of that number is open."""
    with open(log, "a") as file:
        file.write(f"{current().id} {current().serial}\\n")
    with open(log) as file:
        number = sum(line.split()[0] == str(current().id) for line in file)
    while not os.path.exists(os.path.join(gates, str(number))):
        time.sleep(0.01)
    return number


def follow(x):
    return x
'''

ROOT = Path(conftest.__file__).parent


class PlantedSite(Site):
    """A site that many tests share; its agents may have a bug."""

    @cached_property
    def repository(self) -> str:
        url, _ = make_repository(self.home / "repository", {"tasks.py": TASKS})
        return url

    def planted(self, names: str, failpoint: str = "") -> AgentProcess:
        """An agent of host1 with these bugs and circumstances."""
        log = self.home / f"agent-{len(self.agents)}.log"
        environment = {**self.environment, "PYFI_FAILPOINT": failpoint, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-P", "-m", "tests.faults.planted", names, "--host", "host1"]
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)
        self.agents.append(AgentProcess(process, log, "host1"))
        return self.agents[-1]

    def call(self, socket: str, *arguments: object) -> Any:
        """The future of one accepted call."""
        return self.submit(socket, [arguments])[0]

    def probe(self) -> None:
        """A call of whoever serves now comes through."""
        assert self.call("p1.work", 4, str(self.runs)).result(timeout=40) == 8

    def breaches(self) -> list[str]:
        """What the checker says, without the ids, once nothing is under way any more."""
        under_way = ("I4", "I5")

        def over() -> bool:
            report = self.check()
            return not (report.waiting or report.early) and not any(
                line.startswith(under_way) for line in report.problems
            )

        eventually(over, timeout=40)
        return [re.sub(r": [0-9a-f-]{10,}.*", "", line) for line in self.check().problems]

    def hold(self) -> tuple[Any, ...] | None:
        """State and time of the one hold row."""
        rows = self.rows("SELECT state, due FROM pyfi.hold")
        return rows[0] if rows else None

    def again(self, admin_uri: str) -> None:
        """For the next test: no agents, and an empty record."""
        for agent in self.agents:
            agent.stop()
        self.accepted.clear()
        with closing(psycopg2.connect(admin_uri)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(
                "TRUNCATE pyfi.outcome, pyfi.hold, pyfi.attempt, pyfi.quarantine, pyfi.broker_message CASCADE"
            )


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with a short path."""
    made = Path(tempfile.mkdtemp(prefix="pyfi-planted-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def stranger(shared_postgres: EmbeddedPostgres) -> Iterator[str]:
    """Another owner's login role."""
    name = f"stranger_{uuid.uuid4().hex[:8]}"
    with closing(psycopg2.connect(shared_postgres.uri(ADMIN))) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"CREATE ROLE {name} LOGIN")
        yield name
        connection.cursor().execute(f"DROP ROLE {name}")


@pytest.fixture(scope="module")
def made(shared_postgres: EmbeddedPostgres, folder: Path, stranger: str) -> Iterator[tuple[PlantedSite, str]]:
    """The site of embedded mode, and its administrator's address.

    `p1` on host1 and `p2` on host2 compete for one queue; the results of `p1.nth` go on to `q`.
    """
    with new_database(shared_postgres) as database:
        for role in (ROLE, stranger):
            schema.init(database.admin_uri, grant_to=role)
        site = PlantedSite(folder / "embedded", database.uri)
        site.home.mkdir()
        site.processor("work", "nth", name="p1", workers=1, host="host1")
        site.processor("nth", name="p2", workers=1, host="host2")
        network = site.client.network
        network.add_queue(name="next")
        network.add_processor(name="q", gitrepo=site.repository, module="tasks", workers=1, host="host1")
        network.add_socket(name="q.follow", queue="next", processor="q", task="follow")
        network.add_plug(name="plug", queue="next", processor="p1", source="p1.nth")
        yield site, database.admin_uri
        site.close()


@pytest.fixture
def site(made: tuple[PlantedSite, str]) -> Iterator[PlantedSite]:
    """The site with an empty record and no agents."""
    found, admin_uri = made
    yield found
    found.again(admin_uri)


@pytest.fixture(scope="module")
def made_rabbit(
    shared_postgres: EmbeddedPostgres, shared_rabbitmq: RabbitMQ, folder: Path
) -> Iterator[tuple[PlantedSite, str]]:
    """The same over RabbitMQ, with `p1` alone."""
    with new_database(shared_postgres) as database:
        schema.init(database.admin_uri, grant_to=ROLE)
        site = PlantedSite(folder / "rabbit", database.uri, shared_rabbitmq.uri)
        site.home.mkdir()
        site.processor("work", "nth", name="p1", workers=2)
        yield site, database.admin_uri
        site.close()


@pytest.fixture
def rabbit_site(made_rabbit: tuple[PlantedSite, str]) -> Iterator[PlantedSite]:
    """The site over RabbitMQ with an empty record and no agents."""
    found, admin_uri = made_rabbit
    yield found
    found.again(admin_uri)


class Gates:
    """The files that runs of `nth` wait for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, *numbers: int) -> None:
        for number in numbers:
            (self.folder / str(number)).touch()

    def __str__(self) -> str:
        return str(self.folder)


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[Gates]:
    """Gates that are all open when the agents are to stop."""
    made = Gates(tmp_path)
    yield made
    made.open(*range(1, 10))


LOST = ["I1: 1 accepted ids have no outcome"]
CHILDLESS = ["I2: 1 children of committed outcomes have no outcome"]
WRONG_CHILD = ["I2: 1 children carry another value than their parent committed"]


@pytest.mark.parametrize(("bug", "found"), [("", []), ("ack-before-commit", LOST)])
def test_ack_before_commit(site: PlantedSite, bug: str, found: list[str]) -> None:
    first = site.planted(bug, "agent_after_run:crash")
    site.ready()
    site.call("p1.work", 21, str(site.runs))
    assert first.ended() == -9

    site.agent()
    site.probe()

    assert site.breaches() == found


@pytest.mark.parametrize(("bug", "found"), [("", []), ("ack-before-forward", CHILDLESS)])
def test_ack_before_forward(site: PlantedSite, gates: Gates, bug: str, found: list[str]) -> None:
    gates.open(1)
    first = site.planted(bug, "agent_after_commit:crash")
    site.ready(2)
    future = site.call("p1.nth", str(site.runs), str(gates))
    assert first.ended() == -9

    site.agent()
    site.probe()

    assert future.result(timeout=20) == 1
    assert site.breaches() == found


@pytest.mark.parametrize(("bug", "found"), [("", []), ("lease-dropped-before-forward", CHILDLESS)])
def test_lease_dropped_before_its_forwards(site: PlantedSite, gates: Gates, bug: str, found: list[str]) -> None:
    first = site.planted(f"early-acks,short-leases,{bug}", "agent_after_commit:crash")
    site.ready(2)
    future = site.call("p1.nth", str(site.runs), str(gates))
    eventually(lambda: (held := site.hold()) and held[0] == "LEASED")
    gates.open(1)
    assert first.ended() == -9

    site.agent()
    site.probe()

    assert future.result(timeout=20) == 1
    assert site.breaches() == found


@pytest.mark.parametrize(("bug", "found"), [("", []), ("losers-value-forwarded", WRONG_CHILD)])
def test_losers_value_forwarded(site: PlantedSite, gates: Gates, bug: str, found: list[str]) -> None:
    gates.open(2)
    stalled = site.planted(bug)
    site.ready(2)
    future = site.call("p1.nth", str(site.runs), str(gates))
    eventually(lambda: site.executions().get(future.id) == 1)
    stalled.stall()
    # its hold on the call ends with its session, as when it is cut off
    site.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pyfi broker consumer'")
    winner = site.agent("agent_after_commit:crash", "host2")
    assert winner.ended(40) == -9
    assert site.outcomes() == {future.id: "SUCCEEDED"}

    gates.open(1)
    stalled.wake()

    assert future.result(timeout=20) == 2
    eventually(lambda: len(site.outcomes()) == 2, timeout=20)
    assert site.breaches() == found


@pytest.mark.parametrize(("bug", "found"), [("", []), ("non-atomic-chain", WRONG_CHILD)])
def test_non_atomic_chain(site: PlantedSite, gates: Gates, tmp_path: Path, bug: str, found: list[str]) -> None:
    free = Gates(tmp_path / "free")
    free.folder.mkdir()
    free.open(1)
    gates.open(2)
    stalled = site.planted(bug)
    site.ready(2)
    before = piped(site)
    # that `follow` is short has to be learned first
    eventually(lambda: went_by_pipe(site, free, before), timeout=60, interval=0.2)
    future = site.call("p1.nth", str(site.runs), str(gates))
    eventually(lambda: site.executions().get(future.id) == 1)
    stalled.stall()
    # its hold on the call ends with its session, as when it is cut off
    site.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pyfi broker consumer'")
    winner = site.agent("agent_after_commit:crash", "host2")
    assert winner.ended(40) == -9
    assert site.outcomes()[future.id] == "SUCCEEDED"

    # the loser's value goes into the pipe, and its chain is finished before its agent hears of it
    gates.open(1)
    stalled.wake()

    assert future.result(timeout=20) == 2
    assert site.breaches() == found


@pytest.mark.parametrize(("bug", "found"), [("", []), ("push-pull-pipe", CHILDLESS)])
def test_push_pull_pipe(site: PlantedSite, gates: Gates, bug: str, found: list[str]) -> None:
    gates.open(1)
    site.planted(bug)
    site.ready(2)
    before = piped(site)
    eventually(lambda: went_by_pipe(site, gates, before), timeout=60, interval=0.2)
    ((pid,),) = site.rows("SELECT w.pid FROM pyfi.worker w JOIN pyfi.processor p ON p.id = w.processor_id"
                          " WHERE p.name = 'q' AND w.status = 'READY'")  # fmt: skip
    os.kill(pid, signal.SIGSTOP)
    # its value goes into the pipe, and no further
    future = site.call("p1.nth", str(site.runs), str(gates))
    assert future.result(timeout=20) == 1

    os.kill(pid, signal.SIGKILL)

    eventually(lambda: not alive(pid), timeout=20)
    site.probe()
    # how many values were in the pipe is a matter of pace
    assert [re.sub(r"\b\d+ children", "1 children", each) for each in site.breaches()] == found


def went_by_pipe(site: PlantedSite, gates: Gates, before: int) -> bool:
    """Whether another result of `p1.nth` has gone by a pipe to `q`, once one more has been sent."""
    assert site.call("p1.nth", str(site.runs), str(gates)).result(timeout=20) == 1
    return piped(site) > before


def piped(site: PlantedSite) -> int:
    """How many results have gone by pipes, as far as agents have told."""
    ((count,),) = site.rows("SELECT piped FROM pyfi.plug")
    return int(count)


@pytest.mark.parametrize(("bug", "lost"), [("", 0), ("global-id-key", 1)])
def test_global_id_key(site: PlantedSite, stranger: str, bug: str, lost: int) -> None:
    identity = uuid.uuid4()
    site.planted(bug)
    site.ready()
    settings = site.settings
    with Client(settings, database_uri=site.database_uri.replace(f"//{ROLE}@", f"//{stranger}@")) as theirs:
        theirs.network.add_processor(name=f"p{bug}", gitrepo=site.repository, module="tasks", workers=1)
        theirs.network.add_socket(name=f"p{bug}.work", queue=site.queue, processor=f"p{bug}", task="work")
        assert site.client.submit("p1.work", 1, str(site.runs), id=identity).result(timeout=20) == 2
        theirs.submit(f"p{bug}.work", 5, str(site.runs), id=identity)
        site.probe()
        site.breaches()
    with closing(psycopg2.connect(site.database_uri)) as connection:
        assert verify.check(connection, [identity.bytes], owner=ROLE).lost == 0
        assert verify.check(connection, [identity.bytes], owner=stranger).lost == lost


@pytest.mark.parametrize(("bug", "runs"), [("", 1), ("wall-clock-lease", 2)])
def test_wall_clock_lease(site: PlantedSite, gates: Gates, bug: str, runs: int) -> None:
    site.planted(f"early-acks,clock-behind,{bug}")
    site.ready()
    future = site.call("p1.nth", str(site.runs), str(gates))
    first = eventually(site.hold)
    eventually(lambda: site.hold() != first)

    gates.open(1, 2)

    assert future.result(timeout=20) == runs
    assert site.breaches() == []
    assert site.executions()[future.id] == runs


@pytest.mark.parametrize(("bug", "kept"), [("", 1), ("drop-on-decode-error", 0)])
def test_drop_on_decode_error(site: PlantedSite, bug: str, kept: int) -> None:
    site.planted(bug)
    site.ready()
    way = site.client._session.way("p1.work").socket
    with closing(connect(None, database_uri=site.database_uri)) as broker:
        broker.publish(Publication(way.exchange, way.key, b"\x93\x01", uuid.uuid4().hex)).result(10)
    site.probe()

    assert site.breaches() == []
    assert site.rows("SELECT count(*) FROM pyfi.quarantine WHERE reason = 'E_DECODE'") == [(kept,)]


@pytest.mark.parametrize(("bug", "found"), [("", []), ("ack-multiple-across-a-gap", LOST)])
def test_ack_multiple_across_a_gap(
    rabbit_site: PlantedSite, shared_rabbitmq: RabbitMQ, gates: Gates, tmp_path: Path, bug: str, found: list[str]
) -> None:
    site, free = rabbit_site, Gates(tmp_path / "free")
    free.folder.mkdir()
    free.open(1)
    first = site.planted(bug)
    site.ready(2)
    slow = site.call("p1.nth", str(site.runs), str(gates))
    eventually(lambda: site.executions().get(slow.id) == 1)
    quick = site.call("p1.nth", str(site.runs), str(free))
    assert quick.result(timeout=20) == 1
    queue = queue_of(site.client, "p1.nth", site.queue)
    eventually(lambda: messages_in(shared_rabbitmq, queue) == (0 if bug else 1), timeout=20)
    first.kill()

    gates.open(1, 2)
    site.agent()
    site.probe()
    eventually(lambda: bug or slow.done(), timeout=20)

    assert site.breaches() == found


def queue_of(client: Client, socket: str, queue: str) -> str:
    """The broker's name for the queue behind a socket."""
    way = client._session.way(socket).socket
    return TaskQueue("default", queue, way.key, way.generation).name


def messages_in(server: RabbitMQ, queue: str) -> int:
    """How many messages a queue has, ready or in hands."""
    rows = server.ctl("list_queues", "--vhost", VHOST, "--no-table-headers", "name", "messages")
    return int(dict(line.split() for line in rows.splitlines())[queue])


@pytest.mark.parametrize(("bug", "left"), [("", 3), ("ack-of-an-old-channels-tag", 2)])
def test_ack_of_an_old_channels_tag(
    shared_rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch, bug: str, left: int
) -> None:
    plant(bug, monkeypatch.setattr)
    queue = TaskQueue("default", f"q{uuid.uuid4().hex[:8]}", "key")
    with closing(RabbitBroker(shared_rabbitmq.uri, settle_seconds=0)) as broker:
        broker.declare(queue)
        came: list[Delivery] = []
        subscription = broker.consume(queue.name, prefetch=10, deliver=came.append)
        for _ in range(3):
            put(broker, queue)
        eventually(lambda: len(came) == 3)
        for delivery in came[:2]:
            delivery.ack()
        eventually(lambda: messages_in(shared_rabbitmq, queue.name) == 1)
        shared_rabbitmq.ctl("close_all_connections", "--global", "cut by a test")
        # the third comes back as the first of its new channel; two more follow
        eventually(lambda: len(came) == 4, timeout=20)
        put(broker, queue)
        put(broker, queue)
        eventually(lambda: len(came) == 6)

        came[2].ack()
        subscription.drop()

        eventually(lambda: broker.depth(queue.name).ready == left)
        broker.delete(queue)


def put(broker: RabbitBroker, queue: TaskQueue) -> None:
    """One message, confirmed."""
    broker.publish(Publication(queue.exchange, queue.key, b"x", uuid.uuid4().hex)).result(20)


@pytest.mark.parametrize(("bug", "found"), [("", []), ("no-mandatory", LOST)])
def test_no_mandatory(
    rabbit_site: PlantedSite, shared_rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch, bug: str, found: list[str]
) -> None:
    site = rabbit_site
    plant(bug, monkeypatch.setattr)
    site.agent()
    site.ready()
    with Client(site.settings) as client:
        client.network.add_queue(name=f"gone{bug}")
        client.network.add_socket(name=f"gone{bug}", queue=f"gone{bug}", processor="p1", task="work")
        queue = queue_of(client, f"gone{bug}", f"gone{bug}")
        shared_rabbitmq.ctl("delete_queue", "--vhost", VHOST, queue)
        # the broker has no queue for it: it is made again before the call counts as accepted
        future = client.submit(f"gone{bug}", 3, str(site.runs))
        site.accepted.append(future.id)
        eventually(lambda: bug or future.done(), timeout=30)

    assert site.breaches() == found
