"""A Postgres server in a folder of ours: made by `initdb`, run without `pg_ctl` and its shell."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pyfi_hpc.db.account import Account
from pyfi_hpc.errors import DatabaseUnavailable
from pyfi_hpc.processes import alive, arguments, children, dying, end, until, zombie

#: How a server is stopped. Source: "Shutting Down the Server" in PostgreSQL's documentation.
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT, "kill": signal.SIGKILL}

#: For a laptop that does other things as well; nothing here gives up a committed row.
MODEST = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "wal_compression": "on",
    "max_wal_size": "512MB",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

#: What Postgres says while backends of a killed postmaster are still on their way out.
ORPHANS = "pre-existing shared memory block"


@dataclass
class PostgresServer:
    """One data folder and the server on it, whoever started it.

    `bin` has initdb and postgres, `log` takes what the server says; both processes run as `account`.
    """

    bin: Path
    data: Path
    log: Path
    account: Account
    _child: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    def initdb(self, superuser: str, arguments: Sequence[str] = ()) -> None:
        """Make the data folder unless it is there; a cut-off attempt before does not count."""
        if self.data.exists():
            return
        fresh = self.data.with_name(self.data.name + ".new")
        self._run("rm", "-rf", str(fresh))
        locale = ("--encoding=UTF8", "--locale=C", "--no-instructions")
        self._run(str(self.bin / "initdb"), "-D", str(fresh), "-U", superuser, *locale, *arguments)
        fresh.rename(self.data)

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, **self.account.spawn_options()
        )
        if done.returncode:
            self._refuse(f"{Path(command[0]).name} failed", done.stderr or done.stdout)

    def start(self, options: Mapping[str, str], timeout: float = 30.0) -> None:
        """Start the server unless it runs, and wait until it takes connections.

        Raises:
            DatabaseUnavailable: it ended, or was not ready in time; with the end of its log.
        """
        if not until(lambda: self._attempt(options), timeout, interval=0.05):
            self._refuse("Postgres does not start", self._log_tail())

    def _attempt(self, options: Mapping[str, str]) -> bool:
        """Whether it is ready; starts it where it does not run."""
        if not self.running():
            self._bury()
            self._spawn(options)
        until(lambda: self._ready() or self._ended(), 2.0)
        if self._ended() and ORPHANS not in self._log_tail():
            self._refuse("Postgres does not start", self._log_tail())
        return self._ready()

    def _bury(self) -> None:
        """A killed server that its parent has not reaped looks alive to Postgres; its lock files go.

        Source: `src/include/utils/pidfile.h`; line 4 is the port, line 5 the folder of the socket.
        """
        lines = self._pid_file()
        # a process that is ending has lost its command line some time before it is a zombie
        if len(lines) >= 5 and until(lambda: not dying(int(lines[0])), 5.0) and zombie(int(lines[0])):
            (Path(lines[4]) / f".s.PGSQL.{lines[3]}.lock").unlink(missing_ok=True)
            (self.data / "postmaster.pid").unlink()

    def _spawn(self, options: Mapping[str, str]) -> None:
        command = [str(self.bin / "postgres"), "-D", str(self.data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self.account.spawn_options(),
            )

    def _ended(self) -> bool:
        return self._child is not None and self._child.poll() is not None

    def _pid_file(self) -> list[str]:
        """The lines of postmaster.pid. Source: `src/include/utils/pidfile.h`; line 1 is the pid, line 8 the status."""
        with suppress(FileNotFoundError):
            return (self.data / "postmaster.pid").read_text().splitlines()
        return []

    def _ready(self) -> bool:
        lines = self._pid_file()
        return len(lines) >= 8 and lines[7].strip() == "ready" and self.running()

    @property
    def pid(self) -> int | None:
        """The server's process; None when there is none on this machine."""
        lines = self._pid_file()
        pid = int(lines[0]) if lines and lines[0].isdigit() else self._child.pid if self._child else 0
        # after a restart of the machine the number may be somebody else's
        return pid if pid and alive(pid) and str(self.data) in arguments(pid) else None

    def running(self) -> bool:
        """Whether the server's process is there."""
        if self._child is not None:
            self._child.poll()
        return self.pid is not None

    def stop(self, mode: str = "fast") -> None:
        """Afterwards no server runs on the folder: `smart`, `fast`, `immediate` or `kill`."""
        if (pid := self.pid) is not None:
            backends = children(pid)
            end(pid, STOP_SIGNALS[mode])
            # a backend that outlives a killed postmaster would keep the next one from starting
            until(lambda: not any(map(alive, backends)), timeout=10)
        if self._child is not None:
            self._child.wait()
            self._child = None

    def _log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])

    def _refuse(self, what: str, said: str) -> None:
        last = said.strip().splitlines()[-3:]
        raise DatabaseUnavailable("E_DB_UNAVAILABLE", f"{what}: {' / '.join(last)}", at=str(self.log))
