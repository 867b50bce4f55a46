"""The job that an agent runs in: its row, found by its token, and what it was granted on this node."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pyfi_hpc.agent.grant import Grant
from pyfi_hpc.agent.slots import Share, layout, share_here
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.errors import BadInput
from pyfi_hpc.gpu.inventory import look
from pyfi_hpc.model.request import Per, ResourceRequest


@dataclass(frozen=True, slots=True)
class Pilot:
    """One incarnation of a job, as its row tells.

    Attributes:
        token: what the job's comment says; an agent is told nothing else of it.
        incarnation: how often Slurm has started it again.
    """

    job: bytes
    token: str
    incarnation: int
    scheduler: bytes
    cluster: str
    request: ResourceRequest


def find(cursor: Cursor, network: str, token: str, incarnation: int) -> Pilot:
    """The job of that token.

    Raises:
        BadInput: E_NOT_FOUND; E_SUPERSEDED, it has ended, or runs again and this is an earlier incarnation.
    """
    cursor.execute(
        """SELECT uuid_send(j.id), uuid_send(j.scheduler_id), s.cluster, j.request, j.status,
               greatest(j.restarts, (SELECT max(a.incarnation) FROM pyfi.agent a WHERE a.job_id = j.id))
           FROM pyfi.job j JOIN pyfi.network n ON n.id = j.network_id JOIN pyfi.scheduler s ON s.id = j.scheduler_id
           WHERE n.name = %s AND j.token = %s""",
        (network, token),
    )
    row = cursor.fetchone()
    if row is None:
        what = f"no job of network {network!r} has this token"
        raise BadInput.of("E_NOT_FOUND", "job", token, what, cure="pyfi ls jobs")
    job, scheduler, cluster, request, status, newest = row
    if status == "ENDED":
        raise BadInput.of("E_SUPERSEDED", "job", token, "this job has ended on record", cure="pyfi ls jobs")
    if newest > incarnation:
        raise superseded(token, incarnation)
    # before the scheduler has asked for the name, the job knows it
    cluster = cluster or os.environ.get("SLURM_CLUSTER_NAME", "")
    return Pilot(bytes(job), token, incarnation, bytes(scheduler), cluster, ResourceRequest.from_json(request))


def superseded(token: str, incarnation: int) -> BadInput:
    """E_SUPERSEDED, for an agent of that incarnation of the job."""
    what = f"the job was started again: its incarnation {incarnation} is over"
    return BadInput.of("E_SUPERSEDED", "job", token, what, cure="pyfi ls agents")


def checked_token(text: str) -> str:
    """A job's token: it names a folder, too.

    Raises:
        BadInput: E_NOT_FOUND, no job has such a token.
    """
    if not re.fullmatch(r"[0-9a-f]{32}", text, re.ASCII):
        raise BadInput.of("E_NOT_FOUND", "job", text, "a job's token has 32 hex digits", cure="pyfi ls jobs")
    return text


def incarnation(variables: Mapping[str, str]) -> int:
    """How often Slurm has started the job again. Source: sbatch(1), SLURM_RESTART_COUNT, not set at first."""
    text = variables.get("SLURM_RESTART_COUNT", "")
    return int(text) if text.isdecimal() else 0


def share_of(request: ResourceRequest, host: str) -> Share:
    """What this process's job was granted here, cut into slots; outside of Slurm, what was asked for."""
    found = share_here(request)
    if found is not None:
        return found
    tasks, cpus = request.ntasks or 1, request.cpus_per_task or 1
    grant, inventory = Grant("", host, 0, tasks * cpus, tasks, cpus), look()
    mask = os.sched_getaffinity(0)
    return Share(grant, layout(grant, Per.TASK, mask, os.cpu_count() or 1, inventory), inventory)
