"""Schedulers, and which nodes are theirs."""

from __future__ import annotations

import datetime
import uuid

import sqlalchemy as sa

from pyfi_hpc.client.objects import nodes
from pyfi_hpc.client.objects.common import (
    Record,
    Tools,
    Which,
    claim,
    columns,
    event,
    find,
    in_use,
    refuse_taken,
)
from pyfi_hpc.db import tables
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.names import checked_name
from pyfi_hpc.model.status import JobStatus


def add(tools: Tools, *, name: str, id: uuid.UUID | None = None) -> Record:
    """Add a scheduler; `pyfi scheduler start` serves it."""
    checked_name(name)
    refuse_taken(tools, tables.Scheduler, name, id)
    row = tables.Scheduler(network_id=tools.network.id, name=name)
    if id is not None:
        row.id = id
    tools.session.add(row)
    event(tools, "scheduler", row, "added")
    return record(tools, row)


def delete(tools: Tools, which: Which, *, generation: int | None = None, cascade: bool = False) -> None:
    """Delete a scheduler without live jobs and nodes, `cascade`: whose nodes are then nobody's. Its jobs' rows go."""
    row = find(tools, tables.Scheduler, which)
    claim(tools, row, generation)
    counts = {"live job": _live(tools, row)}
    if not cascade:
        counts |= {"node": len(_nodes(tools, row))}
    if any(counts.values()):
        cure = "pyfi ls jobs; pyfi cancel JOB" if counts["live job"] else f"pyfi delete scheduler {row.name} --cascade"
        raise in_use("scheduler", row.name, counts, cure)
    for node in _nodes(tools, row):
        node.scheduler_id = None
    ours = sa.select(tables.Job.id).where(tables.Job.scheduler_id == row.id)
    tools.session.execute(sa.update(tables.Agent).where(tables.Agent.job_id.in_(ours)).values(job_id=None))
    tools.session.execute(sa.delete(tables.Job).where(tables.Job.scheduler_id == row.id))
    event(tools, "scheduler", row, "deleted")
    tools.session.delete(row)


def add_node(tools: Tools, which: Which, node: Which) -> Record:
    """The node is this scheduler's. Raises E_IN_USE where it is another's, with that one's name."""
    row, host = find(tools, tables.Scheduler, which), find(tools, tables.Node, node)
    claim(tools, host)
    if host.scheduler_id not in (None, row.id):
        other = tools.session.get(tables.Scheduler, host.scheduler_id)
        assert other is not None
        what = f"node {host.name} is under scheduler {other.name}"
        cure = f"pyfi scheduler -n {other.name} remove --node {host.name}"
        raise BadInput("E_IN_USE", what, at=f"node {host.name}", cure=cure, field="node", scheduler=other.name)
    host.scheduler_id = row.id
    event(tools, "scheduler", row, f"node {host.name} added")
    return nodes.record(tools, host)


def remove_node(tools: Tools, which: Which, node: Which) -> Record:
    """The node is nobody's. Raises E_NODE where it is not this scheduler's."""
    row, host = find(tools, tables.Scheduler, which), find(tools, tables.Node, node)
    claim(tools, host)
    if host.scheduler_id != row.id:
        what = f"node {host.name} is not under scheduler {row.name}"
        raise BadInput.of("E_NODE", "node", host.name, what, cure=f"pyfi show scheduler {row.name}")
    host.scheduler_id = None
    event(tools, "scheduler", row, f"node {host.name} removed")
    return nodes.record(tools, host)


def _nodes(tools: Tools, row: tables.Scheduler) -> list[tables.Node]:
    mine = sa.select(tables.Node).where(tables.Node.scheduler_id == row.id).order_by(tables.Node.name)
    return list(tools.session.scalars(mine))


def _live(tools: Tools, row: tables.Scheduler) -> int:
    live = sa.and_(tables.Job.scheduler_id == row.id, tables.Job.status != JobStatus.ENDED)
    return tools.session.scalar(sa.select(sa.func.count()).where(live)) or 0


def record(tools: Tools, row: tables.Scheduler) -> Record:
    """A scheduler as it is shown: `leader` is the process that leads now, None where none does."""
    tools.session.flush()
    tools.session.refresh(row)
    now: datetime.datetime = tools.session.scalar(sa.select(sa.func.clock_timestamp())) or row.updated
    led = row.lease_until is not None and row.lease_until >= now
    shown = columns(row, leave_out=("network_id", "holder"))
    return {
        **shown,
        "leader": row.holder if led else None,
        "live_jobs": _live(tools, row),
        "nodes": [node.name for node in _nodes(tools, row)],
    }
