"""RabbitMQ as a `Broker`: one connection that publishes, one that consumes, short ones for everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyfi_hpc.brokers.base import (
    Confirm,
    Delivery,
    Depth,
    Peeked,
    Publication,
    Reason,
    Subscription,
    TaskQueue,
    nothing,
)
from pyfi_hpc.brokers.letters import letter
from pyfi_hpc.brokers.rabbitmq.address import parameters
from pyfi_hpc.brokers.rabbitmq.admin import Admin
from pyfi_hpc.brokers.rabbitmq.consumer import Consumer
from pyfi_hpc.brokers.rabbitmq.publisher import Publisher
from pyfi_hpc.brokers.rabbitmq.setting_aside import SettingAside

#: A quorum queue is used from this age on (`Admin.declare`).
SETTLE_SECONDS = 2.0
#: Seconds; a purge's taker may keep its connection waiting.
ADMIN_HEARTBEAT = 60


class RabbitBroker:
    """See `brokers.base.Broker`. Connects when it is first used, and again whenever a connection is lost.

    `ack_timeout_seconds` is the server's own setting `consumer_timeout`, which AMQP does not tell; `heartbeat` seconds
    of silence are noticed after about two of them; `settle_seconds` is how old a queue must be to be used.

    Raises:
        BadInput: E_BROKER_URI, E_RANGE for the port.
    """

    kind = "rabbitmq"

    def __init__(
        self,
        uri: str,
        *,
        ack_timeout_seconds: float = 1800,
        heartbeat: int = 5,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self.ack_timeout_seconds: float | None = ack_timeout_seconds
        self._publisher = Publisher(parameters(uri, heartbeat=heartbeat, name="pyfi publish"), uri)
        self._consumer = Consumer(parameters(uri, heartbeat=heartbeat, name="pyfi consume"), uri)
        self._admin = Admin(parameters(uri, heartbeat=ADMIN_HEARTBEAT, name="pyfi admin"), uri, settle_seconds)

    def prepare(self) -> None:
        self._consumer.start()
        self._publisher.start()

    def declare(self, queue: TaskQueue) -> None:
        self._admin.declare(queue)

    def declare_dead_letters(self, network: str) -> None:
        self._admin.declare_dead_letters(network)

    def delete(self, queue: TaskQueue) -> None:
        self._admin.delete(queue)

    def publish(self, publication: Publication) -> Confirm:
        return self._publisher.publish([publication])[0]

    def publish_all(self, publications: Sequence[Publication]) -> list[Confirm]:
        return self._publisher.publish(publications)

    def set_aside(self, network: str, publication: Publication, reason: Reason, detail: str) -> Confirm:
        return SettingAside(self._publisher, self._admin, network).start(letter(network, publication, reason, detail))

    def consume(
        self,
        queue: str,
        *,
        prefetch: int,
        deliver: Callable[[Delivery], None],
        all_here: Callable[[], None] = nothing,
    ) -> Subscription:
        return self._consumer.consume(queue, prefetch, deliver, all_here)

    def reply_address(self, on_reply: Callable[[bytes], None]) -> str:
        return self._consumer.listen("reply", on_reply)

    def reply(self, address: str, body: bytes) -> None:
        self._publisher.reply(address, body)

    def hint(self, network: str, text: str) -> None:
        self._publisher.hint(network, text)

    def on_hint(self, network: str, hear: Callable[[str], None]) -> None:
        self._consumer.listen("hint", lambda body: hear(body.decode(errors="replace")), network=network)

    def depth(self, queue: str) -> Depth:
        return self._admin.depth(queue)

    def peek(self, queue: str, count: int) -> list[Peeked]:
        return self._admin.peek(queue, count)

    def purge(self, queue: str, taken: Callable[[bytes], None]) -> int:
        return self._admin.purge(queue, taken)

    def publishing(self) -> bool:
        return self._publisher.publishing()

    def check(self) -> str:
        return self._admin.check()

    def close(self) -> None:
        self._publisher.close()
        self._consumer.close()
