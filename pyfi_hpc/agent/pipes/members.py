"""What an agent knows of each of its workers with regard to pipes."""

from __future__ import annotations

from dataclasses import dataclass

from pyfi_hpc.agent.process import WorkerProcess
from pyfi_hpc.wire.frames import Far, Listening, Outlet


@dataclass(slots=True)
class Member:
    """A worker, and what it was told."""

    process: WorkerProcess
    processor: bytes
    row: bytes
    #: it takes new calls
    open: bool = True
    listens: bool = False
    told: tuple[Outlet, ...] = ()
    far: Far | None = None
    #: where it listens to other nodes, and to whom
    listening: Listening | None = None
