"""What goes to the agent: results gathered for a moment, never for the time of a long call."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable

from pyfi_hpc.wire.frames import Done, Item, Link, Progress, Reached, ToAgent, Untaken, pack_onto

#: Results wait so long for company, at most; a call that takes longer is no company.
FLUSH_SECONDS = 0.002
FLUSH_BYTES = 262_144


class Outbox:
    """Finished members of one message after the other, and calls that came by pipes, on their way."""

    def __init__(self, connection: socket.socket, progress: Progress) -> None:
        self._connection, self._progress = connection, progress
        self._token = -1
        #: finished members, by the token of their message
        self._items: dict[int, list[Item]] = {}
        self._links: list[Link] = []
        self._untaken: list[tuple[int, int, bytes]] = []
        self._bytes = 0
        self._first = 0.0
        self.finished = 0
        # the items of a generator are sent by a thread too
        self._sending = threading.Lock()
        #: sends values that go to other workers; the calls (token, index, id) that none of these is known to have
        self.ahead: Callable[[], list[tuple[int, int, bytes]]] | None = None

    def begin(self, token: int) -> None:
        """The next items belong to the message `token`."""
        self._token = token

    def add(self, item: Item, now: float) -> None:
        """A member is finished; `now` is monotonic."""
        self._items.setdefault(self._token, []).append(item)
        self._added(item, now)

    def reached(self, link: Link, now: float) -> None:
        """A call that came by a pipe is finished; `now` is monotonic."""
        self._links.append(link)
        self._added(link.item, now)

    def untaken(self, token: int, index: int, identity: bytes) -> None:
        """A call that came by a pipe has to come by the broker."""
        self._untaken.append((token, index, identity))

    def _added(self, item: Item, now: float) -> None:
        self.finished += 1
        if not self._bytes:
            self._first = now
        # one for the item itself: there is something to send
        self._bytes += 1 + len(item.value or b"") + len(item.out) + len(item.err)
        if (
            now - self._first >= FLUSH_SECONDS
            or self._bytes >= FLUSH_BYTES
            or item.ended - item.started >= FLUSH_SECONDS
        ):
            self.flush()

    def flush(self) -> None:
        """Send what waits. Nothing runs meanwhile, should the agent be slow to take it."""
        self._progress.begin(self._token, -1, time.monotonic(), self.finished)
        # other workers can begin while the agent is told
        lost, self._untaken = [*self._untaken, *(self.ahead() if self.ahead is not None else ())], []
        if self._bytes:
            items, links = self._items, self._links
            self._items, self._links, self._bytes = {}, [], 0
            frames: list[ToAgent] = [Done(token, tuple(found)) for token, found in items.items()]
            if links:
                frames.append(Reached(tuple(links)))
            self.send(*frames)
        if lost:
            self.send(Untaken(tuple(lost)))

    def send(self, *frames: ToAgent) -> None:
        """Hand frames over, in one go; without an agent there is nothing left to do."""
        data = bytearray()
        for frame in frames:
            pack_onto(data, frame)
        try:
            with self._sending:
                self._connection.sendall(data)
        except OSError:
            os._exit(1)
