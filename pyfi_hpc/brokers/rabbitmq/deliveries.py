"""A message in a consumer's hands, and the channel incarnation that it came on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from pyfi_hpc.brokers.rabbitmq import frames
from pyfi_hpc.brokers.rabbitmq.acks import AckLedger
from pyfi_hpc.brokers.rabbitmq.reader import Delivered

DELIVERY_COUNT = "x-delivery-count"


class Incarnation:
    """One life of a subscription's channel: delivery tags mean something on it alone."""

    def __init__(self, channel: Any, settle: Callable[[Incarnation, int], None]) -> None:
        self.channel, self.ledger = channel, AckLedger()
        #: The highest delivery tag so far.
        self.last = 0
        #: How many deliveries are settled and not acked, and how many of them may wait for others.
        self.waiting, self.most_waiting = 0, 1
        self._settle = settle

    def delivered(self, tag: int) -> None:
        """Somebody has this delivery in hands from now on."""
        self.last = tag
        self.ledger.delivered(tag)

    def settle(self, tag: int) -> None:
        """Have the delivery of `tag` acked; from any thread."""
        self._settle(self, tag)

    def send_acks(self) -> None:
        """Send what is due; the acks of a channel that is gone are dropped."""
        if self.channel.is_open:
            number = self.channel.channel_number
            frames.write(self.channel, b"".join([frames.ack(number, *ack) for ack in self.ledger.due()]))


class RabbitDelivery:
    """See `brokers.base.Delivery`."""

    __slots__ = (
        "_incarnation", "_tag", "body", "content_encoding", "content_type", "delivery_count", "headers", "queue",
        "received", "redelivered",
    )  # fmt: skip

    def __init__(self, queue: str, incarnation: Incarnation, delivered: Delivered) -> None:
        self.queue, self.body, self.received = queue, delivered.body, time.monotonic()
        properties = delivered.properties
        self.content_type: str | None = properties.content_type
        self.content_encoding: str | None = properties.content_encoding
        self.headers: Mapping[str, object] = properties.headers
        self.redelivered = delivered.redelivered
        count = self.headers.get(DELIVERY_COUNT, 0)
        self.delivery_count = count if isinstance(count, int) else 0
        self._incarnation, self._tag = incarnation, delivered.tag

    def ack(self) -> None:
        self._incarnation.settle(self._tag)

    def held(self) -> bool:
        return bool(self._incarnation.channel.is_open)
