"""The channel for what may be lost: replies to waiting clients and hints to agents."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from pyfi_hpc.brokers.rabbitmq import frames
from pyfi_hpc.brokers.rabbitmq.arguments import control_exchange
from pyfi_hpc.brokers.rabbitmq.channels import KeptChannel
from pyfi_hpc.logs import logger

log = logger()

#: More than this many unsent ones push the oldest out.
KEPT = 10_000


class Hint(NamedTuple):
    """`body` for a reply queue (`exchange` empty, `key` its name) or for every agent of `network`."""

    exchange: str
    key: str
    body: bytes
    network: str = ""


class LossyChannel(KeptChannel):
    """Sends without confirm, transient and not `mandatory`: the one place where that is allowed."""

    def __init__(self) -> None:
        super().__init__("hints")
        self.blocked = False
        self._waiting: deque[Hint] = deque(maxlen=KEPT)
        self._declared: set[str] = set()

    def reply(self, address: str, body: bytes) -> None:
        """For the client that listens at `address`; from any thread."""
        self._waiting.append(Hint("", address, body))

    def hint(self, network: str, text: str) -> None:
        """For every agent of `network`; from any thread."""
        self._waiting.append(Hint(control_exchange(network), "", text.encode(), network))

    def begin(self, channel: Any) -> None:
        self._declared.clear()
        self.ready()
        self.send_waiting()

    def send_waiting(self) -> None:
        """Send what is queued; under an alarm it is dropped, later it would be stale."""
        if self.blocked:
            self._waiting.clear()
        while self.is_ready and self._channel.is_open and self._waiting:
            self._send(self._waiting.popleft())

    def _send(self, hint: Hint) -> None:
        if hint.network and hint.network not in self._declared:
            self._declared.add(hint.network)
            # sent before the message on the same channel, so its answer need not be awaited
            self._channel.exchange_declare(hint.exchange, exchange_type="fanout", durable=True)
        channel, frame_max = self._channel, self._channel.connection.params.frame_max
        try:
            data = frames.publish(
                channel.channel_number,
                hint.exchange,
                hint.key,
                hint.body,
                frames.TRANSIENT,
                mandatory=False,
                frame_max=frame_max,
            )
            frames.write(channel, data)
        except Exception as error:  # a bad address of somebody else's must not end our connection
            log.warning("hint not sent", key=hint.key, reason=repr(error))
