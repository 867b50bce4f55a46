"""A consumer of one task's queue, on a channel of its own."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from pyfi_hpc.brokers.base import Delivery, is_single, nothing
from pyfi_hpc.brokers.rabbitmq.channels import KeptChannel
from pyfi_hpc.brokers.rabbitmq.deliveries import Incarnation, RabbitDelivery
from pyfi_hpc.brokers.rabbitmq.reader import Delivered
from pyfi_hpc.errors import BadInput
from pyfi_hpc.logs import logger

log = logger()

#: AMQP writes the prefetch into two bytes, and 0 would mean "no limit".
PREFETCH_MOST = 65_535
#: No delivery has this number.
NO_TAG = 2**62
#: The part of its prefetch that may be settled and wait to be acked.
WAITING_PART = 4
#: A subscription that grew this often starts anew with one consumer.
PARTS_MOST = 4


class Consumption(KeptChannel):
    """The link's side of a subscription. Everything runs on the link's thread but `stop_handing_over`.

    A live quorum consumer's prefetch cannot be changed, so the prefetch is the sum over several consumers of one
    channel: more is had by one consumer more, less by cancelling all and starting anew, counting what is in hand.
    (The same consumer tag a second time, with deliveries in hand, crashes the channel in RabbitMQ 3.10.8.)
    """

    def __init__(
        self,
        queue: str,
        prefetch: int,
        deliver: Callable[[Delivery], None],
        settle: Callable[[Incarnation, int], None],
        all_here: Callable[[], None] = nothing,
    ) -> None:
        super().__init__(queue)
        self._prefetch = prefetch
        self.single = is_single(queue)
        #: it was dropped, and the broker knows
        self.gone = threading.Event()
        self._deliver, self._settle, self._all_here = deliver, settle, all_here
        self._handing_over = True
        self._forget()

    def _forget(self) -> None:
        self._incarnation: Incarnation | None = None
        # consumer tag -> its part of the prefetch
        self._parts: dict[str, int] = {}
        # consumer tags whose cancel the broker has not answered
        self._cancelling: set[str] = set()
        # deliveries up to this tag came to consumers that are cancelled
        self._orphans_to = 0

    def begin(self, channel: Any) -> None:
        self._forget()
        if not self._handing_over:
            # it was kept for the deliveries in its hands: those went back with the channel before
            self.drop()
            return
        self._incarnation = Incarnation(channel, self._settle)
        self._incarnation.most_waiting = self._most_waiting()
        self._reader.deliveries[channel.channel_number] = partial(self._received, self._incarnation)
        channel.add_on_cancel_callback(self._cancelled_by_broker)
        self._top_up()

    def lost(self, reason: BaseException) -> None:
        self._forget()
        self._note_gone()

    def detach(self) -> None:
        super().detach()
        self._forget()
        self._note_gone()

    def drop(self) -> None:
        super().drop()
        self._note_gone()

    def _note_gone(self) -> None:
        if not self.wanted and self._channel is None:
            self.gone.set()

    def part_with(self, channel: Any) -> None:
        if self.single:
            # RabbitMQ 3.10.8 serves the next consumer of a quorum queue before it takes back what an orderly closed
            # channel had in hands; a channel that it closes for an error gives that back first
            channel.basic_ack(NO_TAG)
        else:
            super().part_with(channel)

    def watch(self) -> None:
        super().watch()
        if self.is_ready and self._channel is not None and not self._parts.keys() <= set(self._channel.consumer_tags):
            log.warning("consumer vanished", queue=self.name)
            self.restart()

    def resize(self, prefetch: int) -> None:
        """Hold at most `prefetch` deliveries from now on, those in hand included."""
        self._prefetch = prefetch
        if self._incarnation is None:
            return
        self._incarnation.most_waiting = self._most_waiting()
        if self._cancelling:
            return
        if prefetch < self._asked() or len(self._parts) >= PARTS_MOST:
            self._cancel_all()
        else:
            self._top_up()

    def _most_waiting(self) -> int:
        return max(1, self._prefetch // WAITING_PART)

    def stop_handing_over(self) -> None:
        """From now on nothing is given to `deliver`; from any thread."""
        self._handing_over = False

    def end(self) -> None:
        """Cancel the consumers; the channel goes when the last delivery in hand is settled."""
        if self._incarnation is None:
            self.drop()
        elif self._parts:
            self._cancel_all()
        else:
            self.acked()

    def acked(self) -> None:
        """Deliveries were settled: an ended subscription may be done, one that had too many may go on."""
        if self._handing_over:
            self._top_up()
        elif not self._parts and not self._cancelling and not self._in_hand():
            self.drop()

    def _asked(self) -> int:
        return sum(self._parts.values())

    def _in_hand(self) -> int:
        return 0 if self._incarnation is None else len(self._incarnation.ledger)

    def _top_up(self) -> None:
        """Consume more where fewer deliveries are asked for than the prefetch allows."""
        if self._incarnation is None or self._cancelling or self._asked() >= self._prefetch:
            return
        if not self._handing_over:
            return  # a consumer of nobody's would give each message back until the broker sets it aside
        orphans = self._incarnation.ledger.count_to(self._orphans_to)
        room = self._prefetch - self._asked() - orphans
        # orphans go one by one: the last part waits for all of them
        if room > 0 and (orphans == 0 or len(self._parts) < PARTS_MOST):
            self._consume(room)

    def _consume(self, part: int) -> None:
        tag = f"pyfi-{uuid.uuid4().hex}"
        self._parts[tag] = part
        self._channel.basic_qos(prefetch_count=part)
        self._channel.basic_consume(
            self.name,
            lambda *_: None,
            consumer_tag=tag,
            callback=lambda _frame: self.ready(),
        )

    def _cancel_all(self) -> None:
        self._cancelling |= self._parts.keys()
        for tag in self._parts:
            self._channel.basic_cancel(tag, callback=self._cancel_answered(tag))
        self._parts = {}

    def _cancel_answered(self, tag: str) -> Callable[[Any], None]:
        incarnation = self._incarnation

        def answered(_frame: Any) -> None:
            if incarnation is not None and incarnation is self._incarnation:
                self._cancelling.discard(tag)
                self._orphans_to = incarnation.last
                self.acked()

        return answered

    def _received(self, incarnation: Incarnation, deliveries: list[Delivered]) -> None:
        for delivered in deliveries:
            if not self._handing_over:
                # on its way to a consumer that is being cancelled
                incarnation.channel.basic_nack(delivered.tag, requeue=True)
            else:
                # of a consumer that makes room for a smaller one it is more than is wanted, but it is here: what goes
                # back counts as delivered twice
                incarnation.delivered(delivered.tag)
                self._hand_over(RabbitDelivery(self.name, incarnation, delivered))
        self._all_here()

    def _hand_over(self, delivery: RabbitDelivery) -> None:
        try:
            self._deliver(delivery)
        except Exception:
            # it stays unacked: whatever failed there, the message is safe
            log.exception("delivery not taken", queue=self.name)

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
