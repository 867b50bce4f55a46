"""A grant cut into slots: what each worker of a pilot has for itself."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pyfi_hpc.agent.grant import Grant, granted, own_devices
from pyfi_hpc.gpu.inventory import Inventory, look
from pyfi_hpc.model.request import Per, ResourceRequest
from pyfi_hpc.slurm.detail import ask


@dataclass(frozen=True, slots=True)
class Slot:
    """What one worker has. `devices`: UUIDs, or `index:N`. `mem_mib`: an even share; None: not limited."""

    cores: tuple[int, ...]
    devices: tuple[str, ...] = ()
    mem_mib: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As it is kept with its agent."""
        return {"cores": list(self.cores), "devices": list(self.devices)}


@dataclass(frozen=True, slots=True)
class Layout:
    """All slots of a grant.

    Attributes:
        shared: a core is in more than one slot, or may be: Slurm counts more CPUs than there are to use.
        unused: devices that were granted and are in no slot, since they cannot be dealt evenly or are not asked for.
    """

    slots: tuple[Slot, ...]
    shared: bool = False
    unused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """What an agent found that its job was granted on its node, and how it is cut."""

    grant: Grant
    layout: Layout
    inventory: Inventory


def share_here(request: ResourceRequest) -> Share | None:
    """This process's own share of the job that asked for `request`; None outside of a job.

    Asks Slurm's controller and NVIDIA's driver once each, and needs neither. Raises as `granted` does.
    """
    if "SLURM_JOB_ID" not in os.environ:
        return None
    detail = ask(os.environ["SLURM_JOB_ID"], os.environ.get("SLURMD_NODENAME", ""))
    grant = granted(os.environ, request, detail)
    inventory = look()
    return Share(grant, layout(grant, request.slot, os.sched_getaffinity(0), os.cpu_count() or 1, inventory), inventory)


#: A slot in the making: cores, of which one may come twice, and devices.
_Cut: TypeAlias = tuple[Sequence[int], tuple[str, ...]]


def layout(grant: Grant, per: Per, mask: Collection[int], machine_cores: int, inventory: Inventory) -> Layout:
    """Cut the grant into one slot for each task, core, GPU or MIG instance of it.

    How many comes from the grant, which cores from the affinity `mask` on a machine of `machine_cores`, which devices
    from the inventory. No slots: nothing of what was asked for is there.
    """
    cores, shared = granted_cores(grant, mask, machine_cores)
    devices = own_devices(grant, inventory)
    by_device = per in (Per.GPU, Per.MIG)
    shares = _for_devices(cores, devices, per, inventory) if by_device else _for_cores(cores, devices, per, grant)
    mem_mib = grant.mem_mib // len(shares) if grant.mem_mib and shares else None
    slots = tuple(Slot(tuple(dict.fromkeys(own)), dealt, mem_mib) for own, dealt in shares)
    given = {name for slot in slots for name in slot.devices}
    unused = tuple(name for name in devices if name not in given)
    dealt_out = [core for own, _ in shares for core in own]
    return Layout(slots, shared or len(set(dealt_out)) < len(dealt_out), unused)


def granted_cores(grant: Grant, mask: Collection[int], machine_cores: int) -> tuple[list[int], bool]:
    """One core for each CPU granted, and whether another slot or job may have some of them too.

    Slurm's numbers for the CPUs pick cores of the mask where nothing is bound, which keeps jobs on one node apart.
    Where Slurm binds, the mask alone is what it granted. Either is gone round where it is too small.
    """
    usable = sorted(mask)
    ids = grant.cpu_ids if len(grant.cpu_ids) == grant.cpus else ()
    bound = len(usable) < machine_cores and max(ids, default=0) >= len(usable)
    numbers = range(grant.cpus) if bound or not ids else ids
    return [usable[number % len(usable)] for number in numbers], max(numbers, default=0) >= len(usable)


def _for_cores(cores: Sequence[int], devices: Sequence[str], per: Per, grant: Grant) -> list[_Cut]:
    """For each task its cores, or each core by itself; to each the same number of devices, none to any if too few."""
    count, width = (grant.tasks, grant.cpus_per_task) if per is Per.TASK else (len(cores), 1)
    each = len(devices) // count if count else 0
    return [
        (
            [cores[nth % len(cores)] for nth in range(width * place, width * (place + 1))],
            tuple(devices[each * place : each * (place + 1)]),
        )
        for place in range(count)
    ]


def _for_devices(cores: Sequence[int], devices: Sequence[str], per: Per, inventory: Inventory) -> list[_Cut]:
    """For each device (for `mig` only instances) its part of the cores."""
    known = {one.uuid: one for one in inventory.devices}
    chosen = [name for name in devices if per is Per.GPU or (name in known and known[name].parent)]
    near = [set(known[name].cores or ()) if name in known else set() for name in chosen]
    return [(own, (name,)) for own, name in zip(divided(cores, near), chosen, strict=True)]


def divided(cores: Sequence[int], near: Sequence[Collection[int]]) -> list[list[int]]:
    """The cores in as many parts as `near` has members, alike in size, each first of all cores that are near to it.

    Fewer cores than parts: they go round.
    """
    count = len(near)
    if len(cores) < count:
        return [[cores[place % len(cores)]] for place in range(count)]
    sizes = [len(cores) // count + (place < len(cores) % count) for place in range(count)]
    left = list(cores)
    parts = [
        _taken(left, [core for core in left if core in close][:size]) for close, size in zip(near, sizes, strict=True)
    ]
    return [part + _taken(left, left[: size - len(part)]) for part, size in zip(parts, sizes, strict=True)]


def _taken(left: list[int], wanted: Sequence[int]) -> list[int]:
    for core in wanted:
        left.remove(core)
    return list(wanted)


def described(found: Layout, per: Per) -> str:
    """One line for a person, such as `4 slots, one per GPU, 2 cores each, cores shared, 1 GPU not used`."""
    name = {Per.TASK: "task", Per.CORE: "core", Per.GPU: "GPU", Per.MIG: "MIG instance"}[per]
    if not found.slots:
        return f"no slots: the job has no {name} here"
    sizes = sorted({len(slot.cores) for slot in found.slots})
    width = f"{sizes[0]} to {sizes[-1]} cores" if len(sizes) > 1 else _counted(sizes[0], "core")
    parts = [_counted(len(found.slots), "slot"), f"one per {name}", f"{width} each"]
    parts += ["cores shared"] if found.shared else []
    parts += [f"{_counted(len(found.unused), 'GPU')} not used"] if found.unused else []
    return ", ".join(parts)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
