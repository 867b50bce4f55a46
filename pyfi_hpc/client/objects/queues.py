"""Queues: add, change, delete, show."""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from pyfi_hpc.client.objects import declaring
from pyfi_hpc.client.objects.common import (
    Record,
    Tools,
    Which,
    check_generation,
    check_range,
    columns,
    event,
    find,
    in_use,
    refuse_taken,
)
from pyfi_hpc.db import tables
from pyfi_hpc.model.names import checked_choice, checked_name
from pyfi_hpc.model.status import QueueType


def add(
    tools: Tools, *, name: str, type: str = "direct", max_length: int | None = None, id: uuid.UUID | None = None
) -> Record:
    """Add a queue. Raises E_NAME, E_EXISTS, E_CHOICE, E_RANGE."""
    checked_name(name)
    checked_choice(type, [kind.value for kind in QueueType], "type")
    check_range("max_length", max_length, 1, 1_000_000_000)
    refuse_taken(tools, tables.Queue, name)
    row = tables.Queue(network_id=tools.network.id, name=name, type=QueueType(type), max_length=max_length)
    if id is not None:
        row.id = id
    tools.session.add(row)
    event(tools, "queue", row, "added")
    return record(tools, row)


def update(tools: Tools, which: Which, *, generation: int | None = None, max_length: int | None = None) -> Record:
    """Change a queue's limit; only while no task is bound, since the broker never changes a queue that stands."""
    row = find(tools, tables.Queue, which)
    check_generation(row, generation)
    check_range("max_length", max_length, 1, 1_000_000_000)
    sockets = _count(tools, tables.Socket, row)
    if sockets:
        raise in_use("queue", row.name, {"socket": sockets}, "delete its sockets first, or add another queue")
    row.max_length = max_length
    row.generation += 1
    event(tools, "queue", row, "updated", {"max_length": max_length})
    return record(tools, row)


def delete(tools: Tools, which: Which, *, generation: int | None = None, cascade: bool = False) -> None:
    """Delete a queue that no socket and no plug uses; `cascade` deletes those plugs too, never sockets."""
    row = find(tools, tables.Queue, which)
    check_generation(row, generation)
    sockets, plugs = _count(tools, tables.Socket, row), _count(tools, tables.Plug, row)
    if sockets or (plugs and not cascade):
        cure = f"pyfi ls sockets; pyfi delete socket … before queue {row.name}"
        raise in_use("queue", row.name, {"socket": sockets, "plug": plugs}, cure)
    tools.session.execute(sa.delete(tables.Plug).where(tables.Plug.queue_id == row.id))
    declaring.forget_queue(tools, row)
    event(tools, "queue", row, "deleted")
    tools.session.delete(row)


def _count(tools: Tools, table: type[tables.Socket] | type[tables.Plug], row: tables.Queue) -> int:
    return tools.session.scalar(sa.select(sa.func.count()).where(table.queue_id == row.id)) or 0


def record(tools: Tools, row: tables.Queue) -> Record:
    """A queue as it is shown."""
    tools.session.flush()
    tools.session.refresh(row)
    return columns(row, leave_out=("network_id",))
