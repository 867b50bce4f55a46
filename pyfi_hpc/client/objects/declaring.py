"""The broker's queues, kept in step with the rows: declared when a task is bound, removed when none is."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from pyfi_hpc.brokers.base import Depth, TaskQueue
from pyfi_hpc.client.objects.common import Tools, in_use
from pyfi_hpc.db import tables
from pyfi_hpc.errors import BadInput, BrokerUnavailable


def bind(tools: Tools, queue: tables.Queue, task_key: str) -> None:
    """Have a durable queue for this task on this logical queue, declared at the broker if it can be reached."""
    row = {"queue_id": queue.id, "task_key": task_key}
    tools.session.execute(insert(tables.TaskQueue).values(row).on_conflict_do_nothing())
    tools.session.flush()
    declare(tools, queue, task_key)


def declare(tools: Tools, queue: tables.Queue, task_key: str) -> bool:
    """Declare the durable queue; False, with a note, when the broker is away: whoever needs it first tries again."""
    row = tools.session.get(tables.TaskQueue, (queue.id, task_key))
    assert row is not None
    if tools.broker is None:
        return False
    try:
        tools.broker.declare(name_of(tools, queue, row))
    except BrokerUnavailable as error:
        tools.notes.append(f"the queue is declared once the broker is back: {error.what}")
        return False
    row.declared = sa.func.now()
    return True


def name_of(tools: Tools, queue: tables.Queue, row: tables.TaskQueue) -> TaskQueue:
    """The broker's queue of a row."""
    return TaskQueue(tools.network.name, queue.name, row.task_key, row.generation, queue.max_length)


def queued(tools: Tools, queue: tables.Queue, task_key: str) -> int:
    """How many messages and held calls wait for this task on this queue."""
    row = tools.session.get(tables.TaskQueue, (queue.id, task_key))
    if row is None:
        return 0
    name = name_of(tools, queue, row)
    held = tools.session.scalar(
        sa.select(sa.func.count()).where(
            tables.Hold.exchange == name.exchange, tables.Hold.key == name.key, tables.Hold.state != "DEAD"
        )
    )
    depth = _depth(tools, name)
    return (held or 0) + depth.ready + (depth.unacked or 0)


def _depth(tools: Tools, name: TaskQueue) -> Depth:
    if tools.broker is None:
        return Depth(0, 0, 0)
    try:
        return tools.broker.depth(name.name)
    except BadInput:
        return Depth(0, 0, 0)


def unbind(tools: Tools, socket: tables.Socket) -> None:
    """The socket goes: with the last one for its task on its queue, the durable queue goes too, if it is empty."""
    others = tools.session.scalar(
        sa.select(sa.func.count()).where(
            tables.Socket.queue_id == socket.queue_id,
            tables.Socket.task_key == socket.task_key,
            tables.Socket.id != socket.id,
        )
    )
    if others:
        return
    waiting = queued(tools, socket.queue, socket.task_key)
    if waiting:
        cure = f"let it be worked off, or pyfi queue purge {socket.queue.name}"
        raise in_use("socket", socket.name, {"queued call": waiting}, cure)
    row = tools.session.get(tables.TaskQueue, (socket.queue_id, socket.task_key))
    if row is not None:
        if tools.broker is not None:
            tools.broker.delete(name_of(tools, socket.queue, row))
        tools.session.delete(row)


def forget_queue(tools: Tools, queue: tables.Queue) -> None:
    """No socket is left: what durable queues the logical queue still has go with it."""
    rows = tools.session.scalars(sa.select(tables.TaskQueue).where(tables.TaskQueue.queue_id == queue.id)).all()
    for row in rows:
        if tools.broker is not None:
            tools.broker.delete(name_of(tools, queue, row))
        tools.session.delete(row)
    tools.session.flush()
