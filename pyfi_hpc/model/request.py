"""What a pilot asks of Slurm, and how many workers it brings: a plain record, kept with jobs and processors as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any


class Per(StrEnum):
    """What of a job's grant makes one slot, and so one worker."""

    TASK = "task"  # one of `-n`, with `-c` cores
    CORE = "core"
    GPU = "gpu"
    MIG = "mig"


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """One pilot, in Slurm's own terms. None: not asked for, so that the site's default holds.

    Attributes:
        mem, mem_per_cpu: as Slurm takes them, such as `4G`.
        time_minutes: the time limit; 0 is none (UNLIMITED).
        signal_seconds: how long before the time limit Slurm warns the pilot.
        extra: further options of sbatch, one word each, after all others.
        setup: shell lines that run on each node before the agent (modules, exports).
    """

    job_name: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    nodes: int = 1
    ntasks: int | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    mem_per_cpu: str | None = None
    gpus: str | None = None
    gpus_per_node: str | None = None
    gres: str | None = None
    time_minutes: int | None = None
    constraint: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    dependency: str | None = None
    array: str | None = None
    begin: str | None = None
    output: str | None = None
    error: str | None = None
    chdir: str | None = None
    export: str | None = None
    requeue: bool | None = None
    signal_seconds: int | None = None
    comment: str | None = None
    per: Per | None = None
    extra: tuple[str, ...] = ()
    setup: str = ""

    def to_json(self) -> dict[str, Any]:
        """Only what differs from the default."""
        default = type(self)()
        return {name: value for name, value in asdict(self).items() if value != getattr(default, name)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ResourceRequest:
        """The record that `to_json` wrote; a field of a newer version is left out."""
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in stored.items() if name in known}
        if "per" in values:
            values["per"] = Per(values["per"])
        if "extra" in values:
            values["extra"] = tuple(values["extra"])
        return cls(**values)

    @property
    def slot(self) -> Per:
        """What makes a slot: as asked, else a GPU where any is asked for, else a task."""
        return self.per or (Per.GPU if self.gpus or self.gpus_per_node or "gpu" in (self.gres or "") else Per.TASK)
