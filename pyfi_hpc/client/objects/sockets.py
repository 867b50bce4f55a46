"""Sockets (outlets, by their old name): add, change, delete, show."""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from pyfi_hpc.client.objects import code, cycles, declaring
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
from pyfi_hpc.client.objects.ordering import check_time_limit
from pyfi_hpc.client.objects.ordering import checked as checked_ordering
from pyfi_hpc.db import tables
from pyfi_hpc.envs import tasks as modules
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.names import checked_name, task_key
from pyfi_hpc.model.ordering import Ordering


def add(
    tools: Tools,
    *,
    name: str,
    queue: Which,
    processor: Which,
    task: str | None = None,
    timeout_seconds: float | None = None,
    binding: str = "#",
    priorities: int | None = None,
    ordering: str = "none",
    id: uuid.UUID | None = None,
) -> Record:
    """Bind a task of a processor to a queue; without `task` the processor's own, or its module's only one.

    `priorities`: 1 calls have none, 2 some may be high, 3 some may be low as well. `ordering` fifo: calls run one at a
    time, in the order in which they were accepted; they need a time limit, and have no priorities.
    """
    checked_name(name)
    check_range("timeout_seconds", timeout_seconds, 0.001, 31_536_000)
    order, levels = checked_ordering(ordering, priorities)
    refuse_taken(tools, tables.Socket, name, id)
    owner = find(tools, tables.Processor, processor)
    through = find(tools, tables.Queue, queue)
    found = _task(tools, owner, task)
    row = tables.Socket(
        network_id=tools.network.id,
        name=name,
        processor_id=owner.id,
        queue_id=through.id,
        task=found.name,
        task_key=task_key(owner.repository, owner.module, found.name, fifo=order is Ordering.FIFO),
        binding=binding,
        timeout_seconds=timeout_seconds,
        signature=code.signature(found),
        source=found.source,
        priorities=levels,
        ordering=order.value,
    )
    check_time_limit(tools, row, owner)
    if id is not None:
        row.id = id
    tools.session.add(row)
    event(tools, "socket", row, "added")
    cycles.refuse(tools, "socket", name)
    declaring.bind(tools, through, row.task_key)
    return record(tools, row)


def _task(tools: Tools, processor: tables.Processor, task: str | None) -> modules.Task:
    tasks = tools.mirror.tasks(processor.repository, processor.commit, processor.module)
    wanted = task or processor.default_task
    if wanted is None:
        if len(tasks) == 1:
            return tasks[0]
        names = ", ".join(found.name for found in tasks) or "none"
        what = f"which task? module {processor.module} has: {names}"
        raise BadInput("E_MISSING", what, at="task", cure="-t TASK", field="task")
    try:
        return modules.find(tasks, wanted, processor.module)
    except BadInput as error:
        # a task written since is missing only at the commit that is pinned
        seen = (
            f"it is pinned at {processor.commit[:12]}: pyfi update processor {processor.name} -br BRANCH takes a newer"
        )
        error.cure = error.cure or seen
        raise


def update(
    tools: Tools,
    which: Which,
    *,
    generation: int | None = None,
    task: str | None = None,
    timeout_seconds: float | None = None,
    binding: str | None = None,
    priorities: int | None = None,
    ordering: str | None = None,
) -> Record:
    """Change a socket; calls that wait for its old task, or in its old order, must be worked off first.

    Calls of a priority that it is to have no more are worked off as those before.
    """
    row = find(tools, tables.Socket, which)
    claim(tools, row, generation)
    check_range("timeout_seconds", timeout_seconds, 0.001, 31_536_000)
    kept = row.priorities if ordering in (None, row.ordering) else None
    order, levels = checked_ordering(ordering or row.ordering, kept if priorities is None else priorities)
    found = _task(tools, row.processor, task) if task is not None and task != row.task else None
    name = found.name if found else row.task
    key = task_key(row.processor.repository, row.processor.module, name, fifo=order is Ordering.FIFO)
    if key != row.task_key:
        declaring.unbind(tools, row)
    if found is not None:
        row.task, row.source, row.signature = found.name, found.source, code.signature(found)
    row.timeout_seconds = timeout_seconds if timeout_seconds is not None else row.timeout_seconds
    row.binding = binding if binding is not None else row.binding
    row.priorities, row.ordering = levels, order.value
    check_time_limit(tools, row, row.processor)
    if key != row.task_key:
        row.task_key = key
        declaring.bind(tools, row.queue, row.task_key)
    event(tools, "socket", row, "updated")
    cycles.refuse(tools, "socket", row.name)
    return record(tools, row)


def delete(tools: Tools, which: Which, *, generation: int | None = None, cascade: bool = False) -> None:
    """Delete a socket that no plug names and for which nothing waits; `cascade` deletes those plugs too."""
    row = find(tools, tables.Socket, which)
    claim(tools, row, generation)
    named = sa.or_(tables.Plug.source_id == row.id, tables.Plug.target_id == row.id)
    plugs = tools.session.scalars(sa.select(tables.Plug).where(named)).all()
    if plugs and not cascade:
        raise in_use("socket", row.name, {"plug": len(plugs)}, f"pyfi delete plug {plugs[0].name}")
    for plug in plugs:
        tools.session.delete(plug)
    tools.session.flush()
    declaring.unbind(tools, row)
    event(tools, "socket", row, "deleted")
    tools.session.delete(row)


def record(tools: Tools, row: tables.Socket) -> Record:
    """A socket as it is shown."""
    tools.session.flush()
    tools.session.refresh(row)
    shown = columns(row, leave_out=("network_id", "processor_id", "queue_id"))
    return {**shown, "processor": row.processor.name, "queue": row.queue.name}
