"""A channel that is opened again, whatever closes it, until it is dropped."""

from __future__ import annotations

import time
from typing import Any

from pyfi_hpc.brokers.rabbitmq.backoff import Backoff
from pyfi_hpc.logs import logger

log = logger()

#: A channel that is not ready after this long is given up for a new one.
STUCK_SECONDS = 20.0


class KeptChannel:
    """The base of all that we do on channels; everything here runs on the link's thread.

    A subclass says in `begin` what happens on a fresh channel, calls `ready` when that has worked, and hears in `lost`
    that the channel is gone.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.wanted = True
        self.is_ready = False
        self._connection: Any = None
        #: the connection's `Reader`; what is registered there in `begin` goes with the channel
        self._reader: Any = None
        self._channel: Any = None
        self._since = 0.0
        self._retry = Backoff()

    def begin(self, channel: Any) -> None:
        """Set up a channel that has just opened."""
        raise NotImplementedError

    def lost(self, reason: BaseException) -> None:
        """The channel is gone, with everything that was on it."""

    def attach(self, connection: Any) -> None:
        """There is a new connection to work on."""
        self._connection, self._reader, self._channel = connection, connection.reader, None
        self._retry.reset()
        self._open()

    def detach(self) -> None:
        """The connection is gone, and the channel with it."""
        self._connection = self._channel = None
        self.is_ready = False

    def ready(self) -> None:
        """What `begin` started has worked."""
        self.is_ready = True
        self._retry.reset()

    def drop(self) -> None:
        """Close the channel for good."""
        self.wanted = False
        self.restart()

    def restart(self) -> None:
        """Close the channel; where it is still wanted, a new one follows."""
        self.is_ready = False
        channel = self._channel
        if channel is not None and not (channel.is_closing or channel.is_closed):
            self._reader.forget(channel.channel_number)
            self.part_with(channel)

    def part_with(self, channel: Any) -> None:
        """Have the open channel closed."""
        channel.close()

    def watch(self) -> None:
        """Find a channel that died or hangs without a word."""
        if not self.wanted or self._connection is None:
            return
        if self._channel is not None and self._channel.is_closed:
            self._closed(self._channel, ConnectionError("the channel was found closed"))
        elif self._channel is not None and not self.is_ready and time.monotonic() - self._since > STUCK_SECONDS:
            self._unstick()

    def _unstick(self) -> None:
        if self._channel.is_closing:
            raise ConnectionError(f"the broker does not close channel {self.name}")
        log.warning("broker channel stuck", channel=self.name)
        self._since = time.monotonic()
        self.restart()

    def _open(self) -> None:
        if not self.wanted or self._channel is not None or self._connection is None or not self._connection.is_open:
            return
        self.is_ready, self._since = False, time.monotonic()
        self._channel = self._connection.channel(on_open_callback=self._opened)
        self._channel.add_on_close_callback(self._closed)

    def _opened(self, channel: Any) -> None:
        if channel is self._channel and self.wanted:
            self.begin(channel)
        else:
            channel.close()

    def _closed(self, channel: Any, reason: BaseException) -> None:
        if channel is not self._channel:
            return
        self._channel, self.is_ready = None, False
        self._reader.forget(channel.channel_number)
        self.lost(reason)
        if self.wanted and self._connection is not None and self._connection.is_open:
            delay = self._retry.next()
            log.info("broker channel closed", channel=self.name, reason=str(reason), again_seconds=round(delay, 1))
            self._connection.ioloop.call_later(delay, self._open)
