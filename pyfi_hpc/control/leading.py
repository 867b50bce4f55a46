"""Who leads a scheduler: one process at a time, by a lease that every write of it names."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

from pyfi_hpc.db import jobs as rows
from pyfi_hpc.db.jobs import Lease
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.logs import logger

T = TypeVar("T")
log = logger("pyfi.scheduler")


class Database(Protocol):
    """Runs work in one transaction."""

    def run(self, work: Callable[[Cursor], T], /) -> T:
        """What `work` returns; done again where the connection was lost meanwhile."""


class Leader:
    """One process's part in leading a scheduler. Where it was fenced off, it leads no more."""

    def __init__(self, database: Database, network: str, name: str) -> None:
        """Raises BadInput E_NOT_FOUND, no such scheduler."""
        self.database, self.name = database, name
        self.scheduler = database.run(lambda cursor: rows.scheduler_id(cursor, network, name))
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._lease: Lease | None = None

    @property
    def leads(self) -> bool:
        """As far as this process knows."""
        return self._lease is not None

    def lead(self) -> bool:
        """Lead if nobody else does; whether we do now."""
        if self._lease is None:
            self._lease = self.database.run(lambda cursor: rows.take_lease(cursor, self.scheduler, self.holder))
            if self._lease is not None:
                log.info("leading", scheduler=self.name, epoch=self._lease.epoch)
        return self._lease is not None

    def write(self, work: Callable[[Cursor], T]) -> T:
        """Do it in one transaction, and renew the lease with it.

        Raises:
            Fault: E_FENCED, another process leads; nothing was written.
        """
        lease = self._lease
        assert lease is not None, "only a leader writes"

        def fenced(cursor: Cursor) -> T:
            rows.hold_lease(cursor, lease)
            return work(cursor)

        try:
            return self.database.run(fenced)
        except PyfiError as error:
            if error.code == "E_FENCED":
                self._lease = None
            raise

    def step_down(self) -> None:
        """Let another process lead at once."""
        lease, self._lease = self._lease, None
        if lease is not None:
            with suppress(PyfiError):
                self.database.run(lambda cursor: rows.release_lease(cursor, lease))
