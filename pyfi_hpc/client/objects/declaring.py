"""The broker's queues, kept in step with the rows: declared when a task is bound, removed when none is."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from pyfi_hpc.brokers.base import TaskQueue
from pyfi_hpc.client.objects.common import Tools, in_use
from pyfi_hpc.db import tables
from pyfi_hpc.errors import BadInput, BrokerUnavailable
from pyfi_hpc.model import priority
from pyfi_hpc.model.status import HoldState


def bind(tools: Tools, queue: tables.Queue, task_key: str) -> None:
    """Have a durable queue for this task on this logical queue, declared at the broker if it can be reached."""
    ensure(tools, queue, task_key)


def ensure(tools: Tools, queue: tables.Queue, key: str) -> bool:
    """As `declare`, where there may be no row of the durable queue yet."""
    row = {"queue_id": queue.id, "task_key": key}
    tools.session.execute(insert(tables.TaskQueue).values(row).on_conflict_do_nothing())
    return declare(tools, queue, key)


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
    return TaskQueue(tools.network.name, queue.name, row.task_key, row.generation, queue.max_length, queue.kind)


def queued(tools: Tools, queue: tables.Queue, task_key: str) -> int:
    """How many messages and held calls there are for this task on this queue, waiting or in hands.

    Raises:
        BrokerUnavailable: nobody can tell.
    """
    return sum(_queued(tools, name_of(tools, queue, row), bool(row.declared)) for row in rows(tools, queue, task_key))


def rows(tools: Tools, queue: tables.Queue, task_key: str) -> list[tables.TaskQueue]:
    """The durable queues for this task on this logical queue, one for each priority that was ever used."""
    found = (tools.session.get(tables.TaskQueue, (queue.id, key)) for key in priority.keys(task_key))
    return [row for row in found if row is not None]


def _queued(tools: Tools, name: TaskQueue, declared: bool) -> int:
    # those that are OUT are the broker's, and counted there
    held = sa.select(sa.func.count()).where(
        tables.Hold.exchange == name.exchange,
        tables.Hold.key == name.key,
        tables.Hold.state.in_([HoldState.DUE, HoldState.LEASED]),
    )
    return (tools.session.scalar(held) or 0) + (_depth(tools, name) if declared else 0)


def _depth(tools: Tools, name: TaskQueue) -> int:
    if tools.broker is None:
        raise BrokerUnavailable("E_BROKER", f"the broker cannot be asked what waits in {name.name}", cure="pyfi doctor")
    try:
        depth = tools.broker.depth(name.name)
    except BadInput:
        return 0  # it has no such queue
    return depth.ready + (depth.unacked or 0)


def shared(tools: Tools, socket: tables.Socket) -> bool:
    """Whether another socket has the same task on the same queue: both take from one durable queue."""
    others = sa.select(sa.func.count()).where(
        tables.Socket.queue_id == socket.queue_id,
        tables.Socket.task_key == socket.task_key,
        tables.Socket.id != socket.id,
    )
    return bool(tools.session.scalar(others))


def unbind(tools: Tools, socket: tables.Socket) -> None:
    """The socket leaves its durable queue, which must be empty; with the last one the durable queue goes.

    Also where others share the queue: a call names its socket, and one whose socket is gone would run nowhere.

    Raises:
        BadInput: E_IN_USE, with how many calls there are.
    """
    waiting = queued(tools, socket.queue, socket.task_key)
    if waiting:
        cure = f"let it be worked off, or pyfi queue purge {socket.queue.name}"
        raise in_use("socket", socket.name, {"queued message": waiting}, cure)
    if not shared(tools, socket):
        drop(tools, socket.queue, socket.task_key)


def drop(tools: Tools, queue: tables.Queue, task_key: str) -> None:
    """The durable queues go once this is committed."""
    for row in rows(tools, queue, task_key):
        tools.gone.append(name_of(tools, queue, row))
        tools.session.delete(row)
        tools.session.flush()
