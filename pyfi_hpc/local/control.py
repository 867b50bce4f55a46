"""Start, find and stop the background service from any other process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyfi_hpc.config import Settings
from pyfi_hpc.config.surroundings import environment
from pyfi_hpc.db.embedded import EmbeddedPostgres
from pyfi_hpc.errors import Unavailable
from pyfi_hpc.local.record import Records, Running
from pyfi_hpc.processes import end

#: A drain of the agent, and Postgres's own end, at most.
STOP_SECONDS = 60.0


def ensure(settings: Settings, *, tell: bool = True) -> str:
    """The address of the embedded database; the service runs afterwards. A start is told on stderr.

    Raises:
        Unavailable: it does not start, with the end of its log.
    """
    records = Records(settings.state_dir)
    while True:
        running = records.running()
        if running is None:
            running, made = _start(settings, records, tell)
            if made and tell:
                print(_told(running), file=sys.stderr)
        with suppress(FileNotFoundError):  # it has just decided to end
            records.touch()
            return EmbeddedPostgres(settings.state_dir).uri()


def start(settings: Settings) -> bool:
    """The service runs afterwards; False when it did before. A start is told on stderr."""
    ran = Records(settings.state_dir).running() is not None
    ensure(settings)
    return not ran


def _told(running: Running) -> str:
    cores = "1 core" if running.cores == 1 else f"{running.cores} cores"
    return (
        f"pyfi: started (Postgres, agent on {cores});"
        f" it ends after {running.idle_minutes:g} idle minutes · pyfi local stop"
    )


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
            raise Unavailable(
                "E_DB_UNAVAILABLE",
                f"the local service does not start: {said or _last_line(records.log)}",
                at=str(records.log),
                cure="read the log",
            )
        return running, True


def _spawn(settings: Settings, records: Records) -> str:
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
        return answer.read().decode(errors="replace").strip()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"
