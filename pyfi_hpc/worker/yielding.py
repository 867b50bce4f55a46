"""What a running generator has yielded, on its way to the agent: in bunches, never held back, never far ahead.

Items gather while they come fast, for `FLUSH_SECONDS` at most: a thread of its own sees to it that none waits for the
generator's next step. A generator that is `WINDOW_ITEMS` or `WINDOW_BYTES` ahead of what its agent has committed and
sent on waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from pyfi_hpc.wire.frames import Yielded
from pyfi_hpc.worker.outbox import FLUSH_BYTES, FLUSH_SECONDS

WINDOW_ITEMS, WINDOW_BYTES = 256, 4 * 2**20
_BUNCH = 64


class Yielding:
    """The items of one call after another."""

    def __init__(
        self, send: Callable[[Yielded], None], hear: Callable[[], None], running: Callable[[], tuple[int, int]]
    ) -> None:
        """`send` hands a frame to the agent, from any thread; `hear` waits for one of its and calls `taken`; `running`
        tells token and index of the running member."""
        self._send, self._hear, self._running = send, hear, running
        self._lock, self._bell = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._call = (-1, -1)
        self._values: list[bytes] = []
        self._first = 0
        #: sizes of the items that are not taken yet
        self._ahead: deque[int] = deque()
        self._ahead_bytes = 0
        self._sent = 0.0
        #: items of the running call; None while it has not turned out to be a generator
        self.count: int | None = None

    def begin(self) -> None:
        """The running call is a generator."""
        self._call, self.count, self._first = self._running(), 0, 0
        self._ahead.clear()
        self._ahead_bytes = 0

    def add(self, value: bytes) -> None:
        """One more item; waits where the agent is too far behind."""
        with self._lock:
            self._values.append(value)
            gathered = len(self._values)
        self.count = (self.count or 0) + 1
        self._ahead.append(len(value))
        self._ahead_bytes += len(value)
        if gathered >= _BUNCH or len(value) >= FLUSH_BYTES or time.monotonic() - self._sent >= FLUSH_SECONDS:
            self.flush()
        elif gathered == 1:
            self._ring()
        while len(self._ahead) >= WINDOW_ITEMS or self._ahead_bytes >= WINDOW_BYTES:
            self.flush()
            self._hear()

    def taken(self, token: int, index: int, count: int) -> None:
        """The agent has taken so many items of that call."""
        if (token, index) == self._call:
            for _ in range(len(self._ahead) - ((self.count or 0) - count)):
                self._ahead_bytes -= self._ahead.popleft()

    def finish(self) -> int | None:
        """The call is over, and all that it yielded is sent: how many items, None for a task that is no generator."""
        if self.count is None:
            return None
        self.flush()
        count, self.count, self._call = self.count, None, (-1, -1)
        return count

    def flush(self) -> None:
        """Send what waits."""
        with self._lock:
            if self._values:
                values, self._values = tuple(self._values), []
                self._sent = time.monotonic()
                self._send(Yielded(*self._call, self._first, values))
                self._first += len(values)

    def _ring(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="pyfi-yielding", daemon=True)
            self._thread.start()
        self._bell.set()

    def _run(self) -> None:
        while self._bell.wait():
            self._bell.clear()
            time.sleep(FLUSH_SECONDS)
            self.flush()
