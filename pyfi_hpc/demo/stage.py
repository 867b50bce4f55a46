"""Where the demo on a laptop plays: a service of its own, a repository, a network. All of it is gone afterwards."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from pyfi_hpc import local
from pyfi_hpc.agent.service import host_name
from pyfi_hpc.client.client import Client
from pyfi_hpc.client.session import ACCEPTED_LOG
from pyfi_hpc.config import Broker, Database, Git, Settings
from pyfi_hpc.db.embedded import EmbeddedPostgres
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.demo.code import add_processor, variable
from pyfi_hpc.demo.findings import calls_by_core
from pyfi_hpc.errors import BadInput


class LocalStage:
    """This machine alone: the demo's own folders, embedded Postgres and an agent."""

    opening = "Starting a service of the demo's own: Postgres, an agent; no server is needed, no port is opened …"

    def __init__(self, settings: Settings) -> None:
        self._lock = settings.state_dir / "demo.lock"
        self.home = settings.state_dir / "demo"
        self.accepted = self.home / "accepted"
        self.host: str | None = host_name()
        self.settings = replace(
            settings,
            database=Database(),
            broker=Broker(),
            git=Git(),
            paths=replace(settings.paths, state=self.home, cache=self.home / "cache", blobs=None),
            agent=replace(settings.agent, network="default", idle_minutes=5.0),
        )

    @contextmanager
    def open(self) -> Iterator[Client]:
        """A client of the running stage.

        Raises:
            BadInput: E_IN_USE, another demo plays there.
        """
        with self._alone(), variable(ACCEPTED_LOG, str(self.accepted)):
            self.close()  # what a demo that was killed has left
            self.home.mkdir(mode=0o700)
            try:
                local.ensure(self.settings, tell=False)
                with Client(self.settings) as client:
                    yield client
            finally:
                self.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput("E_IN_USE", "a demo runs already", at=str(self.home), cure="wait for its end") from None
            yield

    def close(self) -> None:
        """Nothing of the stage is left, running or stored."""
        local.stop(self.settings)
        EmbeddedPostgres(self.home).remove()
        shutil.rmtree(self.home, ignore_errors=True)

    def build(self, client: Client) -> list[str]:
        """The processor runs as soon as it is added: the agent is there."""
        return [add_processor(client, self.home / "analysis")]

    def harm(self, cursor: Cursor) -> str:
        """Kill a worker with SIGKILL."""
        cursor.execute("SELECT pid, cores FROM pyfi.worker WHERE status = 'READY' AND pid IS NOT NULL ORDER BY id")
        for pid, cores in cursor.fetchall():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return f"killed worker {pid} on core {', '.join(map(str, cores))} with SIGKILL"
        raise RuntimeError("there is no worker to kill")

    def shares(self, cursor: Cursor) -> str:
        """By core."""
        return calls_by_core(cursor)
