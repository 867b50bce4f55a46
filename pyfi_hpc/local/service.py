"""The background process `pyfi local`: Postgres, schema, the agent and its parent; ends when nobody needs it."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time

import msgspec
import psycopg2

import pyfi_hpc
from pyfi_hpc.agent import kernel
from pyfi_hpc.agent.cores import cores_for
from pyfi_hpc.agent.logs import log_to_stderr
from pyfi_hpc.config import Settings
from pyfi_hpc.config.surroundings import environment
from pyfi_hpc.db import schema
from pyfi_hpc.db.embedded import ADMIN, ROLE, EmbeddedPostgres
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.local.idle import Watch
from pyfi_hpc.local.record import NotStarted, Records, Running
from pyfi_hpc.logs import logger
from pyfi_hpc.processes import start_ticks

#: The agent's own drain takes 30 s at most, and its last commits ten.
AGENT_SECONDS = 45.0
_LOOK_SECONDS = 0.5
_LONGEST_LOOK_SECONDS = 20.0

log = logger("pyfi.local")


class LocalService:
    """One life of the service; the main thread's alone, because the kernel ends the agent with its starter."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._records = Records(settings.state_dir)
        self._over = threading.Event()
        self._agent: subprocess.Popen[bytes] | None = None

    def run(self, ready_fd: int) -> None:
        """Serve until told to stop or idle. `ready_fd` is closed when all is ready, or has been told why it is not."""
        signal.signal(signal.SIGTERM, lambda *_: self._over.set())
        signal.signal(signal.SIGINT, lambda *_: self._over.set())
        with self._records.lock("local"):
            try:
                try:
                    self._start()
                except PyfiError as error:
                    os.write(ready_fd, msgspec.json.encode(NotStarted.of(error)))
                    raise
                finally:
                    os.close(ready_fd)
                self._serve()
            finally:
                self._stop()

    def _start(self) -> None:
        cores = len(cores_for(self._settings.agent.cores))
        postgres = EmbeddedPostgres.start(self._settings.state_dir)
        schema.init(postgres.uri(ADMIN), grant_to=ROLE)
        self._start_agent()
        pid = os.getpid()
        idle = self._settings.agent.idle_minutes
        self._records.write(Running(pid, start_ticks(pid), time.time(), cores, idle, pyfi_hpc.__version__))
        log.info("local service ready", pid=pid, state=str(self._settings.state_dir))

    def _start_agent(self) -> None:
        command = [sys.executable, "-P", "-m", "pyfi_hpc.agent.main", "--respawn", "--parent", str(os.getpid())]
        self._agent = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=dict(environment(self._settings)))

    def _serve(self) -> None:
        limit = 60.0 * self._settings.agent.idle_minutes
        watch = Watch(EmbeddedPostgres(self._settings.state_dir).uri())
        used = looked = time.monotonic()
        while not self._over.wait(_LOOK_SECONDS):
            self._keep_up()
            now = time.monotonic()
            if now - looked >= min(_LONGEST_LOOK_SECONDS, limit / 4):
                looked = now
                used = now if _busy(watch) else max(used, now - self._records.touched_seconds_ago())
            if now - used >= limit:
                log.info("nobody has needed the service: ending", idle_minutes=self._settings.agent.idle_minutes)
                return

    def _keep_up(self) -> None:
        """What died by itself is started again."""
        if not EmbeddedPostgres(self._settings.state_dir).running():
            log.warning("the database is gone; starting it again")
            EmbeddedPostgres.start(self._settings.state_dir)
        if self._agent is not None and self._agent.poll() is not None:
            log.warning("the agent's parent is gone; starting it again", status=self._agent.returncode)
            self._start_agent()

    def _stop(self) -> None:
        """In order: nobody finds us, the agent drains, the database ends."""
        self._records.remove()
        if self._agent is not None and self._agent.poll() is None:
            self._agent.terminate()
            try:
                self._agent.wait(AGENT_SECONDS)
            except subprocess.TimeoutExpired:
                self._agent.kill()
                self._agent.wait()
        EmbeddedPostgres(self._settings.state_dir).stop()
        log.info("local service ended")


def _busy(watch: Watch) -> bool:
    try:
        return watch.busy()
    except psycopg2.Error as error:
        # on its way back, or out of connections: neither is idleness
        log.warning("cannot ask whether anybody is here", reason=str(error).strip())
        return True


def main() -> int:
    """Go to the background, then serve; errors go to the log."""
    parser = argparse.ArgumentParser(prog="pyfi_hpc.local.service")
    parser.add_argument("--ready-fd", type=int, required=True, help="told why when it cannot start; closed when ready")
    options = parser.parse_args()
    if os.fork():
        os._exit(0)
    kernel.keep_private()
    log_to_stderr()
    try:
        LocalService(Settings.load()).run(options.ready_fd)
    except PyfiError as error:
        log.error(error.what, code=error.code, at=error.at)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
