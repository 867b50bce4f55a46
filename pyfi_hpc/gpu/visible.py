"""Which GPUs a worker sees: its own, by identity, and no other."""

from __future__ import annotations

from collections.abc import Sequence

#: How a GPU is named where there is no NVML to tell its UUID: by the number that CUDA gives it in this job.
BY_INDEX = "index:"


def worker_environment(devices: Sequence[str]) -> dict[str, str]:
    """The variables that show CUDA these devices alone, in this order; none of them: that it sees none.

    `devices` are UUIDs of GPUs or MIG instances, or `index:N`. Source: CUDA's programming guide, CUDA environment
    variables: it takes UUIDs and numbers, and counts in the order of PCI, as NVML and Slurm do, only when told to.
    """
    names = ",".join(name.removeprefix(BY_INDEX) for name in devices)
    return {"CUDA_VISIBLE_DEVICES": names, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
