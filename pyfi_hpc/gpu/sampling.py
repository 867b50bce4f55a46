"""How GPUs are used right now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pyfi_hpc.gpu.nvml import mib, session, told


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at one device; None: the driver does not tell.

    Attributes:
        utilization: share of the last sample period (up to a second) in which a kernel ran, 0 to 1; never told of
            MIG instances, nor of a GPU that has any.
    """

    uuid: str
    utilization: float | None = None
    mem_used_mib: int | None = None
    temperature_celsius: int | None = None
    power_watts: float | None = None


def sample(uuids: Iterable[str]) -> tuple[Sample, ...]:
    """One sample for each device, in the order given; a device that is gone, or no NVML, gives one that knows nothing.

    Who samples often keeps a `gpu.nvml.session` open.
    """
    with session() as nvml:
        return tuple(Sample(uuid) if nvml is None else _sample(nvml, uuid) for uuid in uuids)


def _sample(nvml: Any, uuid: str) -> Sample:
    handle = told(nvml.nvmlDeviceGetHandleByUUID, uuid)
    if handle is None:
        return Sample(uuid)
    rates = told(nvml.nvmlDeviceGetUtilizationRates, handle)
    memory = told(nvml.nvmlDeviceGetMemoryInfo, handle)
    milliwatts = told(nvml.nvmlDeviceGetPowerUsage, handle)
    return Sample(
        uuid,
        utilization=None if rates is None else rates.gpu / 100,
        mem_used_mib=None if memory is None else mib(memory.used),
        temperature_celsius=told(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
        power_watts=None if milliwatts is None else milliwatts / 1000,
    )
