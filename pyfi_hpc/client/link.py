"""A session with the database that is opened when first used, and again whenever it is lost."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg2

from pyfi_hpc.db import sessions
from pyfi_hpc.db.plain import place, translated
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.errors import BadInput, DatabaseUnavailable, PyfiError

T = TypeVar("T")

_hurry = threading.local()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What this thread asks of a database here is tried for no longer than so many seconds together."""
    before: float = getattr(_hurry, "until", math.inf)
    _hurry.until = min(before, time.monotonic() + seconds)
    try:
        yield
    finally:
        _hurry.until = before


def _in_time(patience: float) -> float:
    until: float = getattr(_hurry, "until", math.inf)
    return min(patience, max(0.0, until - time.monotonic()))


_FIRST_DELAY, _LONGEST_DELAY = 0.05, 1.0
#: Silence for longer makes people wonder.
QUIET_SECONDS = 1.5


class Link:
    """One session, used by one thread at a time; the others wait.

    `patience` is how many seconds a lost database is tried for.
    """

    def __init__(self, uri: str, name: str, patience: float, tell: Callable[[str], None] | None = None) -> None:
        """`tell` is given a line for people where the database lets them wait."""
        self._dsn = uri.replace("postgresql+psycopg2:", "postgresql:", 1)
        self._name, self._patience, self._tell = name, patience, tell
        # a plain lock would have a caller wait for itself for ever; psycopg2 refuses the second transaction instead
        self._lock = threading.RLock()
        self._connection: Any = None
        self._closed = False

    def run(self, work: Callable[[Cursor], T], *, patience: float | None = None) -> T:
        """What `work` returns, done in one transaction. It is done again where the connection was lost meanwhile, so
        doing it twice must be as good as once. `work` uses this session by its cursor alone.

        Raises:
            DatabaseUnavailable: E_DB_UNAVAILABLE, the database stayed away for `patience` seconds.
            BadInput: E_USAGE it is closed, E_SCHEMA there is no schema of ours, E_DENIED, or what a guard refuses.
        """
        limit = _in_time(self._patience if patience is None else patience)
        notice = self._notice(limit)
        try:
            return self._tried(work, limit)
        finally:
            if notice is not None:
                notice.cancel()

    def _notice(self, limit: float) -> threading.Timer | None:
        """Says after a while what is waited for; nothing where there is a session, or nobody wants to wait."""
        if self._tell is None or self._connection is not None or limit <= QUIET_SECONDS:
            return None
        left = f"given up in {limit - QUIET_SECONDS:.0f} s"
        line = f"waiting for the database at {place(self._dsn)}, which does not answer; next: pyfi doctor; {left}"
        notice = threading.Timer(QUIET_SECONDS, self._tell, [line])
        notice.daemon = True
        notice.start()
        return notice

    def _tried(self, work: Callable[[Cursor], T], limit: float) -> T:
        began, tries, delay = time.monotonic(), 0, _FIRST_DELAY
        while True:
            tries += 1
            try:
                with self._lock:
                    return self._once(work)
            except sessions.LOST as error:
                spent = time.monotonic() - began
                if spent + delay > limit:
                    raise self._away(error, tries, spent) from error
            time.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY)

    def _once(self, work: Callable[[Cursor], T]) -> T:
        if self._closed:
            raise closed()
        if self._connection is None:
            self._connection = sessions.opened(self._dsn, f"pyfi {self._name}")
        try:
            with self._connection, self._connection.cursor() as cursor:
                return work(cursor)
        except sessions.LOST:
            self._discard()
            raise
        except psycopg2.Error as error:
            raise translated(error, place(self._dsn)) from error

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg2.Error):
                connection.close()

    def _away(self, error: Exception, tries: int, seconds: float) -> PyfiError:
        said = str(error).strip().splitlines()
        reason = said[0] if said else type(error).__name__
        at = f"{place(self._dsn)}, {tries} tries in {seconds:.0f} s: {reason}"
        return DatabaseUnavailable("E_DB_UNAVAILABLE", "the database does not answer", at=at, cure="pyfi doctor")

    def close(self) -> None:
        """End the session for good; waits for what is being done."""
        with self._lock:
            self._closed = True
            self._discard()


def closed() -> PyfiError:
    """What is raised once the client is closed."""
    return BadInput("E_USAGE", "this client is closed", cure="Client().future(id) asks again")
