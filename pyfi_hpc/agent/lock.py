"""One agent for each node: it holds a lock that the kernel lets go of when it dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pyfi_hpc.db.record import Cursor
from pyfi_hpc.errors import BadInput
from pyfi_hpc.processes import alive, arguments, until

#: How long a process that is dying may take to let go of its lock.
PATIENCE_SECONDS = 1.0


@contextmanager
def node_lock(folder: Path, host: str) -> Iterator[None]:
    """Hold `agent.lock` in the node's own folder; the file names the process that has it.

    Raises:
        BadInput: E_NODE_LEASED, another agent holds it.
    """
    with (folder / "agent.lock").open("a+") as file:
        if not until(lambda: _taken(file.fileno()), PATIENCE_SECONDS):
            file.seek(0)
            raise _leased(host, file.read().strip())
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def refuse_second(cursor: Cursor, network: str, host: str) -> None:
    """Two state directories have two locks: the agent that the database knows of must be gone as well.

    Raises:
        BadInput: E_NODE_LEASED, it has its lease and runs on this machine.
    """
    cursor.execute(
        "SELECT a.pid FROM pyfi.agent a JOIN pyfi.node n ON n.id = a.node_id JOIN pyfi.network w ON w.id = n.network_id"
        " WHERE w.name = %s AND n.host = %s AND a.ended IS NULL AND a.lease_until > now()",
        (network, host),
    )
    for (pid,) in cursor.fetchall():
        if not until(partial(_is_gone, pid), PATIENCE_SECONDS):
            raise _leased(host, str(pid))


def _is_gone(pid: int) -> bool:
    """Whether `pid` is no agent that runs; after a restart of the machine the number may be somebody else's."""
    return pid == os.getpid() or not alive(pid) or not any("agent" in word for word in arguments(pid))


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
