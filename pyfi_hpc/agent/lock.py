"""One agent for each node: it holds a lock that the kernel lets go of when it dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyfi_hpc.errors import BadInput
from pyfi_hpc.processes import until

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
            holder = file.read().strip()
            what = f"another agent serves this node (process {holder})" if holder else None
            raise BadInput.of(
                "E_NODE_LEASED",
                "node",
                host,
                what,
                cure="end that one first: pyfi local stop, or a TERM signal to the process",
            )
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
