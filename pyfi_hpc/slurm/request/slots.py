"""How many workers a pilot brings, and what makes each of them: from its request alone."""

from __future__ import annotations

import re

from pyfi_hpc.model.request import Per, ResourceRequest
from pyfi_hpc.slurm.request.amounts import array_size, gpu_count, gpus_in_gres

_PER_NODE = re.compile(r"--ntasks-per-node=(?P<count>[0-9]{1,6})")


def slots(request: ResourceRequest) -> int:
    """How many workers it brings, at least one; of an array, all of its jobs together."""
    jobs = array_size(request.array) if request.array else 1
    return jobs * max(1, _of_one_job(request))


def _of_one_job(request: ResourceRequest) -> int:
    if request.slot in (Per.GPU, Per.MIG):
        return total_gpus(request)
    return tasks(request) * ((request.cpus_per_task or 1) if request.slot is Per.CORE else 1)


def tasks(request: ResourceRequest) -> int:
    """How many tasks Slurm makes room for; one a node where nothing is said."""
    if request.ntasks is not None:
        return request.ntasks
    found = [match for match in map(_PER_NODE.fullmatch, request.extra) if match]
    return request.nodes * (int(found[-1]["count"]) if found else 1)


def total_gpus(request: ResourceRequest) -> int:
    """GPUs of one job, on all of its nodes."""
    return gpu_count(request.gpus) if request.gpus else request.nodes * gpus_per_node(request)


def gpus_per_node(request: ResourceRequest) -> int:
    """GPUs that each node must have, 0 for none; of `--gpus`, as many as the fullest one has at least."""
    asked = [gpu_count(request.gpus_per_node)] if request.gpus_per_node else []
    asked += [gpus_in_gres(request.gres)] if request.gres else []
    asked += [-(-gpu_count(request.gpus) // request.nodes)] if request.gpus else []
    return max(asked, default=0)


def told(request: ResourceRequest) -> str:
    """`8 workers, one per task`."""
    count = slots(request)
    unit = {Per.GPU: "GPU", Per.MIG: "MIG instance"}.get(request.slot, request.slot.value)
    return f"{count} worker{'s' if count > 1 else ''}, one per {unit}"
