"""Queues: add, change, delete, show."""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from pyfi_hpc.client.objects import sockets
from pyfi_hpc.client.objects.common import (
    Record,
    Tools,
    Which,
    check_range,
    claim,
    columns,
    event,
    find,
    in_use,
    refuse_taken,
)
from pyfi_hpc.db import tables
from pyfi_hpc.model.names import checked_choice, checked_name
from pyfi_hpc.model.priority import Priority, of_key
from pyfi_hpc.model.status import QueueKind, QueueType


def add(
    tools: Tools,
    *,
    name: str,
    type: str = "direct",
    max_length: int | None = None,
    kind: str = "quorum",
    id: uuid.UUID | None = None,
) -> Record:
    """Add a queue. `kind` is how RabbitMQ keeps it. Raises E_NAME, E_EXISTS, E_CHOICE, E_RANGE."""
    checked_name(name)
    checked_choice(type, [each.value for each in QueueType], "type")
    checked_choice(kind, list(QueueKind), "kind")
    check_range("max_length", max_length, 1, 1_000_000_000)
    refuse_taken(tools, tables.Queue, name, id)
    row = tables.Queue(network_id=tools.network.id, name=name, type=QueueType(type), max_length=max_length, kind=kind)
    if id is not None:
        row.id = id
    tools.session.add(row)
    event(tools, "queue", row, "added")
    return record(tools, row)


def update(
    tools: Tools,
    which: Which,
    *,
    generation: int | None = None,
    max_length: int | None = None,
    kind: str | None = None,
) -> Record:
    """Change a queue's limit or kind; only while no task is bound: the broker never changes a queue that stands."""
    row = find(tools, tables.Queue, which)
    claim(tools, row, generation)
    check_range("max_length", max_length, 1, 1_000_000_000)
    bound = _count(tools, tables.Socket, row)
    if bound:
        raise in_use("queue", row.name, {"socket": bound}, "delete its sockets first, or add another queue")
    row.max_length = max_length if max_length is not None else row.max_length
    row.kind = checked_choice(kind, list(QueueKind), "kind") if kind is not None else row.kind
    event(tools, "queue", row, "updated", {"max_length": row.max_length, "kind": row.kind})
    return record(tools, row)


def delete(tools: Tools, which: Which, *, generation: int | None = None, cascade: bool = False) -> None:
    """Delete a queue that no socket and no plug uses, `cascade`: with them, where no call waits for one of them."""
    row = find(tools, tables.Queue, which)
    claim(tools, row, generation)
    counts = {"socket": _count(tools, tables.Socket, row), "plug": _count(tools, tables.Plug, row)}
    if any(counts.values()) and not cascade:
        raise in_use("queue", row.name, counts, f"pyfi delete queue {row.name} --cascade")
    tools.session.execute(sa.delete(tables.Plug).where(tables.Plug.queue_id == row.id))
    for socket in tools.session.scalars(sa.select(tables.Socket).where(tables.Socket.queue_id == row.id)).all():
        sockets.delete(tools, socket.id, cascade=True)
        tools.session.flush()
    event(tools, "queue", row, "deleted")
    tools.session.delete(row)


def _count(tools: Tools, table: type[tables.Socket] | type[tables.Plug], row: tables.Queue) -> int:
    return tools.session.scalar(sa.select(sa.func.count()).where(table.queue_id == row.id)) or 0


def record(tools: Tools, row: tables.Queue) -> Record:
    """A queue as it is shown."""
    tools.session.flush()
    tools.session.refresh(row)
    return {**columns(row, leave_out=("network_id",)), "priorities": _priorities(tools, row)}


def _priorities(tools: Tools, row: tables.Queue) -> list[str]:
    """The priorities that have a durable queue, in their order."""
    keys = tools.session.scalars(sa.select(tables.TaskQueue.task_key).where(tables.TaskQueue.queue_id == row.id)).all()
    found = {of_key(key) for key in keys}
    return [each.value for each in Priority if each in found]
