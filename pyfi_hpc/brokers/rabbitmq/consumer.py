"""The connection that consumes and acks; it never publishes, so that an alarm leaves it alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from pyfi_hpc.brokers.base import Delivery
from pyfi_hpc.brokers.rabbitmq.channels import KeptChannel
from pyfi_hpc.brokers.rabbitmq.deliveries import Incarnation
from pyfi_hpc.brokers.rabbitmq.link import Link
from pyfi_hpc.brokers.rabbitmq.listener import Listener
from pyfi_hpc.brokers.rabbitmq.subscription import Consumption, RabbitSubscription, checked_prefetch
from pyfi_hpc.errors import BrokerUnavailable

#: How long a new listener is waited for; what it hears may be lost, so going on without it is no fault.
LISTENING_SECONDS = 3.0
#: How long a delivery that is settled may wait for others, to be acked with them. Of a quorum queue each ack is a
#: write to disk, which the next message's own would wait for.
ACK_SECONDS = 0.01
#: How long it is waited at the end for the broker to take back what has to be delivered first.
PARTING_SECONDS = 2.0


class Consumer:
    """A `Session` with one channel for each subscription; the methods up to `close` may come from any thread.

    It connects when it is first used.
    """

    def __init__(self, parameters: Any, uri: str) -> None:
        self._connection: Any = None
        self._channels: list[KeptChannel] = []
        #: consumers of single queues that may have something in hands
        self._singles: list[Consumption] = []
        self._settled: deque[tuple[Incarnation, int]] = deque()
        #: acks are sent soon, whoever asks for it or not
        self._acking = False
        self._tasks: deque[Callable[[], None]] = deque()
        self._listeners: list[Listener] = []
        self._link = Link(parameters, self, uri=uri, name="consume")

    def start(self) -> None:
        """Begin to connect."""
        self._link.start()

    def consume(
        self, queue: str, prefetch: int, deliver: Callable[[Delivery], None], all_here: Callable[[], None]
    ) -> RabbitSubscription:
        """See `Broker.consume`."""

        def arrived() -> None:
            self._ack_soon()
            all_here()

        consumption = Consumption(queue, checked_prefetch(prefetch), deliver, self._settle, arrived)
        if consumption.single:
            self._singles = [each for each in self._singles if not each.gone.is_set()] + [consumption]
        self._keep(consumption)
        return RabbitSubscription(consumption, self._on_link)

    def listen(self, prefix: str, hear: Callable[[bytes], None], *, network: str | None = None) -> str:
        """Hear what comes to a queue of our own; its name, which begins with `prefix`."""
        listener = Listener(prefix, hear, network=network)
        self._listeners.append(listener)
        self._keep(listener)
        listener.tried.wait(LISTENING_SECONDS)
        return listener.name

    def close(self) -> None:
        """Send the acks that are due and end the connection; unacked deliveries go back."""
        for single in self._singles:
            single.stop_handing_over()
            self._on_link(single.drop)
        for single in self._singles:
            single.gone.wait(PARTING_SECONDS)
        self._link.close()

    def _settle(self, incarnation: Incarnation, tag: int) -> None:
        self._settled.append((incarnation, tag))
        incarnation.waiting += 1
        if incarnation.waiting >= incarnation.most_waiting or not self._acking:
            self._link.wake()

    def _ack_soon(self) -> None:
        if not self._acking and self._connection is not None:
            self._acking = True
            self._connection.ioloop.call_later(ACK_SECONDS, self._ack)

    def _ack(self) -> None:
        # before the look at what is settled: what is settled afterwards wakes us
        self._acking = False
        self._send_acks()

    def _keep(self, channel: KeptChannel) -> None:
        def attach() -> None:
            self._channels.append(channel)
            if self._connection is not None:
                channel.attach(self._connection)

        self._on_link(attach)

    def _on_link(self, task: Callable[[], None]) -> None:
        self._tasks.append(task)
        self._link.start()
        self._link.wake()

    def up(self, connection: Any) -> None:
        self._connection = connection
        for channel in self._channels:
            channel.attach(connection)
        self.step()

    def step(self) -> None:
        self._send_acks()
        while self._tasks:
            self._tasks.popleft()()
        self._channels = [channel for channel in self._channels if channel.wanted]

    def watch(self) -> None:
        for channel in self._channels:
            channel.watch()

    def down(self, error: BrokerUnavailable) -> None:
        self._connection, self._acking = None, False
        for channel in self._channels:
            channel.detach()
        # nobody waits any longer for what cannot be had now
        for listener in self._listeners:
            listener.tried.set()

    def _send_acks(self) -> None:
        touched: dict[Incarnation, None] = {}
        while self._settled:
            incarnation, tag = self._settled.popleft()
            incarnation.ledger.settle(tag)
            incarnation.waiting = 0
            touched[incarnation] = None
        for incarnation in touched:
            incarnation.send_acks()
        for channel in self._channels if touched else ():
            if isinstance(channel, Consumption):
                channel.acked()
