"""How long a call of each task runs, learned from the record now and then: it decides how many share a message."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque

from pyfi_hpc.client import rows
from pyfi_hpc.client.directory import Code, Way
from pyfi_hpc.client.futures import Future
from pyfi_hpc.client.link import Link
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.logs import logger

#: A task's pace is looked up again after this long.
_AGAIN_SECONDS = 0.25
_SAMPLE = 64
#: The newest sample counts this much, once there is an older figure; one of fewer calls than `_FEW` for less.
_WEIGHT, _FEW = 0.5, 8
#: So many that took less than is known are believed at once: a first call that loads modules, or a moment in which
#: workers had no cores, would else have calls travel singly for seconds.
_ENOUGH = 16

log = logger()


class Pacer:
    """Learns on a thread of its own; `settled` costs next to nothing."""

    def __init__(self, link: Link, owner: str, ways: dict[str, Way]) -> None:
        self._link, self._owner, self._ways = link, owner, ways
        self._next: dict[Code, float] = {}
        #: the newest that were settled since the last look
        self._recent: dict[Code, deque[bytes]] = {}
        self._samples: queue.SimpleQueue[tuple[Way, list[bytes]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def settled(self, futures: list[Future]) -> None:
        """These have their outcomes: a sample of them may be looked at."""
        socket = futures[-1].socket
        if (way := self._ways.get(socket)) is None:
            return
        recent = self._recent.setdefault(way.code, deque(maxlen=_SAMPLE))
        recent.extend([each.identity for each in futures[-_SAMPLE:] if each.socket == socket])
        now = time.monotonic()
        if self._next.get(way.code, 0.0) > now:
            return
        self._next[way.code] = now + _AGAIN_SECONDS
        self._samples.put((way, list(recent)))
        recent.clear()
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="pyfi-pacer", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while (sample := self._samples.get()) is not None:
            way, ids = sample
            try:
                seconds = self._link.run(lambda cursor: rows.seconds_per_call(cursor, self._owner, ids), patience=0.0)  # noqa: B023
            except PyfiError as error:
                log.debug("no pace learned", reason=str(error))
                continue
            if seconds is not None:
                way.pace = learned(way.pace, seconds, len(ids))

    def close(self) -> None:
        """End the thread and its session."""
        self._samples.put(None)
        if self._thread is not None:
            self._thread.join(timeout=6.0)
        if self._thread is None or not self._thread.is_alive():
            self._link.close()


def learned(before: float | None, seconds: float, calls: int) -> float:
    """How long a call takes, after a sample of so many took `seconds` each."""
    if before is None:
        return seconds
    weight = _WEIGHT * min(1.0, calls / _FEW)
    if seconds < before:
        weight = max(weight, min(1.0, calls / _ENOUGH))
    return before + weight * (seconds - before)
