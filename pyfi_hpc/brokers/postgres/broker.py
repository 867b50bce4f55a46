"""The embedded kind of `Broker`: three sessions at most, each opened when it is first needed."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg2

from pyfi_hpc.brokers.base import Confirm, Delivery, Depth, Peeked, Publication, Reason, TaskQueue, dead_queue, nothing
from pyfi_hpc.brokers.letters import letter
from pyfi_hpc.brokers.postgres import queues, replies
from pyfi_hpc.brokers.postgres.consumer import Consumer, PostgresSubscription
from pyfi_hpc.brokers.postgres.listener import Listener
from pyfi_hpc.brokers.postgres.names import REPLY, control_channel
from pyfi_hpc.brokers.postgres.publisher import Publisher
from pyfi_hpc.brokers.postgres.session import opened
from pyfi_hpc.brokers.refusals import closed, unreachable
from pyfi_hpc.errors import BadInput
from pyfi_hpc.logs import logger

#: PostgreSQL 13, as the number that the server gives.
OLDEST = 130_000

log = logger()


class PostgresBroker:
    """Queues in the database at `uri`."""

    kind = "postgres"
    ack_timeout_seconds: float | None = None

    def __init__(self, uri: str) -> None:
        self._uri, self._closed = uri, False
        self._lock = threading.Lock()
        self._publisher: Publisher | None = None
        self._consumer: Consumer | None = None
        self._listener: Listener | None = None

    def _publishes(self) -> Publisher:
        with self._lock:
            self._check_open()
            self._publisher = self._publisher or Publisher(self._uri)
            return self._publisher

    def _consumes(self) -> Consumer:
        with self._lock:
            self._check_open()
            self._consumer = self._consumer or Consumer(self._uri)
            return self._consumer

    def _listens(self) -> Listener:
        with self._lock:
            self._check_open()
            self._listener = self._listener or Listener(self._uri)
            return self._listener

    def _check_open(self) -> None:
        if self._closed:
            raise closed()

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        """A session for one call."""
        try:
            with closing(opened(self._uri, "call")) as connection:
                yield connection.cursor()
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            raise unreachable(error) from error

    def prepare(self) -> None:
        """Open the sessions that publish and consume."""
        self._consumes()
        self._publishes()

    def declare(self, queue: TaskQueue) -> None:
        """Make the queue, or see that it stands as asked."""
        with self._cursor() as cursor:
            queues.declare(cursor, queue)

    def declare_dead_letters(self, network: str) -> None:
        """Make the dead letters' queue of `network`."""
        with self._cursor() as cursor:
            queues.ensure_dead_of(cursor, dead_queue(network))

    def delete(self, queue: TaskQueue) -> None:
        """Remove the queue with what is in it."""
        with self._cursor() as cursor:
            queues.delete(cursor, queue)

    def publish(self, publication: Publication) -> Confirm:
        """Hand the message to the publishing session."""
        return self.publish_all([publication])[0]

    def publish_all(self, publications: Sequence[Publication]) -> list[Confirm]:
        """Hand the messages to the publishing session."""
        if not self._closed:
            return self._publishes().publish(publications)
        refused = [Confirm() for _ in publications]
        for each in refused:
            each.set_exception(closed())
        return refused

    def set_aside(self, network: str, publication: Publication, reason: Reason, detail: str) -> Confirm:
        """Publish to the dead letters of `network`."""
        return self.publish(letter(network, publication, reason, detail))

    def consume(
        self,
        queue: str,
        *,
        prefetch: int,
        deliver: Callable[[Delivery], None],
        all_here: Callable[[], None] = nothing,
    ) -> PostgresSubscription:
        """Deliver on the consuming session's thread."""
        return self._consumes().add(queue, prefetch, deliver, all_here)

    def reply_address(self, on_reply: Callable[[bytes], None]) -> str:
        """A channel of this client's own."""
        address = REPLY + uuid.uuid4().hex

        def hear(payload: str) -> None:
            try:
                body = replies.body_of(payload)
            except ValueError:
                log.warning("a reply that is none was dropped", channel=address)
            else:
                on_reply(body)

        self._listens().listen(address, hear)
        return address

    def reply(self, address: str, body: bytes) -> None:
        """Notify the client's channel; an address that is none of ours is dropped."""
        if not self._closed and address.startswith(REPLY) and len(address) == len(REPLY) + 32:
            self._publishes().notify(address, replies.payloads(body))

    def hint(self, network: str, text: str) -> None:
        """Notify the network's channel."""
        if not self._closed:
            self._publishes().notify(control_channel(network), [text])

    def on_hint(self, network: str, hear: Callable[[str], None]) -> None:
        """Listen to the network's channel."""
        self._listens().listen(control_channel(network), hear)

    def depth(self, queue: str) -> Depth:
        """What the queue holds now."""
        with self._cursor() as cursor:
            return queues.depth(cursor, queue)

    def peek(self, queue: str, count: int) -> list[Peeked]:
        """The first `count` ready messages."""
        with self._cursor() as cursor:
            return queues.peek(cursor, queue, count)

    def purge(self, queue: str, taken: Callable[[bytes], None]) -> int:
        """Take every ready message, in order."""
        with self._cursor() as cursor:
            return queues.purge(cursor, queue, taken)

    def publishing(self) -> bool:
        """Whether the publishing session is there."""
        return not self._closed and self._publishes().up

    def check(self) -> str:
        """Ask the server for its version."""
        with self._cursor() as cursor:
            number, version = (
                cursor.connection.server_version,
                cursor.connection.info.parameter_status("server_version"),
            )
        if number < OLDEST:
            raise BadInput.of("E_BROKER_VERSION", "server_version", version, "PostgreSQL 13 or newer is needed")
        return f"PostgreSQL {version}"

    def close(self) -> None:
        """End the sessions: what can be confirmed is, what is unacked goes back."""
        with self._lock:
            self._closed = True
            parts = [part for part in (self._publisher, self._consumer, self._listener) if part is not None]
        for part in parts:
            part.close()
