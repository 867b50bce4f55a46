"""What is connected to what: sockets with their queues, and the routes that results take. Reads only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pyfi_hpc.brokers.base import TaskQueue
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.model.names import is_fifo
from pyfi_hpc.model.status import QueueType
from pyfi_hpc.wire.messages import Route


@dataclass(frozen=True, slots=True)
class SocketInfo:
    """A socket as a client needs it to send a call."""

    id: bytes
    name: str
    owner: str
    processor: str
    commit: str
    task: str
    exchange: str
    key: str
    generation: int
    #: False while no broker has confirmed the queue
    declared: bool
    timeout_seconds: float | None
    #: parameters of the task at the pinned commit, None where they are not known
    signature: dict[str, Any] | None
    #: how many priorities its calls may have
    priorities: int = 3

    @property
    def ordered(self) -> bool:
        """Whether its calls run one at a time, in the order in which they were accepted."""
        return is_fifo(self.key)


def task_queue(
    network: str, queue: str, key: str, generation: int, max_length: int | None = None, kind: str = "quorum"
) -> TaskQueue:
    """The broker's queue for one task bound to one logical queue."""
    return TaskQueue(network, queue, key, generation, max_length, kind)


def task_queues(cursor: Cursor, network: str) -> tuple[TaskQueue, ...]:
    """Every queue of `network` that was ever declared."""
    cursor.execute(
        """SELECT q.name, t.task_key, t.generation, q.max_length, q.kind
           FROM pyfi.task_queue t JOIN pyfi.queue q ON q.id = t.queue_id JOIN pyfi.network n ON n.id = q.network_id
           WHERE n.name = %s AND t.declared IS NOT NULL""",
        (network,),
    )
    return tuple(task_queue(network, *row) for row in cursor.fetchall())


_SOCKETS = """
    SELECT uuid_send(s.id), s.name, s.owner, p.name, p.commit, s.task, q.name, s.task_key, coalesce(t.generation, 1),
        t.declared IS NOT NULL, coalesce(s.timeout_seconds, p.timeout_seconds), s.signature, s.priorities
    FROM pyfi.socket s JOIN pyfi.processor p ON p.id = s.processor_id JOIN pyfi.queue q ON q.id = s.queue_id
    JOIN pyfi.network n ON n.id = s.network_id
    LEFT JOIN pyfi.task_queue t ON t.queue_id = s.queue_id AND t.task_key = s.task_key
    WHERE n.name = %s AND p.status <> 'REMOVED'"""


def sockets(cursor: Cursor, network: str) -> list[SocketInfo]:
    """Every socket of `network`, by name."""
    cursor.execute(f"{_SOCKETS} ORDER BY s.name", (network,))
    return [_info(network, row) for row in cursor.fetchall()]


def socket(cursor: Cursor, network: str, name: str) -> SocketInfo | None:
    """The socket called `name`; else the only one of the task that `name` means, as `PROCESSOR.TASK`."""
    for named in ("s.name", "p.name || '.' || s.task"):
        cursor.execute(f"{_SOCKETS} AND {named} = %s LIMIT 2", (network, name))
        rows = cursor.fetchall()
        if len(rows) == 1:
            return _info(network, rows[0])
    return None


def _info(network: str, row: Any) -> SocketInfo:
    queue = task_queue(network, row[6], row[7], row[8])
    return SocketInfo(
        bytes(row[0]), row[1], row[2], row[3], row[4], row[5], queue.exchange, queue.key, queue.generation, row[9],
        row[10], row[11], row[12],
    )  # fmt: skip


def declared(cursor: Cursor, socket: bytes, key: str) -> bool:
    """Whether the broker has confirmed the queue by which calls of `socket` with that key go."""
    cursor.execute(
        "SELECT FROM pyfi.task_queue t JOIN pyfi.socket s ON s.queue_id = t.queue_id"
        " WHERE s.id = %s::uuid AND t.task_key = %s AND t.declared IS NOT NULL",
        (socket.hex(), key),
    )
    return cursor.fetchone() is not None


@dataclass(frozen=True, slots=True)
class _Plug:
    id: bytes
    processor: bytes
    source: bytes | None
    queue: bytes
    target: bytes | None
    key: str


@dataclass(frozen=True, slots=True)
class _End:
    """A socket as a plug's target."""

    id: bytes
    processor: bytes
    queue: bytes
    task_key: str
    binding: str
    type: QueueType
    task_queue: TaskQueue


def routes(cursor: Cursor, network: str) -> dict[bytes, tuple[Route, ...]]:
    """Socket id -> the routes of its results; sockets without plugs are left out.

    A plug to a socket is one route. A plug to a queue is one for each distinct task bound there (of a topic queue:
    bound by a pattern that its key fits), to the socket that was made first.
    """
    ends, plugs = _ends(cursor, network), _plugs(cursor, network)
    found: dict[bytes, list[Route]] = {}
    for plug in plugs:
        targets = [_route(plug, end) for end in _targets(plug, ends)]
        for end in ends:
            if end.processor == plug.processor and plug.source in (None, end.id):
                found.setdefault(end.id, []).extend(targets)
    return {identity: tuple(ways) for identity, ways in found.items() if ways}


def bound(cursor: Cursor, network: str, queue: str, key: str = "") -> dict[str, str] | None:
    """Whom a message to a logical queue reaches: socket -> task key, one socket for each distinct task, the first made.

    On a topic queue those bound by a pattern that `key` fits. None: there is no such queue.
    """
    cursor.execute(
        """SELECT q.type, s.name, s.task_key, s.binding
           FROM pyfi.queue q JOIN pyfi.network n ON n.id = q.network_id
           LEFT JOIN (pyfi.socket s JOIN pyfi.processor p ON p.id = s.processor_id AND p.status <> 'REMOVED')
               ON s.queue_id = q.id
           WHERE n.name = %s AND q.name = %s ORDER BY s.created, s.id""",
        (network, queue),
    )
    rows = cursor.fetchall()
    if not rows:
        return None
    first: dict[str, str] = {}
    for type_, name, task_key, binding in rows:
        if name is not None and (QueueType(type_) is not QueueType.TOPIC or matches(binding, key)):
            first.setdefault(task_key, name)
    return {name: task_key for task_key, name in first.items()}


def _plugs(cursor: Cursor, network: str) -> list[_Plug]:
    cursor.execute(
        """SELECT uuid_send(l.id), uuid_send(l.processor_id), uuid_send(l.source_id), uuid_send(l.queue_id),
               uuid_send(l.target_id), l.key
           FROM pyfi.plug l JOIN pyfi.network n ON n.id = l.network_id WHERE n.name = %s ORDER BY l.created, l.id""",
        (network,),
    )
    return [
        _Plug(bytes(row[0]), bytes(row[1]), _bytes(row[2]), bytes(row[3]), _bytes(row[4]), row[5])
        for row in cursor.fetchall()
    ]


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


def _ends(cursor: Cursor, network: str) -> list[_End]:
    cursor.execute(
        """SELECT uuid_send(s.id), uuid_send(s.processor_id), uuid_send(s.queue_id), s.task_key, s.binding, q.type,
               q.name, coalesce(t.generation, 1)
           FROM pyfi.socket s JOIN pyfi.queue q ON q.id = s.queue_id JOIN pyfi.processor p ON p.id = s.processor_id
           JOIN pyfi.network n ON n.id = s.network_id
           LEFT JOIN pyfi.task_queue t ON t.queue_id = s.queue_id AND t.task_key = s.task_key
           WHERE n.name = %s AND p.status <> 'REMOVED' ORDER BY s.created, s.id""",
        (network,),
    )
    return [
        _End(
            bytes(row[0]), bytes(row[1]), bytes(row[2]), row[3], row[4], QueueType(row[5]),
            task_queue(network, row[6], row[3], row[7]),
        )
        for row in cursor.fetchall()
    ]  # fmt: skip


def _targets(plug: _Plug, ends: Iterable[_End]) -> Iterable[_End]:
    if plug.target is not None:
        return [end for end in ends if end.id == plug.target]
    first: dict[str, _End] = {}
    for end in ends:
        if end.queue == plug.queue and (end.type is not QueueType.TOPIC or matches(end.binding, plug.key)):
            first.setdefault(end.task_key, end)
    return first.values()


def _route(plug: _Plug, end: _End) -> Route:
    queue = end.task_queue
    return Route(plug.id, plug.id + end.task_key.encode(), end.id, queue.generation, queue.exchange, queue.key)


def matches(pattern: str, key: str) -> bool:
    """Does a topic's binding pattern fit the key? `*` is one word, `#` any number.

    Source: AMQP 0-9-1, topic exchange.
    """
    words = re.sub(r"(?<![^.])#(\.#(?![^.]))+", "#", pattern).split(".")  # `#.#` is `#`
    parts = [{"*": r"[^.]+", "#": r".*"}.get(word, re.escape(word)) for word in words]
    expression = r"\.".join(parts).replace(r".*\.", r"(?:.*\.)?").replace(r"\..*", r"(?:\..*)?")
    return re.fullmatch(expression, key) is not None
