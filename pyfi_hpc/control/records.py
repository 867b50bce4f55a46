"""What placement reads and what it decides: plain records."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from pyfi_hpc.model.status import ProcessorStatus, Requested, WorkerStatus

LIVE = frozenset({WorkerStatus.PLANNED, WorkerStatus.LAUNCHING, WorkerStatus.READY})


class WantedProcessor(msgspec.Struct, frozen=True):
    """A processor as its row asks for it. `version` changes with commit, requirements and restarts.

    Attributes:
        workers: None for a fair share.
        may_start: False while a failed start waits for its next try.
        shape: pilots may be sent for it.
    """

    id: bytes
    name: str
    requested: Requested
    status: ProcessorStatus
    workers: int | None
    cpus: int
    host: str | None
    version: str
    may_start: bool = True
    gpus: int = 0
    shape: bool = False

    @property
    def wanted(self) -> bool:
        """It keeps its workers."""
        return self.requested in (Requested.RUNNING, Requested.PAUSED)


class Slot(msgspec.Struct, frozen=True):
    """A share of what a job was granted on a node: one worker's. Several slots may share a core."""

    cores: tuple[int, ...]
    devices: tuple[str, ...] = ()


class ServingNode(msgspec.Struct, frozen=True):
    """A node with a live agent; one with several agents is there once for each.

    Attributes:
        devices: GPUs, by UUID, that its workers may be given; unused where it has a job.
        job: the job that the agent runs in; its workers have one slot each.
        for_processor: whose workers the slots are for.
        draining: a person wants the node empty.
        ending: the agent ends by itself soon; it takes nothing new.
    """

    id: bytes
    agent: bytes
    name: str
    host: str
    cores: tuple[int, ...]
    shared_cores: bool
    draining: bool = False
    slots: tuple[Slot, ...] = ()
    devices: tuple[str, ...] = ()
    job: bytes | None = None
    for_processor: bytes | None = None
    ending: bool = False

    @property
    def open(self) -> bool:
        """Workers share its cores; there are no slots."""
        return self.job is None and not self.slots

    @property
    def accepts(self) -> bool:
        """New workers may be planned here."""
        return not self.draining and not self.ending


class ExistingWorker(msgspec.Struct, frozen=True):
    """A worker row that has not ended. `slot`: which of its agent's; None where that has none. `busy`: it was seen to
    run a call."""

    id: bytes
    processor: bytes
    agent: bytes
    cores: tuple[int, ...]
    status: WorkerStatus
    version: str
    slot: int | None = None
    devices: tuple[str, ...] = ()
    busy: bool = False


class Start(msgspec.Struct, frozen=True):
    """Plan a worker of `processor` for `agent`'s node, pinned to `cores`, with `devices` of its own."""

    processor: bytes
    agent: bytes
    node: bytes
    cores: tuple[int, ...]
    slot: int | None = None
    devices: tuple[str, ...] = ()


class Drain(msgspec.Struct, frozen=True):
    """Let this worker finish what it has, then end."""

    worker: bytes


class Become(msgspec.Struct, frozen=True):
    """Take a processor one step along the table, from `before` to `status`."""

    processor: bytes
    before: ProcessorStatus
    status: ProcessorStatus


Action: TypeAlias = Start | Drain | Become
