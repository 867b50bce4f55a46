"""Plugs: add, re-wire, delete, show."""

from __future__ import annotations

import datetime
import uuid

from pyfi_hpc.client.objects import cycles
from pyfi_hpc.client.objects.common import (
    Record,
    Tools,
    Which,
    claim,
    columns,
    event,
    find,
    refuse_taken,
)
from pyfi_hpc.db import tables
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.names import checked_choice, checked_name
from pyfi_hpc.model.status import PlugRoute

#: Two ways are both in use where results went both of them within so long.
_BOTH_WITHIN = datetime.timedelta(seconds=10)


def add(
    tools: Tools,
    *,
    name: str,
    queue: Which,
    processor: Which,
    source: Which | None = None,
    target: Which | None = None,
    key: str = "",
    route: str = PlugRoute.AUTO,
    id: uuid.UUID | None = None,
) -> Record:
    """Send the results of a processor (or its socket `source`) to the tasks of a queue (or to its socket `target`).

    `route`: `auto`, by a pipe between workers of one node where that can be; or `broker`, never so.
    """
    checked_name(name)
    refuse_taken(tools, tables.Plug, name, id)
    row = tables.Plug(network_id=tools.network.id, name=name, key=key, route=_route(route))
    if id is not None:
        row.id = id
    _connect(tools, row, processor, queue, source, target)
    tools.session.add(row)
    event(tools, "plug", row, "added")
    cycles.refuse(tools, "plug", row.name)
    return record(tools, row)


def _connect(
    tools: Tools, row: tables.Plug, processor: Which, queue: Which, source: Which | None, target: Which | None
) -> None:
    owner = find(tools, tables.Processor, processor)
    through = find(tools, tables.Queue, queue)
    first = find(tools, tables.Socket, source) if source is not None else None
    last = find(tools, tables.Socket, target) if target is not None else None
    if first is not None and first.processor_id != owner.id:
        raise BadInput.of("E_ARGUMENT", "source", first.name, f"socket {first.name} is not of processor {owner.name}")
    if last is not None and last.queue_id != through.id:
        raise BadInput.of("E_ARGUMENT", "target", last.name, f"socket {last.name} is not on queue {through.name}")
    row.processor_id, row.queue_id = owner.id, through.id
    row.source_id, row.target_id = (first.id if first else None), (last.id if last else None)


def update(
    tools: Tools,
    which: Which,
    *,
    generation: int | None = None,
    queue: Which | None = None,
    processor: Which | None = None,
    source: Which | None = None,
    target: Which | None = None,
    key: str | None = None,
    route: str | None = None,
) -> Record:
    """Re-wire a plug; results already committed keep the way that was chosen for them."""
    row = find(tools, tables.Plug, which)
    claim(tools, row, generation)
    moved, other = queue is not None, processor is not None
    _connect(
        tools,
        row,
        processor or row.processor_id,
        queue or row.queue_id,
        source or (None if other else row.source_id),
        target or (None if moved else row.target_id),
    )
    row.key = key if key is not None else row.key
    row.route = _route(route) if route is not None else row.route
    event(tools, "plug", row, "updated")
    cycles.refuse(tools, "plug", row.name)
    return record(tools, row)


def delete(tools: Tools, which: Which, *, generation: int | None = None, cascade: bool = False) -> None:
    """Delete a plug; nothing depends on one."""
    row = find(tools, tables.Plug, which)
    claim(tools, row, generation)
    event(tools, "plug", row, "deleted")
    tools.session.delete(row)


def record(tools: Tools, row: tables.Plug) -> Record:
    """A plug as it is shown."""
    tools.session.flush()
    tools.session.refresh(row)
    ends = [tools.session.get(tables.Socket, end) if end else None for end in (row.source_id, row.target_id)]
    shown = columns(row, leave_out=("network_id", "processor_id", "queue_id", "source_id", "target_id"))
    return {
        **shown,
        "processor": row.processor.name,
        "queue": row.queue.name,
        "source": ends[0].name if ends[0] else None,
        "target": ends[1].name if ends[1] else None,
        "way": way(row.piped_at, row.queued_at, row.far_at),
    }


def _route(route: str) -> str:
    checked_choice(route, [each.value for each in PlugRoute], "route")
    return str(route)


def way(
    piped: datetime.datetime | None, queued: datetime.datetime | None, far: datetime.datetime | None = None
) -> str | None:
    """How results went last, by the times of the last ones by pipe and by queue; None where none went.

    `far` is the time of the last one that went by pipe to another node: one of those that `piped` counts.
    """
    if piped is not None and queued is not None and abs(piped - queued) < _BOTH_WITHIN:
        return "mixed"
    if piped is not None and (queued is None or piped > queued):
        return "tcp pipe" if far is not None and piped - far < _BOTH_WITHIN else "pipe"
    return "queue" if queued is not None else None
