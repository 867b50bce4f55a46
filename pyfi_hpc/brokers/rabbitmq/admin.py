"""What is asked of the broker now and then, over a short connection of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pika
import pika.exceptions as amqp
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from pyfi_hpc.brokers.base import Depth, Peeked, TaskQueue, dead_queue
from pyfi_hpc.brokers.letters import DEAD_EXCHANGE
from pyfi_hpc.brokers.rabbitmq.address import unavailable
from pyfi_hpc.brokers.rabbitmq.arguments import (
    checked_name,
    control_exchange,
    dead_queue_arguments,
    mismatch,
    task_queue_arguments,
)
from pyfi_hpc.errors import BadInput, BrokerUnavailable

#: The oldest RabbitMQ whose quorum queues dead-letter at least once.
OLDEST = (3, 10)
#: A look takes the messages off and puts them back, which the broker counts: only a few at a time.
PEEK_MOST = 50
#: Purged messages are acked this many at once: beyond 32 the channel keeps acks back, and loses them when it is closed.
PURGE_BATCH = 16
_NOT_FOUND, _PRECONDITION_FAILED = 404, 406


class Admin:
    """Declares, looks and purges; each call opens and closes a connection."""

    def __init__(self, parameters: Any, uri: str, settle_seconds: float) -> None:
        self._parameters, self._uri, self._settle_seconds = parameters, uri, settle_seconds

    def declare(self, queue: TaskQueue) -> None:
        """See `Broker.declare`. A queue that is new is bound only once it is two seconds old.

        A quorum queue of RabbitMQ 3.10.8 that is younger does not come back after a crash of the broker, with the
        messages it confirmed. Unbound, nobody can publish to it; the caller is held back as long.
        """
        wanted = {
            dead_queue(queue.network): dead_queue_arguments(),
            queue.name: task_queue_arguments(queue),
        }
        with self._connected() as connection:
            self._declare_queues(connection, wanted)
            _bind(connection, DEAD_EXCHANGE, queue.network, dead_queue(queue.network))
            _bind(connection, queue.exchange, queue.key, queue.name)
            connection.channel().exchange_declare(control_exchange(queue.network), "fanout", durable=True)

    def declare_dead_letters(self, network: str) -> None:
        """Make the dead queue of `network` alone, bound once it is old enough."""
        with self._connected() as connection:
            self._declare_queues(connection, {dead_queue(network): dead_queue_arguments()})
            _bind(connection, DEAD_EXCHANGE, network, dead_queue(network))

    def _declare_queues(self, connection: Any, wanted: Mapping[str, dict[str, object]]) -> None:
        new = [name for name in wanted if not _exists(connection, checked_name(name))]
        if new:
            # a consumer of a deleted queue hangs where the name returns before it has heard of the end
            connection.sleep(self._settle_seconds / 4)
        for name, arguments in wanted.items():
            _declare_queue(connection, name, arguments)
        if any(wanted[name]["x-queue-type"] == "quorum" for name in new):
            connection.sleep(self._settle_seconds)

    def delete(self, queue: TaskQueue) -> None:
        """See `Broker.delete`; the exchange stays, other generations use it."""
        with self._connected() as connection:
            connection.channel().queue_delete(queue.name)

    def depth(self, queue: str) -> Depth:
        """See `Broker.depth`; `unacked` is None, AMQP does not tell it."""
        with self._connected() as connection, _existing(queue):
            found = connection.channel().queue_declare(queue, passive=True).method
            return Depth(ready=found.message_count, unacked=None, consumers=found.consumer_count)

    def peek(self, queue: str, count: int) -> list[Peeked]:
        """See `Broker.peek`; at most `PEEK_MOST`. The delivery count of each rises by one, which decides nothing."""
        with self._connected() as connection, _existing(queue):
            # they go back when the connection ends
            channel = connection.channel()
            return [
                Peeked(body, method.redelivered, properties.headers or {})
                for method, properties, body in _got(channel, queue, min(count, PEEK_MOST))
            ]

    def purge(self, queue: str, taken: Callable[[bytes], None]) -> int:
        """See `Broker.purge`: what is ready now, and not what comes meanwhile."""
        with self._connected() as connection, _existing(queue):
            channel = connection.channel()
            ready = channel.queue_declare(queue, passive=True).method.message_count
            number, tag = 0, 0
            for method, _properties, body in _got(channel, queue, ready):
                taken(body)
                number, tag = number + 1, method.delivery_tag
                if number % PURGE_BATCH == 0:
                    channel.basic_ack(tag, multiple=True)
            if number % PURGE_BATCH:
                channel.basic_ack(tag, multiple=True)
            return number

    def check(self) -> str:
        """See `Broker.check`."""
        with self._connected() as connection:
            # pika's blocking connection hides what the server said of itself
            properties = connection._impl.server_properties
        return supported(*(_text(properties.get(name, "")) for name in ("product", "version")))

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        try:
            connection = pika.BlockingConnection(self._parameters)
        except (amqp.AMQPError, AMQPConnectorException, OSError) as error:
            raise unavailable(error, self._uri) from error
        try:
            yield connection
        except amqp.AMQPError as error:
            raise unavailable(error, self._uri) from error
        finally:
            if connection.is_open:
                connection.close()


def _got(channel: Any, queue: str, count: int) -> Iterator[tuple[Any, Any, bytes]]:
    """The first `count` ready messages, or as many as there are, unacked."""
    for _ in range(count):
        method, properties, body = channel.basic_get(queue)
        if method is None:
            return
        yield method, properties, body


def _declare_queue(connection: Any, name: str, arguments: dict[str, object]) -> None:
    try:
        connection.channel().queue_declare(name, durable=True, arguments=arguments)
    except amqp.ChannelClosedByBroker as error:
        raise _declared_otherwise(name, error) from error


def _exists(connection: Any, name: str) -> bool:
    try:
        connection.channel().queue_declare(name, passive=True)
    except amqp.ChannelClosedByBroker as error:
        if error.reply_code != _NOT_FOUND:
            raise
        return False
    return True


def _bind(connection: Any, exchange: str, key: str, queue: str) -> None:
    channel = connection.channel()
    try:
        channel.exchange_declare(exchange, "direct", durable=True)
    except amqp.ChannelClosedByBroker as error:
        raise _declared_otherwise(exchange, error) from error
    channel.queue_bind(queue, exchange, key)


def _declared_otherwise(name: str, error: Any) -> BadInput | BrokerUnavailable:
    if error.reply_code == _PRECONDITION_FAILED:
        return mismatch(name, error.reply_text)
    if error.reply_code == 403:
        return BadInput.of("E_DENIED", "queue", name, f"the broker's user may not declare it: {error.reply_text}")
    return BrokerUnavailable("E_BROKER", f"the broker does not declare {name}: {error.reply_text}")


@contextmanager
def _existing(queue: str) -> Iterator[None]:
    try:
        yield
    except amqp.ChannelClosedByBroker as error:
        if error.reply_code != _NOT_FOUND:
            raise
        raise BadInput.of("E_NOT_FOUND", "queue", queue, "the broker has no such queue") from error


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def supported(product: str, version: str) -> str:
    """Product and version in one line; E_BROKER_VERSION where RabbitMQ is too old."""
    if product == "RabbitMQ" and _numbers(version) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise BadInput.of("E_BROKER_VERSION", "broker", f"{product} {version}", f"RabbitMQ {oldest} or newer is needed")
    return f"{product} {version}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
