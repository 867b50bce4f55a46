"""A consumer of one task's queue, on a channel of its own."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import structlog

from pyfi_hpc.brokers.base import Delivery
from pyfi_hpc.brokers.rabbitmq.channels import KeptChannel
from pyfi_hpc.brokers.rabbitmq.deliveries import Incarnation, RabbitDelivery
from pyfi_hpc.errors import BadInput

log = structlog.get_logger()

#: AMQP writes the prefetch into two bytes, and 0 would mean "no limit".
PREFETCH_MOST = 65_535


class Consumption(KeptChannel):
    """The link's side of a subscription. Everything runs on the link's thread but `stop_handing_over`.

    The consumer tag stays the same for life: where a quorum queue sees it again on the same channel, it counts the
    deliveries still in hand against the new prefetch.
    """

    def __init__(
        self,
        queue: str,
        prefetch: int,
        deliver: Callable[[Delivery], None],
        settle: Callable[[Incarnation, int], None],
    ) -> None:
        super().__init__(queue)
        self._prefetch = prefetch
        self._deliver, self._settle = deliver, settle
        self._tag = f"pyfi-{uuid.uuid4().hex}"
        self._incarnation: Incarnation | None = None
        self._handing_over = True
        # while the broker has not answered a cancel, nothing may be asked of the same consumer
        self._cancelling = False
        # not consuming, because as many deliveries are in hand as the new prefetch allows
        self._full = False

    def begin(self, channel: Any) -> None:
        self._cancelling = self._full = False
        self._incarnation = Incarnation(channel, self._settle)
        channel.add_on_cancel_callback(self._cancelled_by_broker)
        self._consume()

    def lost(self, reason: BaseException) -> None:
        self._incarnation = None

    def detach(self) -> None:
        super().detach()
        self._incarnation = None

    def watch(self) -> None:
        super().watch()
        channel, waiting = self._channel, self._cancelling or self._full or not self._handing_over
        if self.is_ready and not waiting and channel is not None and self._tag not in channel.consumer_tags:
            log.warning("consumer vanished", queue=self.name)
            self.restart()

    def resize(self, prefetch: int) -> None:
        """Consume again with another prefetch: `basic.qos` does not touch a live quorum consumer."""
        if prefetch == self._prefetch:
            return
        self._prefetch = prefetch
        if self.is_ready and self._handing_over and not self._cancelling and not self._full:
            self._cancel(self._consume)

    def stop_handing_over(self) -> None:
        """From now on nothing is given to `deliver`; from any thread."""
        self._handing_over = False

    def end(self) -> None:
        """Cancel the consumer; the channel goes when the last delivery in hand is settled."""
        if self._incarnation is None:
            self.drop()
        elif self._full:
            self.acked()
        elif self.is_ready and not self._cancelling:
            self._cancel(self.acked)

    def acked(self) -> None:
        """Deliveries were settled: an ended subscription may be done, one that had too many may go on."""
        if self._cancelling:
            return
        if not self._handing_over:
            if self._in_hand() == 0:
                self.drop()
        elif self._full and self._in_hand() < self._prefetch:
            self._consume()

    def _in_hand(self) -> int:
        return 0 if self._incarnation is None else len(self._incarnation.ledger)

    def _cancel(self, then: Callable[[], None]) -> None:
        self._cancelling = True
        channel = self._channel

        def cancelled(_frame: Any) -> None:
            self._cancelling = False
            if channel.is_open:
                (then if self._handing_over else self.acked)()

        channel.basic_cancel(self._tag, callback=cancelled)

    def _consume(self) -> None:
        if not self._handing_over:
            self.acked()
            return
        # what is in hand counts against the new prefetch, but not below none: with more in hand, wait for acks
        self._full = self._in_hand() >= self._prefetch
        if self._full:
            return
        asked = self._prefetch
        self._channel.basic_qos(prefetch_count=asked)
        incarnation = self._incarnation
        assert incarnation is not None
        self._channel.basic_consume(
            self.name,
            lambda _channel, method, properties, body: self._received(incarnation, method, properties, body),
            consumer_tag=self._tag,
            callback=lambda _frame: self._consuming(asked),
        )

    def _consuming(self, prefetch: int) -> None:
        self.ready()
        if not self._handing_over:
            self.end()
        elif prefetch != self._prefetch:
            self._cancel(self._consume)

    def _received(self, incarnation: Incarnation, method: Any, properties: Any, body: bytes) -> None:
        if not self._handing_over:
            incarnation.channel.basic_nack(method.delivery_tag, requeue=True)
            return
        incarnation.ledger.delivered(method.delivery_tag)
        try:
            self._deliver(RabbitDelivery(self.name, incarnation, method, properties, body))
        except Exception:
            # it stays unacked: whatever failed there, the message is safe
            log.exception("delivery not taken", queue=self.name, message=properties.message_id)

    def _cancelled_by_broker(self, _frame: Any) -> None:
        log.warning("consumer cancelled by the broker", queue=self.name)
        self.restart()


class RabbitSubscription:
    """See `brokers.base.Subscription`; every method may be called from any thread."""

    def __init__(self, consumption: Consumption, on_link: Callable[[Callable[[], None]], None]) -> None:
        self._consumption, self._on_link = consumption, on_link

    def cancel(self) -> None:
        self._consumption.stop_handing_over()
        self._on_link(self._consumption.end)

    def resize(self, prefetch: int) -> None:
        checked = checked_prefetch(prefetch)
        self._on_link(lambda: self._consumption.resize(checked))

    def drop(self) -> None:
        self._consumption.stop_handing_over()
        self._on_link(self._consumption.drop)


def checked_prefetch(prefetch: int) -> int:
    """`prefetch`, if AMQP can carry it."""
    if not 1 <= prefetch <= PREFETCH_MOST:
        raise BadInput.of("E_RANGE", "prefetch", prefetch, f"from 1 to {PREFETCH_MOST}")
    return prefetch
