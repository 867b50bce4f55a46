"""What this agent's job was granted on its node: Slurm's words in the environment, and its controller's beside them."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pyfi_hpc.errors import Fault
from pyfi_hpc.gpu.inventory import Inventory
from pyfi_hpc.gpu.visible import BY_INDEX
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.slurm.detail import Detail, numbers

#: The job's own SLURM_TASKS_PER_NODE, exported by the job script: in the step, which has one task a node, it says 1.
TASKS_PER_NODE = "PYFI_TASKS_PER_NODE"


@dataclass(frozen=True, slots=True)
class Grant:
    """One node's share of one job.

    Attributes:
        restarts: how often the job was requeued.
        tasks: of `-n`, those on this node. cpus_per_task: `-c`.
        cpu_ids: Slurm's own numbers of the `cpus`; empty: not known.
        gpu_indexes: places of the `gpus` among the node's; None: not known.
        visible: CUDA_VISIBLE_DEVICES as Slurm set it: numbers, or UUIDs where Slurm itself uses NVML.
        mem_mib: None: not limited.
        ends_at: None: no time limit, or not known.
    """

    job: str
    node: str
    restarts: int
    cpus: int
    tasks: int
    cpus_per_task: int
    gpus: int = 0
    cpu_ids: tuple[int, ...] = ()
    gpu_indexes: tuple[int, ...] | None = None
    visible: tuple[str, ...] = ()
    mem_mib: int | None = None
    ends_at: datetime.datetime | None = None


def granted(environment: Mapping[str, str], request: ResourceRequest, detail: Detail) -> Grant:
    """The grant that the `environment` of a job's step tells of.

    Raises:
        Fault: E_INTERNAL, a variable of Slurm's has a form that we do not know.
    """
    cpus = _number(environment, "SLURM_CPUS_ON_NODE", 1)
    cpus_per_task = request.cpus_per_task or _number(environment, "SLURM_CPUS_PER_TASK", 1)
    gpus = _number(environment, "SLURM_GPUS_ON_NODE", 0)
    return Grant(
        job=environment["SLURM_JOB_ID"],
        node=environment.get("SLURMD_NODENAME", ""),
        restarts=_number(environment, "SLURM_RESTART_COUNT", 0),
        cpus=cpus,
        tasks=_tasks(environment) or min(max(1, cpus // cpus_per_task), request.ntasks or 1),
        cpus_per_task=cpus_per_task,
        gpus=gpus,
        cpu_ids=detail.cpu_ids,
        gpu_indexes=_gpu_indexes(environment) or detail.gpu_indexes,
        visible=tuple(name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name),
        mem_mib=detail.mem_mib or _mem_mib(environment, cpus, gpus),
        ends_at=detail.ends_at or _end(environment),
    )


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name) or str(default)
    if not re.fullmatch(r"\d{1,15}", value, re.ASCII):
        raise Fault("E_INTERNAL", f"Slurm says {name}={value}, which is no number")
    return int(value)


def _tasks(environment: Mapping[str, str]) -> int | None:
    text = environment.get(TASKS_PER_NODE)
    return on_node(text, _number(environment, "SLURM_NODEID", 0)) if text else None


def on_node(text: str, place: int) -> int:
    """The number for the job's node at `place`, from 0, in what Slurm writes as `2(x3),1`.

    Raises:
        Fault: E_INTERNAL, it has another form, or fewer nodes.
    """
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?(?:,|$)", text, re.ASCII)
    counts = [int(count) for count, times in found for _ in range(int(times or 1))]
    if not re.fullmatch(r"\d+(\(x\d+\))?(,\d+(\(x\d+\))?)*", text, re.ASCII) or place >= len(counts):
        raise Fault("E_INTERNAL", f"Slurm's list {text!r} says nothing about the job's node number {place}")
    return counts[place]


def _gpu_indexes(environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """Places of this node's GPUs. Source: srun(1), SLURM_STEP_GPUS, global IDs, also in a device cgroup.

    SLURM_JOB_GPUS is handed down from the batch script, and so is true of the job's first node alone.
    """
    text = environment.get("SLURM_STEP_GPUS")
    if text is None and environment.get("SLURM_JOB_NUM_NODES") == "1":
        text = environment.get("SLURM_JOB_GPUS")
    return numbers(text) if text and re.fullmatch(r"[\d,-]+", text, re.ASCII) else None


def _mem_mib(environment: Mapping[str, str], cpus: int, gpus: int) -> int | None:
    per_node = _number(environment, "SLURM_MEM_PER_NODE", 0)
    per_cpu = _number(environment, "SLURM_MEM_PER_CPU", 0)
    return per_node or per_cpu * cpus or _number(environment, "SLURM_MEM_PER_GPU", 0) * gpus or None


def _end(environment: Mapping[str, str]) -> datetime.datetime | None:
    seconds = _number(environment, "SLURM_JOB_END_TIME", 0)
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC) if seconds else None


def own_devices(grant: Grant, inventory: Inventory) -> tuple[str, ...]:
    """Names of the devices that were granted: UUIDs, or `index:N` where no NVML tells them.

    Where a device cgroup hides the others, all that open are ours, whatever their numbers; else those at the places
    that Slurm names. None where that cannot be told: another job's GPU is never taken.
    """
    if not grant.gpus:
        return ()
    if inventory.driver is None:
        return tuple(f"{BY_INDEX}{number}" for number in _as_seen_here(grant))
    devices = inventory.devices
    if uuids := [name for name in grant.visible if not name.isdecimal()]:
        return tuple(one.uuid for one in devices if one.uuid.startswith(tuple(uuids)))
    if len(devices) + len(inventory.left_out) > grant.gpus:
        devices = tuple(one for one in devices if one.index in (grant.gpu_indexes or ()))
    return tuple(one.uuid for one in devices)


def _as_seen_here(grant: Grant) -> tuple[str, ...]:
    return grant.visible or tuple(map(str, grant.gpu_indexes or range(grant.gpus)))
