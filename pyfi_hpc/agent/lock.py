"""One agent for each node, and for each job on it: it holds a lock that the kernel lets go of when it dies.

An agent's *post* is what it serves: a node, by hand or for one incarnation of a job. A job that was started again does
not wait for its earlier incarnation, which may be out of reach: it takes over (`registering`).
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec

from pyfi_hpc.db.record import Cursor
from pyfi_hpc.errors import BadInput
from pyfi_hpc.processes import fingerprint, until

#: How long a process that is dying may take to let go of its lock.
PATIENCE_SECONDS = 1.0
BY_HAND = "hand"


class Post(msgspec.Struct, frozen=True):
    """What an agent serves: a node, by hand, or for an incarnation of the job with that token."""

    network: str
    host: str
    token: str | None = None
    incarnation: int = 0

    def folder(self, state_dir: Path) -> Path:
        """Lock, spool and scratch: a state directory may be shared by several nodes, and a node by several jobs."""
        # parents that mkdir makes on the way would be open to others
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        node = state_dir / "nodes" / re.sub(r"[^\w.-]", "_", self.host)
        folder = node / (self.token or BY_HAND)
        for each in (node.parent, node, folder):
            each.mkdir(mode=0o700, exist_ok=True)
        return folder

    @property
    def _lock(self) -> str:
        return f"agent.{self.incarnation}.lock" if self.token else "agent.lock"

    @contextmanager
    def held(self, folder: Path) -> Iterator[None]:
        """Hold the post's lock in its folder; the file names the process that has it.

        Raises:
            BadInput: E_NODE_LEASED, another agent holds it.
        """
        with (folder / self._lock).open("a+") as file:
            if not until(lambda: _taken(file.fileno()), PATIENCE_SECONDS):
                file.seek(0)
                raise _leased(self.host, file.read().strip())
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            try:
                yield
            finally:
                if self.token:
                    _clear(folder, self._lock)

    def refuse_second(self, cursor: Cursor) -> None:
        """Two state directories have two locks: the agent that the database knows of must be gone as well.

        Raises:
            BadInput: E_NODE_LEASED, it has its lease and runs on this machine.
        """
        cursor.execute(
            """SELECT a.pid, a.process FROM pyfi.agent a JOIN pyfi.node n ON n.id = a.node_id
               JOIN pyfi.network w ON w.id = n.network_id LEFT JOIN pyfi.job j ON j.id = a.job_id
               WHERE w.name = %s AND n.host = %s AND a.ended IS NULL AND a.lease_until > now()
                 AND j.token IS NOT DISTINCT FROM %s AND a.incarnation = %s""",
            (self.network, self.host, self.token, self.incarnation),
        )
        for pid, process in cursor.fetchall():
            if not until(partial(_is_gone, pid, process), PATIENCE_SECONDS):
                raise _leased(self.host, str(pid))


def _is_gone(pid: int, process: str | None) -> bool:
    """Whether that process does not run here; of one on another machine, or behind a wall here, its lease tells."""
    return pid == os.getpid() or process is None or fingerprint(pid) != process


def _clear(folder: Path, lock: str) -> None:
    """A job's folder goes with its agent; what it could not commit stays."""
    (folder / lock).unlink(missing_ok=True)
    with suppress(OSError):
        for each in ("scratch", "spool", "."):
            (folder / each).rmdir()


def _leased(host: str, holder: str) -> BadInput:
    what = f"another agent serves this node (process {holder})" if holder else None
    cure = "end that one first: pyfi local stop, or a TERM signal to the process"
    return BadInput.of("E_NODE_LEASED", "node", host, what, cure=cure)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
