"""The connection that publishes; it never consumes, because under an alarm the broker does not read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pyfi_hpc.brokers.base import Confirm, Publication
from pyfi_hpc.brokers.rabbitmq.confirms import ConfirmChannel
from pyfi_hpc.brokers.rabbitmq.link import Link
from pyfi_hpc.brokers.rabbitmq.lossy import LossyChannel
from pyfi_hpc.errors import BrokerUnavailable
from pyfi_hpc.logs import logger

log = logger()


class Publisher:
    """A `Session` with one channel for messages and one for hints; the methods up to `close` may come from any thread.

    It connects when it is first used.
    """

    def __init__(self, parameters: Any, uri: str) -> None:
        self._confirms, self._lossy = ConfirmChannel(), LossyChannel()
        self._link = Link(parameters, self, uri=uri, name="publish")

    def start(self) -> None:
        """Begin to connect."""
        self._link.start()

    def publish(self, publications: Sequence[Publication]) -> list[Confirm]:
        """Queue them and have them sent; see `Broker.publish_all`."""
        confirms = self._confirms.put(publications)
        self._send(self._confirms.send_waiting)
        return confirms

    def reply(self, address: str, body: bytes) -> None:
        """See `Broker.reply`."""
        self._lossy.reply(address, body)
        self._send(self._lossy.send_waiting)

    def hint(self, network: str, text: str) -> None:
        """See `Broker.hint`."""
        self._lossy.hint(network, text)
        self._send(self._lossy.send_waiting)

    def publishing(self) -> bool:
        """See `Broker.publishing`."""
        self._link.start()
        return self._confirms.is_ready and not self._confirms.blocked

    def close(self) -> None:
        """End the connection; what was not confirmed gets its error."""
        self._link.close()
        self._confirms.give_up()

    def _send(self, waiting: Callable[[], None]) -> None:
        self._link.start()
        self._link.do(waiting)

    def up(self, connection: Any) -> None:
        connection.add_on_connection_blocked_callback(lambda _connection, _method: self._block(True))
        connection.add_on_connection_unblocked_callback(lambda _connection, _method: self._block(False))
        self._confirms.attach(connection)
        self._lossy.attach(connection)

    def step(self) -> None:
        self._lossy.send_waiting()
        self._confirms.send_waiting()

    def watch(self) -> None:
        self._lossy.watch()
        self._confirms.watch()

    def down(self, error: BrokerUnavailable) -> None:
        self._lossy.blocked = False
        self._lossy.detach()
        self._confirms.detach()

    def _block(self, blocked: bool) -> None:
        log.warning("broker takes no messages" if blocked else "broker takes messages again")
        self._lossy.blocked = self._confirms.blocked = blocked
        self.step()
