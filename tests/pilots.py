"""Jobs as rows, and agents in them, without Slurm: its words in the environment are all that an agent sees of it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from psycopg2.extras import Json

from pyfi_hpc.model.request import ResourceRequest
from tests.faults.own import change
from tests.site import AgentProcess, Site
from tests.support import eventually

CLUSTER = "box"


@dataclass(frozen=True)
class Job:
    """A job on record that Slurm is said to run."""

    site: Site
    token: str
    slurm_id: str

    def agent(
        self,
        host: str = "n1",
        *,
        restarts: int = 0,
        seconds: float | None = None,
        respawn: bool = False,
        through: Sequence[str] = (),
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> AgentProcess:
        """The agent of this job on one of its nodes; Slurm ends it in so many `seconds`. `through`: as of `Site`."""
        slurm = {
            "SLURM_JOB_ID": self.slurm_id,
            "SLURMD_NODENAME": host,
            "SLURM_CLUSTER_NAME": CLUSTER,
            "SLURM_CPUS_ON_NODE": "2",
            **({"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}),
            **({"SLURM_JOB_END_TIME": str(int(time.time() + seconds))} if seconds else {}),
        }
        return self.site.agent(host=host, job=self.token, respawn=respawn, through=through, **{**slurm, **variables})

    def change(self, **columns: Any) -> None:
        """Set columns of the job's row, as its scheduler does."""
        for name, value in columns.items():
            assert change(self.site, f"UPDATE pyfi.job SET {name} = %s WHERE token = %s", value, self.token) == 1

    def agents(self) -> list[tuple[str, int]]:
        """Host and incarnation of its live agents."""
        return self.site.rows(
            "SELECT n.host, a.incarnation FROM pyfi.agent a JOIN pyfi.node n ON n.id = a.node_id"
            " JOIN pyfi.job j ON j.id = a.job_id WHERE j.token = %s AND a.ended IS NULL ORDER BY 1",
            self.token,
        )

    def serves(self, *hosts: str, incarnation: int = 0) -> None:
        """Wait until exactly these nodes have an agent of it."""
        wanted = [(host, incarnation) for host in hosts]
        eventually(lambda: self.agents() == wanted, timeout=20)


def job(site: Site, processor: str | None = "p", *, scheduler: str = "sched1", **request: Any) -> Job:
    """A job that was sent for `processor`, with as many tasks as `ntasks`, 2 unless `request` says otherwise."""
    change(
        site,
        "INSERT INTO pyfi.scheduler (network_id, name, cluster) SELECT id, %s, %s FROM pyfi.network"
        " WHERE name = 'default' ON CONFLICT DO NOTHING",
        scheduler,
        CLUSTER,
    )
    made = Job(site, uuid.uuid4().hex, str(900_000_000 + uuid.uuid4().int % 1_000_000))
    request.setdefault("ntasks", 2)
    inserted = change(
        site,
        """INSERT INTO pyfi.job (network_id, scheduler_id, processor_id, token, request, workers, status, slurm_id)
           SELECT n.id, s.id, (SELECT p.id FROM pyfi.processor p WHERE p.name = %s), %s, %s, 1, 'WANTED', %s
           FROM pyfi.network n JOIN pyfi.scheduler s ON s.network_id = n.id WHERE s.name = %s""",
        processor,
        made.token,
        Json(ResourceRequest(**request).to_json()),
        made.slurm_id,
        scheduler,
    )
    assert inserted == 1
    for status in ("SUBMITTING", "RUNNING"):
        made.change(status=status)
    return made
