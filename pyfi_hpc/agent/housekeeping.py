"""Retention as an agent does it: a pass at its start and every hour, off the way of calls.

Rows go in small batches on the committer's connection, one a tick at most, so that commits wait for one batch only;
blobs are walked on a thread of the builder's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2

from pyfi_hpc.agent.commit.jobs import Within
from pyfi_hpc.blobs.collection import Collected
from pyfi_hpc.control import retention
from pyfi_hpc.control.retention import Keep, Step
from pyfi_hpc.db import sessions
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.logs import logger

log = logger("pyfi.agent")

#: Somebody who has just started an agent waits for its first calls.
_FIRST_SECONDS = 1.0


class Housekeeping:
    """Belongs to the service's thread. `put` gives the committer a job, `spare` runs something on another thread."""

    def __init__(
        self,
        keep: Keep,
        blobs: Path,
        connect: Callable[[], Any],
        put: Callable[[Within], None],
        post: Callable[[Callable[[], None]], None],
        spare: Callable[[Callable[[], Collected | None]], Future[Collected | None]],
    ) -> None:
        self._keep, self._blobs, self._connect = keep, blobs, connect
        self._put, self._post, self._spare = put, post, spare
        self._next = time.monotonic() + _FIRST_SECONDS
        self._at: Step | None = None
        self._waiting = False
        self._ended = threading.Event()

    def close(self) -> None:
        """Begin nothing more, and let a walk end early."""
        self._ended.set()

    def turn(self, now: float) -> None:
        """One batch, where one is due and none is under way."""
        if self._waiting or self._ended.is_set() or (self._at is None and now < self._next):
            return
        if self._at is None:
            self._next = now + retention.PASS_SECONDS
            self._at = Step()
        self._waiting = True
        work = partial(_batch, keep=self._keep, at=self._at)
        self._put(Within(work, lambda step: self._post(partial(self._done, step))))

    def _done(self, step: Step | None) -> None:
        self._waiting, self._at = False, step
        if step is None and not self._ended.is_set():
            walk = partial(retention.collect_blobs, self._blobs, self._connect, self._keep, self._ended.is_set)
            self._spare(walk).add_done_callback(_collected)


def _batch(cursor: Cursor, keep: Keep, at: Step) -> Step | None:
    """One step; what the database refuses ends the pass, and not the commits that share its transaction."""
    cursor.execute("SAVEPOINT retention")
    try:
        return retention.step(cursor, keep, at)
    except sessions.LOST:
        raise
    except psycopg2.Error as error:
        cursor.execute("ROLLBACK TO SAVEPOINT retention")
        log.error("retention cannot go on", error=str(error).strip())
        return None


def _collected(done: Future[Collected | None]) -> None:
    if done.cancelled():
        return
    if error := done.exception():
        log.warning("blobs could not be collected; tried again in an hour", error=str(error).strip())
    elif (freed := done.result()) is not None and freed.blobs:
        log.info("blobs that nothing refers to are gone", blobs=freed.blobs, bytes=freed.bytes)
