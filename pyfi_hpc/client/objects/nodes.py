"""Nodes, and the agents, workers and events that are only looked at."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import sqlalchemy as sa

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


def add(tools: Tools, *, name: str, host: str, id: uuid.UUID | None = None) -> Record:
    """Name a host before its agent has reported it."""
    checked_name(name)
    checked_name(host, "host")
    refuse_taken(tools, tables.Node, name, id)
    row = tables.Node(network_id=tools.network.id, name=name, host=host)
    if id is not None:
        row.id = id
    tools.session.add(row)
    event(tools, "node", row, "added")
    return record(tools, row)


def update(tools: Tools, which: Which, *, generation: int | None = None, host: str | None = None) -> Record:
    """Change a node's host name."""
    row = find(tools, tables.Node, which)
    claim(tools, row, generation)
    if host is not None:
        row.host = checked_name(host, "host")
    event(tools, "node", row, "updated")
    return record(tools, row)


def delete(tools: Tools, which: Which, *, generation: int | None = None, cascade: bool = False) -> None:
    """Delete a node that no agent serves; its history goes with it."""
    row = find(tools, tables.Node, which)
    claim(tools, row, generation)
    live = tools.session.scalar(
        sa.select(sa.func.count()).where(tables.Agent.node_id == row.id, tables.Agent.ended.is_(None))
    )
    if live:
        raise in_use("node", row.name, {"agent": live}, f"stop its agent first: pyfi agent stop {row.name}")
    tools.session.execute(sa.delete(tables.Worker).where(tables.Worker.node_id == row.id))
    tools.session.execute(sa.delete(tables.Agent).where(tables.Agent.node_id == row.id))
    event(tools, "node", row, "deleted")
    tools.session.delete(row)


def stop_agent(tools: Tools, which: Which) -> Record:
    """Ask the node's agent to drain and end. Raises E_NODE when it has none."""
    row = find(tools, tables.Node, which)
    live = sa.and_(tables.Agent.node_id == row.id, tables.Agent.ended.is_(None))
    asked = tools.session.execute(sa.update(tables.Agent).where(live).values(stop_requested=True))
    if not asked.rowcount:  # type: ignore[attr-defined]
        raise BadInput.of("E_NODE", "node", row.name, f"no agent serves node {row.name}", cure="pyfi ls agents")
    event(tools, "node", row, "its agent is asked to stop")
    return record(tools, row)


def record(tools: Tools, row: tables.Node) -> Record:
    """A node as it is shown."""
    tools.session.flush()
    tools.session.refresh(row)
    return columns(row, leave_out=("network_id",))


def agents(tools: Tools) -> list[Record]:
    """Every incarnation of every agent, newest first."""
    rows: Sequence[tables.Agent] = tools.session.scalars(
        sa.select(tables.Agent)
        .join(tables.Node)
        .where(tables.Node.network_id == tools.network.id)
        .order_by(tables.Agent.started.desc())
    ).all()
    return [{**columns(row, leave_out=("node_id",)), "node": row.node.name} for row in rows]


def workers(tools: Tools) -> list[Record]:
    """Every worker, newest first."""
    rows = tools.session.execute(
        sa.select(tables.Worker, tables.Processor.name, tables.Node.name, tables.Job.slurm_id)
        .join(tables.Processor, tables.Worker.processor_id == tables.Processor.id)
        .join(tables.Node, tables.Worker.node_id == tables.Node.id)
        .join(tables.Agent, tables.Worker.agent_id == tables.Agent.id)
        .outerjoin(tables.Job, tables.Agent.job_id == tables.Job.id)
        .where(tables.Node.network_id == tools.network.id)
        .order_by(tables.Worker.created.desc())
    )
    left_out = ("processor_id", "node_id", "agent_id")
    return [
        {**columns(row, leave_out=left_out), "processor": processor, "node": node, "job": job}
        for row, processor, node, job in rows
    ]


def events(tools: Tools, limit: int = 1000) -> list[Record]:
    """What changed, newest first."""
    rows = tools.session.scalars(sa.select(tables.Event).order_by(tables.Event.id.desc()).limit(limit)).all()
    return [{**columns(row, leave_out=("object_id", "owner")), "object": str(row.object_id or ""), "actor": row.owner}
            for row in rows]  # fmt: skip
