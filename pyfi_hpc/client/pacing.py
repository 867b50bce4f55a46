"""How long a call of each task runs, learned from the record now and then: it decides how many share a message."""

from __future__ import annotations

import queue
import threading
import time

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

log = logger()


class Pacer:
    """Learns on a thread of its own; `settled` costs next to nothing."""

    def __init__(self, link: Link, owner: str, ways: dict[str, Way]) -> None:
        self._link, self._owner, self._ways = link, owner, ways
        self._next: dict[Code, float] = {}
        self._samples: queue.SimpleQueue[tuple[Way, list[bytes]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def settled(self, futures: list[Future]) -> None:
        """These have their outcomes: a sample of them may be looked at."""
        socket = futures[-1].socket
        now = time.monotonic()
        if (way := self._ways.get(socket)) is None or self._next.get(code := way.code, 0.0) > now:
            return
        self._next[code] = now + _AGAIN_SECONDS
        self._samples.put((way, [each.identity for each in futures[-_SAMPLE:] if each.socket == socket]))
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
                weight = 1.0 if way.pace is None else _WEIGHT * min(1.0, len(ids) / _FEW)
                way.pace = weight * seconds + (1.0 - weight) * (way.pace or 0.0)

    def close(self) -> None:
        """End the thread and its session."""
        self._samples.put(None)
        if self._thread is not None:
            self._thread.join(timeout=6.0)
        if self._thread is None or not self._thread.is_alive():
            self._link.close()
