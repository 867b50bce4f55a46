"""The channel that publishes durably: `mandatory`, persistent, each message confirmed or refused."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import pika
import pika.exceptions as amqp

from pyfi_hpc.brokers.base import Confirm, Publication
from pyfi_hpc.brokers.rabbitmq import frames
from pyfi_hpc.brokers.rabbitmq.channels import KeptChannel
from pyfi_hpc.brokers.rabbitmq.window import Entry, Window
from pyfi_hpc.brokers.refusals import closed, full, unroutable
from pyfi_hpc.errors import BadInput, BrokerUnavailable, PyfiError
from pyfi_hpc.logs import logger

log = logger()

#: A message not confirmed after this long gets its error, so that one dead queue does not keep the window for itself.
UNCONFIRMED_SECONDS = 60.0
_PERSISTENT = 2
_EXCHANGE = re.compile(r"exchange '([^']*)'")


class ConfirmChannel(KeptChannel):
    """Sends what is handed to `put`, a window at a time; all but `put` runs on the link's thread."""

    def __init__(self) -> None:
        super().__init__("publish")
        self.blocked = False
        self._lock = threading.Lock()
        self._waiting: deque[Entry] = deque()
        self._window = Window()
        self._closed_for_good = False

    def put(self, publications: Sequence[Publication]) -> list[Confirm]:
        """Queue them, from any thread; `cancel` of a confirm takes its message back while it is not sent."""
        entries = [Entry(each) for each in publications]
        with self._lock:
            refused = self._closed_for_good
            if not refused:
                while self._waiting and self._waiting[0].confirm.cancelled():
                    self._waiting.popleft()
                self._waiting.extend(entries)
        for entry in entries if refused else ():
            entry.resolve(closed())
        return [entry.confirm for entry in entries]

    def send_waiting(self) -> None:
        """Send as much as the window takes, all of it in one go."""
        if not self._waiting or not self.is_ready:
            return
        writer = self._connection.writer
        first = writer.hold()
        try:
            self._send_each()
        finally:
            if first:
                writer.release()

    def _send_each(self) -> None:
        while self.is_ready and self._channel.is_open and not self.blocked and self._window.has_room():
            with self._lock:
                entry = self._waiting.popleft() if self._waiting else None
            if entry is None:
                return
            if entry.may_be_sent():
                self._send(entry)

    def give_up(self) -> None:
        """Nothing more will be sent: whoever waits is told so."""
        with self._lock:
            self._closed_for_good = True
            entries = [*self._window.restart(), *self._waiting]
            self._waiting.clear()
        for entry in entries:
            if entry.may_be_sent():
                entry.resolve(closed())

    def begin(self, channel: Any) -> None:
        self._window.restart()
        channel.add_on_return_callback(self._returned)
        self._reader.confirms[channel.channel_number] = self._confirmed
        channel.confirm_delivery(lambda _frame: None, callback=self._selected)

    def detach(self) -> None:
        super().detach()
        self.blocked = False
        self._send_again()

    def lost(self, reason: BaseException) -> None:
        if isinstance(reason, amqp.ChannelClosedByBroker):
            self._refuse(reason)
        self._send_again()

    def watch(self) -> None:
        super().watch()
        if not self.blocked:
            for entry in self._window.older_than(UNCONFIRMED_SECONDS):
                what = f"the broker did not confirm the message within {UNCONFIRMED_SECONDS:g} s"
                entry.resolve(BrokerUnavailable("E_BROKER", what, cure="look at the queue's state: pyfi doctor"))
        self.send_waiting()

    def _selected(self, _frame: Any) -> None:
        self.ready()
        self.send_waiting()

    def _send(self, entry: Entry) -> None:
        publication, channel = entry.publication, self._channel
        # a return carries no tag: this is how its entry is found
        tag = str(self._window.next_tag())
        try:
            properties = _properties(publication, tag)
            data = frames.publish(
                channel.channel_number,
                publication.exchange,
                publication.key,
                publication.body,
                properties,
                mandatory=True,
                frame_max=channel.connection.params.frame_max,
            )
        except (amqp.ShortStringTooLong, amqp.UnsupportedAMQPFieldException, TypeError, ValueError) as error:
            entry.resolve(_unsendable(publication, error))
        else:
            frames.write(channel, data)
            entry.sent = time.monotonic()
            self._window.add(entry)

    def _confirmed(self, tag: int, multiple: bool, refused: bool) -> None:
        for entry in self._window.take(tag, multiple):
            entry.resolve(full(_target(entry.publication)) if refused else entry.refusal)
        self.send_waiting()

    def _returned(self, _channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        entry = self._window.get(int(properties.correlation_id))
        if entry is not None:
            # the confirm follows, and resolves it
            entry.refusal = unroutable(entry.publication.exchange, entry.publication.key)

    def _refuse(self, reason: Any) -> None:
        """The broker closed the channel because of one of ours: fail those that it may be, and send the rest again."""
        exchange = _EXCHANGE.search(reason.reply_text)
        if exchange is None:
            guilty = self._window.restart()
        else:
            guilty = self._window.remove(lambda entry: entry.publication.exchange == exchange.group(1))
        for entry in guilty:
            entry.resolve(_refusal(entry.publication, reason))

    def _send_again(self) -> None:
        """Put what is unconfirmed before what is not sent yet, in the old order."""
        unconfirmed = self._window.restart()
        for entry in unconfirmed:
            entry.refusal = None
        with self._lock:
            self._waiting.extendleft(reversed(unconfirmed))


def _properties(publication: Publication, tag: str) -> bytes:
    if not publication.headers:
        return frames.durable(publication.content_type, tag, publication.message_id)
    properties = pika.BasicProperties(
        content_type=publication.content_type,
        delivery_mode=_PERSISTENT,
        message_id=publication.message_id,
        correlation_id=tag,
        headers=dict(publication.headers),
    )
    return b"".join(properties.encode())


def _target(publication: Publication) -> str:
    return f"{publication.exchange} for {publication.key}"


def _refusal(publication: Publication, reason: Any) -> PyfiError:
    if reason.reply_code == 404:
        return unroutable(publication.exchange, publication.key)
    if reason.reply_code == 403:
        what = f"the broker's user may not publish there: {reason.reply_text}"
        return BadInput.of("E_DENIED", "exchange", publication.exchange, what)
    return BrokerUnavailable("E_BROKER", f"the broker closed the channel: {reason.reply_text}")


def _unsendable(publication: Publication, error: Exception) -> PyfiError:
    return BadInput.of("E_LIMIT", "message", publication.message_id, f"AMQP cannot carry it: {error!r}")
