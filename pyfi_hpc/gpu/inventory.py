"""The GPUs that this process can use: whole ones, and the instances of those that are divided (MIG)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyfi_hpc.gpu.nvml import mib, session, text, told
from pyfi_hpc.logs import logger

log = logger()


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU, or one MIG instance of one.

    Attributes:
        uuid: its identity.
        index: its place among what is listed here, an instance counting as one: CUDA's number in the order of PCI,
            and Slurm's where no device cgroup hides any. It changes with what a job was granted.
        minor: N of /dev/nvidiaN, an instance's being its GPU's; None where the driver does not tell.
        parent: of a MIG instance, its GPU's UUID.
        mem_mib: 0 where the driver does not tell, as for memory that it shares with the CPU.
        cores: of its NUMA node; None where the driver does not tell.
    """

    uuid: str
    index: int
    minor: int | None
    model: str
    mem_mib: int
    parent: str | None = None
    cores: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A GPU that is counted but does not answer: its place, and the driver's words."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """What one look found. `driver`: its version; None: no NVML here, which is a normal machine."""

    devices: tuple[Device, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    driver: str | None = None


def look() -> Inventory:
    """What there is now. Nothing of the driver's is an error here: a GPU that is lost is left out, and named."""
    with session() as nvml:
        if nvml is None:
            return Inventory()
        return _inventory(nvml)


def devices() -> tuple[Device, ...]:
    """The GPUs and MIG instances that this process can open, in the order of PCI; what is left out is logged."""
    found = look()
    for gone in found.left_out:
        log.warning("gpu left out", index=gone.index, reason=gone.reason)
    return found.devices


def _inventory(nvml: Any) -> Inventory:
    found: list[Device] = []
    left_out: list[LeftOut] = []
    for number in range(told(nvml.nvmlDeviceGetCount) or 0):
        index = len(found) + len(left_out)
        try:
            found += _of_gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(number), index)
        except nvml.NVMLError_NoPermission:
            continue  # somebody else's
        except nvml.NVMLError as error:
            left_out.append(LeftOut(index, str(error)))
    driver = text(told(nvml.nvmlSystemGetDriverVersion) or "unknown")
    return Inventory(tuple(found), tuple(left_out), driver)


def _of_gpu(nvml: Any, gpu: Any, index: int) -> list[Device]:
    """The GPU itself, or with MIG enabled its instances, which may be none: CUDA cannot use the whole then."""
    if (told(nvml.nvmlDeviceGetMigMode, gpu) or [0])[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        return [_device(nvml, gpu, gpu, index)]
    parent = text(nvml.nvmlDeviceGetUUID(gpu))
    return [_device(nvml, one, gpu, index + place, parent) for place, one in enumerate(_instances(nvml, gpu))]


def _instances(nvml: Any, gpu: Any) -> Iterator[Any]:
    """Handles of the instances; the numbers of those that were destroyed, or are not ours, are gaps."""
    for number in range(told(nvml.nvmlDeviceGetMaxMigDeviceCount, gpu) or 0):
        handle = told(nvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu, number)
        if handle is not None:
            yield handle


def _device(nvml: Any, handle: Any, gpu: Any, index: int, parent: str | None = None) -> Device:
    memory = told(nvml.nvmlDeviceGetMemoryInfo, handle)
    return Device(
        uuid=text(nvml.nvmlDeviceGetUUID(handle)),
        index=index,
        minor=told(nvml.nvmlDeviceGetMinorNumber, gpu),
        model=text(nvml.nvmlDeviceGetName(handle)),
        mem_mib=0 if memory is None else mib(memory.total),
        parent=parent,
        cores=_cores(nvml, gpu),
    )


def _cores(nvml: Any, gpu: Any) -> tuple[int, ...] | None:
    """Source: nvmlDeviceGetCpuAffinity, a bit for each CPU in words of 64."""
    words = told(nvml.nvmlDeviceGetCpuAffinity, gpu, -(-os.sysconf("SC_NPROCESSORS_CONF") // 64))
    if words is None:
        return None
    return tuple(64 * place + bit for place, word in enumerate(words) for bit in range(64) if word >> bit & 1) or None
