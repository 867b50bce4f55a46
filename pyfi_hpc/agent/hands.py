"""One worker of an agent, as the agent's main thread knows it, and what it runs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from pyfi_hpc.agent.keeper import Program
from pyfi_hpc.agent.lots import Lot
from pyfi_hpc.agent.process import WorkerProcess
from pyfi_hpc.wire.frames import NO_LINK

HELLO_SECONDS = 120.0


@dataclass(slots=True)
class Hand:
    """One of the agent's workers, from the plan to its end."""

    row: bytes
    processor: bytes
    cores: tuple[int, ...]
    devices: tuple[str, ...]
    process: WorkerProcess | None = None
    environment: str = ""
    #: what its process runs
    program: Program | None = None
    calls: int = 0
    #: of them, how many the database knows of
    counted: int = 0
    #: the call that it is said to run, and since when on the monotonic clock
    noted: tuple[bytes, float] | None = None
    draining: bool = False
    #: its row was taken back before it was taken up
    unwanted: bool = False
    stopping: bool = False
    deadline: float = field(default_factory=lambda: time.monotonic() + HELLO_SECONDS)


@dataclass(frozen=True, slots=True)
class Running:
    """What a worker runs: member `index` of a lot, or the call `link` that followed from that member along pipes.

    `started` is on the monotonic clock; `lot` is None for a call that came by a pipe.
    """

    lot: Lot | None
    token: int
    index: int
    link: bytes
    started: float
    socket: bytes = NO_LINK

    @property
    def id(self) -> bytes:
        return self.link if self.lot is None else self.lot.call(self.index).id


def runs(process: WorkerProcess, at: tuple[int, int]) -> bool:
    """Whether it runs that member itself, and nothing that followed from it."""
    token, index, _, link = process.progress.running()
    return (token, index, link) == (*at, NO_LINK)
