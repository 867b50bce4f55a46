"""Queues as rows: made, looked at, emptied and removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyfi_hpc.brokers.base import Depth, Peeked, TaskQueue, dead_queue
from pyfi_hpc.brokers.letters import DEAD_EXCHANGE
from pyfi_hpc.brokers.postgres import sql
from pyfi_hpc.brokers.refusals import mismatch
from pyfi_hpc.errors import BadInput


def declare(cursor: Any, queue: TaskQueue) -> None:
    """The queue stands as asked, and so do the dead letters of its network."""
    ensure_dead_of(cursor, dead_queue(queue.network))
    names = {"network": queue.network, "exchange": queue.exchange, "key": queue.key}
    numbers = {"generation": queue.generation, "max_length": queue.max_length, "single": queue.single}
    cursor.execute(sql.DECLARE, {"name": queue.name, **names, **numbers})
    cursor.execute(sql.STANDS, {"name": queue.name})
    stands = found(cursor, queue.name)[0]
    if stands != queue.max_length:
        raise mismatch(queue.name, queue.max_length, stands)


def ensure_dead_of(cursor: Any, name: str) -> None:
    """When `name` is a queue of dead letters, it exists."""
    if name.startswith(prefix := dead_queue("")):
        network = name.removeprefix(prefix)
        names = {"name": name, "network": network, "exchange": DEAD_EXCHANGE, "key": network}
        cursor.execute(sql.DECLARE, {**names, "generation": 1, "max_length": None, "single": False})


def delete(cursor: Any, queue: TaskQueue) -> None:
    """The queue is gone, and then its messages."""
    cursor.execute(sql.DELETE_QUEUE, {"name": queue.name})
    gone = cursor.fetchall()
    cursor.execute("COMMIT")
    for (identity,) in gone:
        cursor.execute(sql.DELETE_MESSAGES, {"id": identity})


def depth(cursor: Any, queue: str) -> Depth:
    """What it holds."""
    cursor.execute(sql.DEPTH, {"name": queue})
    return Depth(*found(cursor, queue))


def peek(cursor: Any, queue: str, count: int) -> list[Peeked]:
    """Its first messages."""
    cursor.execute(sql.PEEK, {"name": queue, "count": count})
    return [Peeked(bytes(body), redelivered, headers) for body, redelivered, headers in cursor.fetchall()]


def purge(cursor: Any, queue: str, taken: Callable[[bytes], None]) -> int:
    """Everything that was ready when it began, a hundred a transaction."""
    cursor.execute(sql.LAST, {"name": queue})
    last, identity = found(cursor, queue)
    total = 0
    while rows := _batch(cursor, identity, last):
        for _, body in rows:
            taken(bytes(body))
        cursor.execute(sql.TAKEN + "; COMMIT", {"seqs": [seq for seq, _ in rows]})
        total += len(rows)
    cursor.execute("COMMIT")
    return total


def _batch(cursor: Any, identity: int, last: int) -> list[Any]:
    cursor.execute(sql.TAKE, {"id": identity, "last": last})
    return list(cursor.fetchall())


def found(cursor: Any, queue: str) -> Any:
    """The row that was asked for; raises BadInput E_NOT_FOUND when there is none."""
    if (row := cursor.fetchone()) is None:
        raise BadInput.of("E_NOT_FOUND", "queue", queue)
    return row
