"""A desk for tests of schedulers: one network with its scheduler on a real database, and a Slurm."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extras import Json

from pyfi_hpc.brokers.base import Broker
from pyfi_hpc.client.link import Link
from pyfi_hpc.control.pilots import Patience
from pyfi_hpc.control.scheduler import Scheduler
from pyfi_hpc.db.jobs import Wanted
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.slurm.launcher import Launcher, Submission

SHAPE = ResourceRequest(ntasks=4)


def prepare(wanted: Wanted) -> tuple[Submission, str | None]:
    """A script that says what it is."""
    return Submission(wanted.token, f"#!/bin/sh\n# {wanted.token}\n", ("--comment", wanted.token)), "/tmp/%j.out"


def slots(request: ResourceRequest) -> int:
    """One a task."""
    return request.ntasks or 1


class Desk:
    """One network with scheduler `sched1`."""

    def __init__(self, uri: str, broker: Broker, launcher: Launcher, folder: Path, network: str = "") -> None:
        self.uri, self.broker, self.launcher, self.folder = uri, broker, launcher, folder
        self.network = network or f"n{uuid.uuid4().hex[:8]}"
        self.links: list[Link] = []
        self.prepare: Callable[[Wanted], tuple[Submission, str | None]] = prepare
        self.rows("INSERT INTO pyfi.network (name) VALUES (%s) ON CONFLICT DO NOTHING", self.network)
        ((self.network_id,),) = self.rows("SELECT id FROM pyfi.network WHERE name = %s", self.network)
        ((self.scheduler_id,),) = self.rows(
            "INSERT INTO pyfi.scheduler (network_id, name) VALUES (%s, 'sched1') RETURNING id", self.network_id
        )

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Do one statement; what it gives."""
        with closing(psycopg2.connect(self.uri)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def scheduler(self, **patience: float) -> Scheduler:
        """Another process that may lead."""
        link = Link(self.uri, "test", 10.0)
        self.links.append(link)
        return Scheduler(
            link, self.broker, self.launcher, lambda wanted: self.prepare(wanted), slots,
            network=self.network, name="sched1", folder=self.folder, patience=Patience(**patience),
        )  # fmt: skip

    def leading(self, **patience: float) -> Scheduler:
        """One that leads."""
        scheduler = self.scheduler(**patience)
        assert scheduler.leader.lead()
        return scheduler

    def processor(self, workers: int | None = None, shape: ResourceRequest | None = SHAPE) -> str:
        """A processor that a person asks to run; its id."""
        ((identity,),) = self.rows(
            "INSERT INTO pyfi.processor (network_id, name, repository, commit, module, workers, shape)"
            " VALUES (%s, 'p', 'file:///r', %s, 'm', %s, %s) RETURNING id",
            self.network_id, "a" * 40, workers, Json(shape.to_json()) if shape else None,
        )  # fmt: skip
        return str(identity)

    def want(self, processor: str | None = None, **columns: object) -> str:
        """A job on record; its token."""
        token = uuid.uuid4().hex
        given = {"token": token, "request": Json(SHAPE.to_json()), "workers": 4, "processor_id": processor, **columns}
        names, marks = ", ".join(given), ", ".join(["%s"] * len(given))
        self.rows(
            f"INSERT INTO pyfi.job (network_id, scheduler_id, {names}) VALUES (%s, %s, {marks})",
            self.network_id, self.scheduler_id, *given.values(),
        )  # fmt: skip
        return token

    def job(self, token: str, column: str) -> Any:
        """One column of the job's row."""
        ((value,),) = self.rows(f"SELECT {column} FROM pyfi.job WHERE token = %s", token)
        return value

    def jobs(self) -> list[tuple[str, str | None]]:
        """(status, Slurm's id) of every job on record, oldest first."""
        return [
            (status, job)
            for status, job in self.rows(
                "SELECT status, slurm_id FROM pyfi.job WHERE network_id = %s ORDER BY created, slurm_id",
                self.network_id,
            )
        ]

    def ours(self, column: str) -> Any:
        """One column of the scheduler's row."""
        ((value,),) = self.rows(f"SELECT {column} FROM pyfi.scheduler WHERE id = %s", self.scheduler_id)
        return value

    def lapse(self) -> None:
        """The leader's lease is over."""
        self.rows(
            "UPDATE pyfi.scheduler SET lease_until = now() - interval '1 second' WHERE id = %s", self.scheduler_id
        )

    def agent_in(self, token: str) -> str:
        """An agent in that job, with its lease; its id."""
        ((node,),) = self.rows(
            "INSERT INTO pyfi.node (network_id, name, host) VALUES (%s, %s, %s) RETURNING id",
            self.network_id, f"n{uuid.uuid4().hex[:6]}", uuid.uuid4().hex,
        )  # fmt: skip
        ((agent,),) = self.rows(
            "INSERT INTO pyfi.agent (node_id, pid, cores, version, lease_until, job_id)"
            " SELECT %s, 1, '{0}', '0', now() + interval '1 hour', id FROM pyfi.job WHERE token = %s RETURNING id",
            node, token,
        )  # fmt: skip
        return str(agent)

    def close(self) -> None:
        """End every session."""
        for link in self.links:
            link.close()
