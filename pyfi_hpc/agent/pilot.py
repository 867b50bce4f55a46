"""The job that an agent runs in: found by its token, with what Slurm says of it in the agent's environment."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from pyfi_hpc.db.record import Cursor
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.request import ResourceRequest


@dataclass(frozen=True, slots=True)
class Pilot:
    """One incarnation of a job, as an agent in it knows it.

    Attributes:
        token: what the job's comment says; an agent is told nothing else of it.
        incarnation: how often Slurm has started it again.
        seconds_left: until Slurm ends it, when this was asked; None: not known, or never.
    """

    job: bytes
    token: str
    slurm_id: str
    scheduler: bytes
    cluster: str
    incarnation: int
    request: ResourceRequest
    seconds_left: float | None = None


def find(cursor: Cursor, network: str, token: str, variables: Mapping[str, str]) -> Pilot:
    """The job of that token. `variables`: the environment in which Slurm started its step.

    Raises:
        BadInput: E_NOT_FOUND; E_SUPERSEDED, it has ended, or runs again and this is the earlier incarnation.
    """
    cursor.execute(
        """SELECT uuid_send(j.id), j.slurm_id, uuid_send(j.scheduler_id), s.cluster, j.request, j.status,
               greatest(j.restarts, (SELECT max(a.incarnation) FROM pyfi.agent a WHERE a.job_id = j.id))
           FROM pyfi.job j JOIN pyfi.network n ON n.id = j.network_id JOIN pyfi.scheduler s ON s.id = j.scheduler_id
           WHERE n.name = %s AND j.token = %s""",
        (network, token),
    )
    row = cursor.fetchone()
    if row is None:
        what = f"no job of network {network!r} has this token"
        raise BadInput.of("E_NOT_FOUND", "job", token, what, cure="pyfi ls jobs")
    job, slurm_id, scheduler, cluster, request, status, newest = row
    incarnation = int(variables.get("SLURM_RESTART_COUNT") or 0)
    if status == "ENDED":
        raise BadInput.of("E_SUPERSEDED", "job", token, "this job has ended on record", cure="pyfi show job")
    if newest > incarnation:
        raise superseded(token, incarnation)
    return Pilot(
        job=bytes(job),
        token=token,
        slurm_id=slurm_id or variables.get("SLURM_JOB_ID", ""),
        scheduler=bytes(scheduler),
        cluster=cluster or variables.get("SLURM_CLUSTER_NAME", ""),
        incarnation=incarnation,
        request=ResourceRequest.from_json(request),
        seconds_left=_seconds_left(variables),
    )


def superseded(token: str, incarnation: int) -> BadInput:
    """E_SUPERSEDED, for an agent of that incarnation of the job."""
    what = f"the job was started again: its incarnation {incarnation} is over"
    return BadInput.of("E_SUPERSEDED", "job", token, what, cure="nothing: its newer agents serve")


def _seconds_left(variables: Mapping[str, str]) -> float | None:
    """Source: sbatch(1), SLURM_JOB_END_TIME: Unix time of the job's end as it is planned; not in every version."""
    text = variables.get("SLURM_JOB_END_TIME", "")
    return float(text) - time.time() if text.isdigit() and int(text) else None
