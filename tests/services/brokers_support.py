"""What the broker contract needs of a service, and small helpers for tests about brokers."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Protocol

import psycopg2

from pyfi_hpc.brokers.base import Broker, Confirm, Delivery, Depth, Publication, TaskQueue
from pyfi_hpc.brokers.connect import connect
from pyfi_hpc.brokers.memory import Hub, MemoryBroker
from pyfi_hpc.db import schema
from pyfi_hpc.db.embedded import ADMIN, ROLE, EmbeddedPostgres
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.model.names import FIFO

#: Nothing here takes this long unless it is broken.
PATIENCE = 30.0


def eventually(condition: Callable[[], object], timeout: float = PATIENCE) -> None:
    """Return once `condition` is true; fail the test when it is not within `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.01)


class Service(Protocol):
    """A broker service under test, of one kind."""

    kind: str
    #: What a broker in another process connects to; None where no other process can.
    uri: str | None
    #: Whether what is confirmed outlives the service's own process.
    durable: bool
    #: What a message's delivery count is raised by when it comes back: 0 where nobody counts.
    counts: int

    def connect(self) -> Broker:
        """A new connection; the test closes it."""

    def cut(self) -> None:
        """Break every broker's connection from the service's side."""

    def sessions(self) -> int:
        """How many sessions of brokers the service has."""

    def restart(self) -> None:
        """Kill the service and start it again."""


class MemoryService:
    """The memory kind."""

    kind = "memory"
    uri: str | None = None
    durable = False
    counts = 1

    def __init__(self) -> None:
        self._hub = Hub()
        self._brokers: list[MemoryBroker] = []

    def connect(self) -> Broker:
        """A connection to this service's hub."""
        self._brokers.append(MemoryBroker(self._hub))
        return self._brokers[-1]

    def cut(self) -> None:
        """Every broker loses what it holds."""
        for broker in self._brokers:
            broker.sever()

    def sessions(self) -> int:
        """Those not closed."""
        return sum(broker.publishing() for broker in self._brokers)

    def restart(self) -> None:
        """Nothing of it would be left."""
        raise NotImplementedError


class PostgresService:
    """The embedded kind on a real server; `restart` kills that server."""

    kind = "postgres"
    durable = True
    counts = 1

    def __init__(self, uri: str, restart: Callable[[], None]) -> None:
        self.uri: str | None = uri
        self._database, self._restart = uri, restart

    def connect(self) -> Broker:
        """A broker on the database."""
        return connect(None, database_uri=self._database)

    def _ask(self, query: str) -> int:
        with closing(psycopg2.connect(self._database)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(query)
            return int(cursor.fetchall()[0][0])

    def cut(self) -> None:
        """Terminate every session of a broker."""
        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name ~ '^pyfi broker'"
        assert self._ask(query) > 0

    def sessions(self) -> int:
        """Sessions of brokers."""
        return self._ask("SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^pyfi broker'")

    def restart(self) -> None:
        """SIGKILL, then start."""
        self._restart()


def prepare(server: EmbeddedPostgres) -> None:
    """The tables are there."""
    schema.init(server.uri(ADMIN), grant_to=ROLE)


def a_queue(max_length: int | None = None, *, fifo: bool = False) -> TaskQueue:
    """A task queue that no other test uses, in a network of its own."""
    mark = uuid.uuid4().hex[:10]
    key = f"square-{mark}{FIFO if fifo else ''}"
    return TaskQueue(network=f"net-{mark}", queue="work", key=key, max_length=max_length)


def a_message(queue: TaskQueue, body: bytes = b"body") -> Publication:
    """A publication to `queue`."""
    return Publication(queue.exchange, queue.key, body, message_id=uuid.uuid4().hex)


def outcome(confirm: Confirm, timeout: float = PATIENCE) -> str:
    """How the confirm resolved: "held" or the error's code."""
    try:
        confirm.result(timeout)
    except PyfiError as error:
        return error.code
    return "held"


def send(broker: Broker, queue: TaskQueue, *bodies: bytes) -> None:
    """Publish `bodies` in order; all are held afterwards."""
    for confirm in [broker.publish(a_message(queue, body)) for body in bodies]:
        confirm.result(PATIENCE)


class Inbox:
    """Takes what a broker calls back with, and lets a test wait for it."""

    def __init__(self, ack: bool = False) -> None:
        self._news = threading.Condition()
        self._ack = ack
        self.deliveries: list[Delivery] = []

    def __call__(self, delivery: Delivery) -> None:
        with self._news:
            self.deliveries.append(delivery)
            self._news.notify_all()
        if self._ack:
            delivery.ack()

    def bodies(self) -> list[bytes]:
        """The bodies in the order in which they came."""
        return [delivery.body for delivery in list(self.deliveries)]

    def wait(self, count: int, timeout: float = PATIENCE) -> list[Delivery]:
        """The first `count` deliveries, as soon as there are so many."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.deliveries) >= count, timeout), self.bodies()[:10]
            return self.deliveries[:count]


def depth_is(broker: Broker, queue: TaskQueue, *, ready: int, unacked: int, consumers: int) -> bool:
    """Whether the queue holds that; only what is ready, where the broker does not tell the rest. False while away."""
    with suppress(PyfiError):
        depth = broker.depth(queue.name)
        return depth == Depth(ready, unacked, consumers) or (depth.ready == ready and depth.unacked is None)
    return False


def is_empty(broker: Broker, queue: TaskQueue) -> bool:
    """Whether nothing is left in `queue`, ready or unacked; False while the service is away."""
    with suppress(PyfiError):
        depth = broker.depth(queue.name)
        return depth.ready == 0 and not depth.unacked
    return False
