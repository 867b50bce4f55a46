"""A thread with a database session of its own, opened again whenever it is lost."""

from __future__ import annotations

import os
import random
import select
import socket
import threading
from contextlib import suppress
from typing import Any, Protocol

import psycopg2

from pyfi_hpc import postgres
from pyfi_hpc.logs import logger

_FIRST_DELAY, _LONGEST_DELAY = 0.05, 1.0

log = logger()


class SessionLost(Exception):
    """The session is there, but what it stands for is not."""


def opened(uri: str, name: str) -> Any:
    """A new autocommit connection that the server lists as `pyfi broker NAME`."""
    connection = postgres.opened(uri, f"pyfi broker {name}")
    connection.autocommit = True
    return connection


class Work(Protocol):
    """What a session is for. Everything here is called on the session's thread."""

    #: Seconds after which `turn` comes even if nobody asked; None for never.
    pause: float | None

    def opened(self, cursor: Any) -> None:
        """There is a new session; `cursor` is good until `lost`."""

    def turn(self) -> bool:
        """Do what is to be done; True when there may be more at once."""

    def heard(self, channel: str, payload: str) -> None:
        """A notification came."""

    def lost(self) -> None:
        """The session is gone."""

    def ending(self) -> None:
        """Last words on a session that works, before it is closed."""


class Session:
    """Runs some work on a session; `ring` asks for a turn."""

    def __init__(self, uri: str, name: str, work: Work) -> None:
        self._uri, self._name, self._work = uri, name, work
        self._bell: int | None = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._rung = False
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._connection: Any = None
        self.up = False
        self._thread = threading.Thread(target=self._run, name=f"pyfi-broker-{name}", daemon=True)
        self._thread.start()

    def ring(self) -> None:
        """Have `turn` called soon; many rings before it are one."""
        # whoever rings has appended first, and the thread clears the flag before it looks
        if not self._rung:
            self._rung = True
            with self._lock:
                if self._bell is not None:
                    os.eventfd_write(self._bell, 1)

    def close(self, patience: float = 2.0) -> None:
        """End the thread and the session; one that hangs in the server is cut off after `patience` seconds."""
        self._over.set()
        self._rung = False
        self.ring()
        if threading.current_thread() is self._thread:
            return
        self._thread.join(patience)
        if self._thread.is_alive():
            self._cut()
            self._thread.join()

    def _cut(self) -> None:
        with self._lock, suppress(OSError, psycopg2.Error):
            if self._connection is not None:
                with socket.socket(fileno=os.dup(self._connection.fileno())) as link:
                    link.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        delay = _FIRST_DELAY
        while not self._over.is_set():
            try:
                self._open()
                delay = _FIRST_DELAY
                self._serve()
            except Exception as error:
                self._lose(error)
                self._over.wait(delay * random.uniform(0.5, 1.0))
                delay = min(2 * delay, _LONGEST_DELAY)
        self._finish()

    def _open(self) -> None:
        connection = opened(self._uri, self._name)
        with self._lock:
            self._connection = connection
        self._work.opened(connection.cursor())
        self.up = True

    def _serve(self) -> None:
        while not self._over.is_set():
            more = self._work.turn()
            if not self._hear() and not more:
                self._wait()

    def _hear(self) -> bool:
        news, self._connection.notifies = list(self._connection.notifies), []
        for notification in news:
            self._work.heard(notification.channel, notification.payload)
        return bool(news)

    def _wait(self) -> None:
        assert self._bell is not None
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        poll.register(self._connection.fileno(), select.POLLIN)
        pause = self._work.pause
        ready = {descriptor for descriptor, _ in poll.poll(None if pause is None else pause * 1000)}
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        self._rung = False
        if self._connection.fileno() in ready:
            self._connection.poll()
            self._hear()

    def _lose(self, error: Exception) -> None:
        if not self._over.is_set():
            # anything but the database's own words is a fault of ours: the trace helps
            trace = not isinstance(error, psycopg2.Error | SessionLost)
            log.warning("broker session lost", session=self._name, reason=str(error).strip(), exc_info=trace)
        self._discard()
        self._work.lost()

    def _discard(self) -> None:
        self.up = False
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg2.Error):
                connection.close()

    def _finish(self) -> None:
        with suppress(psycopg2.Error, SessionLost):
            if self.up:
                self._work.ending()
        self._discard()
        self._work.lost()
        with self._lock:
            bell, self._bell = self._bell, None
        if bell is not None:
            os.close(bell)
