"""Listening for replies and hints on one session."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from psycopg2 import sql as identifiers

from pyfi_hpc.brokers.postgres.session import Session
from pyfi_hpc.logs import logger

#: How long `listen` waits until it is heard; what comes before that is lost, as hints may be.
PATIENCE = 5.0

log = logger()


class Listener:
    """Calls back with the payloads of channels."""

    pause: float | None = None

    def __init__(self, uri: str) -> None:
        self._lock = threading.Lock()
        self._callbacks: dict[str, list[Callable[[str], None]]] = defaultdict(list)
        self._wanted: list[tuple[str, threading.Event]] = []
        self._cursor: Any = None
        self._session = Session(uri, "listener", self)

    def listen(self, channel: str, hear: Callable[[str], None]) -> None:
        """Call `hear` with every payload from now on."""
        listening = threading.Event()
        with self._lock:
            self._callbacks[channel].append(hear)
            self._wanted.append((channel, listening))
        self._session.ring()
        listening.wait(PATIENCE)

    def close(self) -> None:
        """Hear nothing more."""
        self._session.close()

    def opened(self, cursor: Any) -> None:
        """Listen to all again."""
        self._cursor = cursor
        with self._lock:
            channels = list(self._callbacks)
        for channel in channels:
            self._subscribe(channel)

    def turn(self) -> bool:
        """Listen to what is new."""
        with self._lock:
            wanted, self._wanted = self._wanted, []
        for channel, listening in wanted:
            self._subscribe(channel)
            listening.set()
        return False

    def _subscribe(self, channel: str) -> None:
        self._cursor.execute(identifiers.SQL("LISTEN {}").format(identifiers.Identifier(channel)))

    def heard(self, channel: str, payload: str) -> None:
        """Somebody said something."""
        with self._lock:
            callbacks = list(self._callbacks[channel])
        for hear in callbacks:
            try:
                hear(payload)
            except Exception:
                log.exception("a listener's callback failed", channel=channel)

    def lost(self) -> None:
        """What is said meanwhile is lost."""

    def ending(self) -> None:
        """Nothing to say."""
