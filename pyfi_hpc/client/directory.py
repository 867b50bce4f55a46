"""Where each socket's calls go, as last read from the database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from pyfi_hpc.client.link import Link
from pyfi_hpc.client.signature import ArgumentCheck
from pyfi_hpc.db import topology
from pyfi_hpc.db.topology import SocketInfo
from pyfi_hpc.errors import BadInput, DatabaseUnavailable
from pyfi_hpc.model import priority as priorities
from pyfi_hpc.model.names import nearest
from pyfi_hpc.model.priority import Priority

#: After this long a socket is looked up again.
FRESH_SECONDS = 30.0


#: Processor, commit, task.
Code: TypeAlias = tuple[str, str, str]


class Way:
    """One socket as this client calls it: where its calls go, what it takes, and how long a call runs."""

    def __init__(self, socket: SocketInfo, paces: dict[Code, float] | None = None) -> None:
        """`paces`: learned seconds of one call, shared by the ways to the same code."""
        self.socket, self.check = socket, ArgumentCheck(socket)
        self._paces = {} if paces is None else paces
        self.priority = Priority.NORMAL
        #: those of other priorities, by which calls were sent already
        self.levels: dict[Priority, Level] = {}

    @property
    def code(self) -> Code:
        """What runs its calls: other sockets of the same task run as long, and so it does not at another commit."""
        return self.socket.processor, self.socket.commit, self.socket.task

    @property
    def pace(self) -> float | None:
        """Learned seconds of one call, None before the first."""
        return self._paces.get(self.code)

    @pace.setter
    def pace(self, seconds: float) -> None:
        self._paces[self.code] = seconds

    def check_timeout(self, seconds: float | None) -> None:
        """Raise E_RANGE where a call may not run for so long: those of a fifo socket hold up all others."""
        most = self.socket.timeout_seconds
        if seconds is not None and most is not None and self.socket.ordered and seconds > most:
            what = f"socket {self.socket.name} is fifo: no call may take longer than its time limit of {most:g} s"
            raise BadInput.of("E_RANGE", "timeout", seconds, what)

    def renewed(self, socket: SocketInfo) -> None:
        """It was read again."""
        if socket != self.socket:
            self.socket, self.check = socket, ArgumentCheck(socket)
            for level in self.levels.values():
                level.follow()


class Level(Way):
    """The same socket for calls of another priority: they go to a queue of their own."""

    def __init__(self, usual: Way, priority: Priority) -> None:
        self._usual = usual
        super().__init__(_at(usual.socket, priority), usual._paces)
        self.priority = priority

    def follow(self) -> None:
        """The socket was read again."""
        self.renewed(_at(self._usual.socket, self.priority))


def _at(socket: SocketInfo, priority: Priority) -> SocketInfo:
    return replace(socket, key=priorities.level_key(socket.key, priority))


class Directory:
    """The sockets of one network, by name."""

    def __init__(self, link: Link, network: str, declare: Callable[[str, Priority], None]) -> None:
        """`declare` makes the queue of the socket so called, for calls of that priority."""
        self._link, self._network, self._declare = link, network, declare
        self._lock = threading.Lock()
        #: those read so far
        self.ways: dict[str, Way] = {}
        self._paces: dict[Code, float] = {}
        self._read: dict[str, float] = {}

    def way(self, name: str) -> Way:
        """The socket called `name`, or of the task that `PROCESSOR.TASK` means, its queue declared.

        Raises:
            BadInput: E_NOT_FOUND, with the nearest name. DatabaseUnavailable: and it was never read before.
        """
        way = self.ways.get(name)
        if way is not None and self.fresh(name):
            return way
        with self._lock:
            try:
                return self._look(name, None if way is None else 0.0)
            except DatabaseUnavailable:
                if way is None:
                    raise
                self._read[name] = time.monotonic()
                return way

    def fresh(self, name: str) -> bool:
        """Whether `way` answers at once."""
        return name in self.ways and time.monotonic() - self._read[name] < FRESH_SECONDS

    def level(self, way: Way, priority: str) -> Way:
        """The way for calls of that priority; the first to go it has its queue declared.

        Raises:
            BadInput: E_CHOICE. DatabaseUnavailable, BrokerUnavailable: it was never gone before.
        """
        wanted = priorities.checked(priority, way.socket.priorities, way.socket.name)
        if wanted is Priority.NORMAL:
            return way
        with self._lock:
            if wanted not in way.levels:
                level = Level(way, wanted)
                if not self._is_declared(level.socket):
                    self._declare(level.socket.name, wanted)
                way.levels[wanted] = level
            return way.levels[wanted]

    def _is_declared(self, socket: SocketInfo) -> bool:
        return self._link.run(lambda cursor: topology.declared(cursor, socket.id, socket.key))

    def mend(self, way: Way) -> None:
        """The broker knows no queue for that way: read where it is now, and have it declared again."""
        with self._lock:
            self._declare(way.socket.name, way.priority)
            self._look(way.socket.name, None)

    def _look(self, name: str, patience: float | None) -> Way:
        socket = self._find(name, patience)
        if not socket.declared:
            self._declare(socket.name, Priority.NORMAL)
            socket = self._find(name, patience)
        way = self.ways.get(socket.name) or Way(socket, self._paces)
        way.renewed(socket)
        for called in {name, socket.name}:
            self.ways[called], self._read[called] = way, time.monotonic()
        return way

    def _find(self, name: str, patience: float | None) -> SocketInfo:
        found = self._link.run(lambda cursor: topology.socket(cursor, self._network, name), patience=patience)
        if found is None:
            raise self._unknown(name)
        return found

    def _unknown(self, name: str) -> BadInput:
        known = [each.name for each in self._link.run(lambda cursor: topology.sockets(cursor, self._network))]
        near = nearest(name, known)
        cure = f"did you mean {near!r}?  pyfi ls sockets" if near else "pyfi ls sockets"
        return BadInput.of("E_NOT_FOUND", "socket", name, f"no socket {name!r}", cure=cure)
