"""What goes to the agent: results gathered for a moment, never for the time of a long call."""

from __future__ import annotations

import os
import socket
import threading
import time

from pyfi_hpc.wire.frames import Done, Item, Progress, ToAgent, pack

#: Results wait so long for company, at most; a call that takes longer is no company.
FLUSH_SECONDS = 0.002
FLUSH_BYTES = 65_536


class Outbox:
    """Finished members of one message after the other, on their way."""

    def __init__(self, connection: socket.socket, progress: Progress) -> None:
        self._connection, self._progress = connection, progress
        self._token = -1
        self._items: list[Item] = []
        self._bytes = 0
        self._first = 0.0
        self.finished = 0
        # the items of a generator are sent by a thread too
        self._sending = threading.Lock()

    def begin(self, token: int) -> None:
        """The next items belong to the message `token`."""
        self._token = token

    def add(self, item: Item, now: float) -> None:
        """A member is finished; `now` is monotonic."""
        self.finished += 1
        if not self._items:
            self._first = now
        self._items.append(item)
        self._bytes += len(item.value or b"") + len(item.out) + len(item.err)
        if (
            now - self._first >= FLUSH_SECONDS
            or self._bytes >= FLUSH_BYTES
            or item.ended - item.started >= FLUSH_SECONDS
        ):
            self.flush()

    def flush(self) -> None:
        """Send what waits. Nothing runs meanwhile, should the agent be slow to take it."""
        self._progress.begin(self._token, -1, time.monotonic(), self.finished)
        if self._items:
            done = Done(self._token, tuple(self._items))
            self._items, self._bytes = [], 0
            self.send(done)

    def send(self, frame: ToAgent) -> None:
        """Hand a frame over; without an agent there is nothing left to do."""
        try:
            with self._sending:
                self._connection.sendall(pack(frame))
        except OSError:
            os._exit(1)
