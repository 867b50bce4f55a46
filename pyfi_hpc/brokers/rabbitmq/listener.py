"""Exclusive queues of this process: replies to a client, hints to an agent. What is in them may be lost."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

from pyfi_hpc.brokers.rabbitmq.arguments import control_exchange
from pyfi_hpc.brokers.rabbitmq.channels import KeptChannel
from pyfi_hpc.brokers.rabbitmq.reader import Delivered
from pyfi_hpc.logs import logger

log = logger()


class Listener(KeptChannel):
    """Hears what comes to a queue named by us, which is made again under the same name after a lost connection.

    With `network`, the queue hears its control exchange too. `listening` is set while the queue stands, `tried` once
    it did, or could not be made.
    """

    def __init__(self, prefix: str, hear: Callable[[bytes], None], *, network: str | None = None) -> None:
        super().__init__(f"{prefix}.{uuid.uuid4().hex}")
        self._hear, self._network = hear, network
        self.listening, self.tried = threading.Event(), threading.Event()

    def begin(self, channel: Any) -> None:
        channel.add_on_cancel_callback(lambda _frame: self.restart())
        # each request waits for the answer to the one before: pika queues them
        channel.queue_declare(self.name, exclusive=True, auto_delete=True, durable=False)
        if self._network is not None:
            exchange = control_exchange(self._network)
            channel.exchange_declare(exchange, exchange_type="fanout", durable=True)
            channel.queue_bind(self.name, exchange)
        self._reader.deliveries[channel.channel_number] = self._received
        channel.basic_consume(self.name, lambda *_: None, auto_ack=True, callback=self._consuming)

    def lost(self, reason: BaseException) -> None:
        self.listening.clear()

    def detach(self) -> None:
        super().detach()
        self.listening.clear()

    def _consuming(self, _frame: Any) -> None:
        self.ready()
        self.listening.set()
        self.tried.set()

    def _received(self, deliveries: list[Delivered]) -> None:
        for delivered in deliveries:
            try:
                self._hear(delivered.body)
            except Exception:
                log.exception("hint not taken", queue=self.name)
