"""Nodes, and the agents, workers, devices and events that are only looked at."""

from __future__ import annotations

import uuid

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
from pyfi_hpc.model.status import NodeStatus, WorkerStatus


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
    tools.session.execute(sa.delete(tables.Device).where(tables.Device.node_id == row.id))
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


def drain(tools: Tools, which: Which) -> Record:
    """Want the node empty: its workers finish what they have and end, and no others start. Raises E_NODE."""
    return _wanted_empty(tools, which, True)


def resume(tools: Tools, which: Which) -> Record:
    """Let workers be started on the node again. Raises E_NODE."""
    return _wanted_empty(tools, which, False)


def serving(tools: Tools, name: str) -> tables.Node:
    """The node of that name or host, which has an agent and takes work. Raises E_NODE."""
    named = sa.or_(tables.Node.name == name, tables.Node.host == name)
    row = tools.session.scalar(sa.select(tables.Node).where(tables.Node.network_id == tools.network.id, named).limit(1))
    if row is None:
        raise BadInput.of("E_NODE", "node", name, f"no node {name!r}", cure="pyfi ls nodes")
    if row.drain_requested:
        raise BadInput.of("E_NODE", "node", name, f"node {row.name} drains", cure=f"pyfi node resume {row.name}")
    if row.status is NodeStatus.DOWN:
        raise BadInput.of("E_NODE", "node", name, f"no agent serves node {row.name}", cure="pyfi ls agents")
    return row


def _wanted_empty(tools: Tools, which: Which, wanted: bool) -> Record:
    row = _known(tools, which)
    claim(tools, row)
    row.drain_requested = wanted
    if row.status is not NodeStatus.DOWN:
        row.status = NodeStatus.DRAINING if wanted else NodeStatus.UP
    event(tools, "node", row, "asked to drain" if wanted else "asked to take work again")
    return record(tools, row)


def _known(tools: Tools, which: Which) -> tables.Node:
    try:
        return find(tools, tables.Node, which)
    except BadInput as error:
        raise BadInput.of("E_NODE", "node", str(which), error.what, cure=error.cure) from None


def record(tools: Tools, row: tables.Node) -> Record:
    """A node as it is shown, with its GPUs."""
    tools.session.flush()
    tools.session.refresh(row)
    left_out = ("id", "node", "cores")
    found = [{name: each[name] for name in each if name not in left_out} for each in devices(tools, row)]
    return _shown(row, _counts(tools, row)[row.id]) | {"devices": found}


def several(tools: Tools) -> list[Record]:
    """Every node, by name."""
    counts = _counts(tools)
    rows = sa.select(tables.Node).where(tables.Node.network_id == tools.network.id).order_by(tables.Node.name)
    return [_shown(row, counts[row.id]) for row in tools.session.scalars(rows)]


def _shown(row: tables.Node, counts: Record) -> Record:
    return columns(row, leave_out=("network_id", "scheduler_id")) | counts


def _counts(tools: Tools, node: tables.Node | None = None) -> dict[uuid.UUID, Record]:
    """Node -> its scheduler, and how many live agents, workers that take calls, and GPUs it has."""
    agent, worker, device = tables.Agent, tables.Worker, tables.Device
    agents = sa.select(sa.func.count()).where(agent.node_id == tables.Node.id, agent.ended.is_(None))
    workers = sa.select(sa.func.count()).where(worker.node_id == tables.Node.id, worker.status == WorkerStatus.READY)
    devices = sa.select(sa.func.count()).where(device.node_id == tables.Node.id)
    asked = (
        sa.select(
            tables.Node.id,
            tables.Scheduler.name.label("scheduler"),
            agents.scalar_subquery().label("agents"),
            workers.scalar_subquery().label("workers"),
            devices.scalar_subquery().label("gpus"),
        )
        .outerjoin(tables.Scheduler, tables.Scheduler.id == tables.Node.scheduler_id)
        .where(tables.Node.network_id == tools.network.id, tables.Node.id == node.id if node else sa.true())
    )
    found = tools.session.execute(asked).mappings()
    return {row["id"]: {name: row[name] for name in row if name != "id"} for row in found}


def devices(tools: Tools, node: tables.Node | None = None) -> list[Record]:
    """Every GPU and MIG instance, by node, or those of one; `processor`: whose worker has it."""
    device, worker = tables.Device, tables.Worker
    holder = (
        sa.select(tables.Processor.name)
        .join(worker, worker.processor_id == tables.Processor.id)
        .where(worker.node_id == device.node_id, device.uuid == sa.any_(worker.devices))
        .where(worker.status.not_in((WorkerStatus.EXITED, WorkerStatus.LOST)))
        .limit(1)
    )
    rows = tools.session.execute(
        sa.select(device, tables.Node.name, holder.scalar_subquery())
        .join(tables.Node, tables.Node.id == device.node_id)
        .where(tables.Node.network_id == tools.network.id, tables.Node.id == node.id if node else sa.true())
        .order_by(tables.Node.name, device.uuid)
    )
    left_out = ("node_id", "owner", "created", "updated", "generation")
    return [
        {"uuid": row.uuid, "node": name, "processor": processor, **columns(row, leave_out=left_out)}
        for row, name, processor in rows
    ]


def agents(tools: Tools) -> list[Record]:
    """Every incarnation of every agent, newest first; `slots`: how many, `job`: Slurm's id."""
    rows = tools.session.execute(
        sa.select(tables.Agent, tables.Job.slurm_id)
        .join(tables.Node)
        .outerjoin(tables.Job, tables.Job.id == tables.Agent.job_id)
        .where(tables.Node.network_id == tools.network.id)
        .order_by(tables.Agent.started.desc())
    )
    return [
        {
            **columns(row, leave_out=("node_id", "job_id")),
            "slots": None if row.slots is None else len(row.slots),
            "node": row.node.name,
            "job": job,
        }
        for row, job in rows
    ]


def workers(tools: Tools) -> list[Record]:
    """Every worker, newest first; `job`: Slurm's id of the job that it is in."""
    rows = tools.session.execute(
        sa.select(tables.Worker, tables.Processor.name, tables.Node.name, tables.Job.slurm_id)
        .join(tables.Processor, tables.Worker.processor_id == tables.Processor.id)
        .join(tables.Node, tables.Worker.node_id == tables.Node.id)
        .join(tables.Agent, tables.Worker.agent_id == tables.Agent.id)
        .outerjoin(tables.Job, tables.Job.id == tables.Agent.job_id)
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
