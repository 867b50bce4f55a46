"""Large results are stored beside the next call, which runs while they wait for the disk; each is told once durable.

Only those of calls that are brief: a result is told by a thread of its own, which user code may keep from running.
While nothing else runs, the call whose result is being stored is the one that runs, as far as the agent sees: its time
limit counts, and it is to blame should the worker die.
"""

from __future__ import annotations

import os
import queue
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from pyfi_hpc.wire.blobs import Content
from pyfi_hpc.wire.frames import Done, Item, Progress
from pyfi_hpc.worker import failures
from pyfi_hpc.worker.outbox import Outbox

#: Results that may be on their way to the disk at once.
_MOST = 2


class _Left(NamedTuple):
    """A finished member of the message `token`, whose result is yet to be stored; `began` is monotonic."""

    token: int
    item: Item
    began: float
    content: Content


class Storing:
    """For the worker's own thread, and one more that stores."""

    def __init__(
        self, connection: socket.socket, progress: Progress, outbox: Outbox, keep: Callable[[Content], None]
    ) -> None:
        """`keep` makes a content durable, or raises."""
        self._connection, self._progress, self._outbox, self._keep = connection, progress, outbox, keep
        self._jobs: queue.SimpleQueue[_Left] = queue.SimpleQueue()
        self._left: deque[_Left] = deque()
        #: rung once for each that is stored and told
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC | os.EFD_SEMAPHORE)
        self._poll = select.poll()
        for descriptor in (self._bell, connection.fileno()):
            self._poll.register(descriptor, select.POLLIN)
        self._alone = select.poll()
        self._alone.register(self._bell, select.POLLIN)
        threading.Thread(target=self._run, name="pyfi-storing", daemon=True).start()

    def put(self, token: int, item: Item, began: float, content: Content) -> None:
        """Have it stored, and the item told; waits while too many are under way."""
        while len(self._left) >= _MOST:
            self._wait(self._alone)
        left = _Left(token, item, began, content)
        self._left.append(left)
        self._outbox.finished += 1
        self._jobs.put(left)

    @property
    def busy(self) -> bool:
        """Whether something may not be told yet."""
        while self._left and self._rung():
            self._left.popleft()
        return bool(self._left)

    def settle(self) -> None:
        """Return once everything is stored and told."""
        while self.busy:
            self._wait(self._alone)

    def wait_for_agent(self) -> None:
        """Return once the agent has said something, or everything is stored and told."""
        while self.busy and not self._wait(self._poll):
            pass

    def _wait(self, poll: select.poll) -> bool:
        """Wait as the call whose result is the oldest; whether the agent has spoken."""
        oldest = self._left[0]
        self._progress.begin(oldest.token, oldest.item.index, oldest.began, self._outbox.finished)
        ready = {descriptor for descriptor, _ in poll.poll()}
        if self._bell in ready and self._rung():
            self._left.popleft()
        self._progress.begin(oldest.token, -1, oldest.began, self._outbox.finished)
        return bool(ready - {self._bell})

    def _rung(self) -> bool:
        try:
            return bool(os.eventfd_read(self._bell))
        except BlockingIOError:
            return False

    # the thread

    def _run(self) -> None:
        while True:
            left = self._jobs.get()
            self._outbox.send(Done(left.token, (self._stored(left),)))
            os.eventfd_write(self._bell, 1)

    def _stored(self, left: _Left) -> Item:
        item = left.item
        try:
            self._keep(left.content)
        except BaseException as error:
            return Item(item.index, None, failures.refused(error), item.started, item.ended, item.out, item.err)
        return item
