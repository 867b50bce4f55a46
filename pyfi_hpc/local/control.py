"""Start, find and stop the background service from any other process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import psycopg2

from pyfi_hpc.config import Settings
from pyfi_hpc.config.surroundings import environment
from pyfi_hpc.db.embedded import EmbeddedPostgres
from pyfi_hpc.errors import BadInput, PyfiError, Unavailable
from pyfi_hpc.local.record import NotStarted, Records, Running
from pyfi_hpc.processes import alive, end, until

#: A drain of the agent, and Postgres's own end, at most.
STOP_SECONDS = 60.0
#: An agent registers about a second after the service is there.
AGENT_SECONDS = 20.0


def ensure(settings: Settings, *, tell: bool = True) -> str:
    """The address of the embedded database; the service runs afterwards. A start is told on stderr, with its agent.

    Raises:
        Unavailable: it does not start, with the end of its log.
    """
    records = Records(settings.state_dir)
    while True:
        running = records.running()
        if running is None:
            running, made = _start(settings, records, tell)
            if made and tell:
                serves = until(partial(_agent_serves, settings), AGENT_SECONDS, interval=0.1)
                print(_told(running, serves, records.log), file=sys.stderr)
        with suppress(FileNotFoundError):  # it has just decided to end
            records.touch()
            return EmbeddedPostgres(settings.state_dir).uri()


def start(settings: Settings) -> bool:
    """The service runs afterwards; False when it did before. A start is told on stderr."""
    ran = Records(settings.state_dir).running() is not None
    ensure(settings)
    return not ran


def _agent_serves(settings: Settings) -> bool:
    """Whether an agent of the network has registered that is a living process; what was killed has its lease still."""
    asked = """SELECT a.pid FROM pyfi.agent a JOIN pyfi.node n ON n.id = a.node_id
        JOIN pyfi.network w ON w.id = n.network_id
        WHERE w.name = %s AND a.ended IS NULL AND a.lease_until > now()"""
    with suppress(psycopg2.Error, FileNotFoundError):  # it has just decided to end
        uri = EmbeddedPostgres(settings.state_dir).uri()
        with closing(psycopg2.connect(uri, application_name="pyfi-local")) as connection, connection.cursor() as cursor:
            cursor.execute(asked, (settings.agent.network,))
            return any(alive(pid) for (pid,) in cursor.fetchall())
    return False


def _told(running: Running, serves: bool, log: Path) -> str:
    cores = "1 core" if running.cores == 1 else f"{running.cores} cores"
    what = f"Postgres, agent on {cores}" if serves else "Postgres"
    line = f"pyfi: started ({what}); it ends after {running.idle_minutes:g} idle minutes · pyfi local stop"
    missing = f"pyfi: no agent has come up in {AGENT_SECONDS:g} s: calls wait until one does · tail {log}"
    return line if serves else f"{line}\n{missing}"


def status(settings: Settings) -> dict[str, Any]:
    """What there is to know about the service; `running` tells whether it is there."""
    records = Records(settings.state_dir)
    running = records.running()
    found: dict[str, Any] = {"running": running is not None, "state_dir": str(settings.state_dir)}
    if running is not None:
        found |= {
            "pid": running.pid,
            "started": datetime.fromtimestamp(running.started, UTC),
            "cores": running.cores,
            "idle_minutes": running.idle_minutes,
            "version": running.version,
            "database": EmbeddedPostgres(settings.state_dir).uri(),
            "log": str(records.log),
        }
    return found


def stop(settings: Settings) -> bool:
    """Nothing of the service runs afterwards; False when nothing did. Running calls are given back or finished."""
    records = Records(settings.state_dir)
    postgres = EmbeddedPostgres(settings.state_dir)
    if not settings.state_dir.is_dir():
        return False
    with records.lock("local-start"):
        running = records.running()
        if running is not None:
            end(running.pid, signal.SIGTERM, patience=STOP_SECONDS)
        # a service that was killed leaves its database behind
        left = postgres.running()
        if left:
            postgres.stop()
        records.remove()
    return running is not None or left


def _start(settings: Settings, records: Records, tell: bool) -> tuple[Running, bool]:
    """The running service, and whether it was started here; of many who ask at once one starts it, and says so."""
    records.make()
    with records.lock("local-start"):
        if running := records.running():
            return running, False
        if tell:
            print(f"pyfi: starting the local service in {settings.state_dir} …", file=sys.stderr)
        said = _spawn(settings, records)
        running = records.running()
        if running is None:
            raise _not_started(said, records.log)
        return running, True


def _not_started(said: NotStarted | None, log: Path) -> PyfiError:
    """What is raised: where the service refuses what it was told, that; else its database is not there."""
    what = f"the local service does not start: {said.what if said else _last_line(log)}"
    if said is not None and said.refused:
        return BadInput(said.code, what, at=said.at, cure=said.cure or f"pyfi doctor, or read {log}")
    return Unavailable("E_DB_UNAVAILABLE", what, at=str(log), cure="read the log")


def _spawn(settings: Settings, records: Records) -> NotStarted | None:
    """Start the background process and wait until it is ready; what it says instead when it cannot start."""
    ours, theirs = os.pipe()
    with open(ours, "rb") as answer, records.log.open("ab") as log:
        try:
            command = [sys.executable, "-P", "-m", "pyfi_hpc.local.service", "--ready-fd", str(theirs)]
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=settings.state_dir,
                env=dict(environment(settings)),
                pass_fds=[theirs],
                start_new_session=True,
                check=False,
            )
        finally:
            os.close(theirs)
        said = answer.read()
    return msgspec.json.decode(said, type=NotStarted) if said else None


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"
