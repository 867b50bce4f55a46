"""Taking calls off queues that go: each is CANCELLED on record before it is gone from the broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from pyfi_hpc.brokers.base import Broker, TaskQueue
from pyfi_hpc.db import record
from pyfi_hpc.db.record import Cursor, NewOutcome
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.status import Cause, OutcomeStatus
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.messages import ErrorRecord, Message

if TYPE_CHECKING:
    from sqlalchemy import Engine

#: How long what is in an agent's hands is waited for, and how long for agents to leave a queue that goes.
PATIENCE_SECONDS, LEAVING_SECONDS = 30.0, 10.0
_LOOK_SECONDS = 0.1


def cancel(cursor: Cursor, network: str, body: bytes, why: str) -> int:
    """Decide every call of a message that is about to go; one that cannot be read is kept in quarantine."""
    try:
        message = messages.decode_message(body)
    except BadInput as error:
        cursor.execute(
            "INSERT INTO pyfi.quarantine (network, reason, detail, body) VALUES (%s, %s, %s, %s)",
            (network, error.code, f"{why}: {error.what}", body),
        )
        return 0
    record.insert_outcomes(cursor, _cancelled(message, why))
    record.drop_holds(cursor, [(message.owner, call.id) for call in message.calls])
    return len(message.calls)


def _cancelled(message: Message, why: str) -> Iterable[NewOutcome]:
    error = messages.encode(ErrorRecord("pyfi_hpc.errors.Cancelled", why, "", "E_CANCELLED", Cause.RETURNED))
    return [
        NewOutcome(
            message.owner, call.id, OutcomeStatus.CANCELLED, None, error, call.digest, message.socket, call.serial
        )
        for call in message.calls
    ]


def purge(engine: Engine, broker: Broker, queue: TaskQueue, why: str) -> int:
    """Cancel every ready call of the broker's queue; returns how many. Each commit comes before its message goes."""
    count = 0

    def taken(body: bytes) -> None:
        nonlocal count
        with engine.begin() as connection:
            count += cancel(connection.connection.cursor(), queue.network, body, why)

    try:
        broker.purge(queue.name, taken)
    except BadInput as error:
        if error.code != "E_NOT_FOUND":
            raise
    return count


def cancel_held(cursor: Cursor, queue: TaskQueue, why: str) -> int:
    """Cancel every call for the queue that waits in a hold row or runs under a lease; returns how many."""
    cursor.execute(
        "SELECT payload FROM pyfi.hold WHERE exchange = %s AND key = %s AND state <> 'DEAD'"
        " ORDER BY owner, id FOR UPDATE",
        (queue.exchange, queue.key),
    )
    return sum(cancel(cursor, queue.network, bytes(payload), why) for (payload,) in cursor.fetchall())


def empty(engine: Engine, broker: Broker, queue: TaskQueue, why: str) -> int:
    """Cancel what waits for the queue, held calls too, until nobody has any of it in hands or patience is over."""

    def held() -> int:
        with engine.begin() as connection:
            return cancel_held(connection.connection.cursor(), queue, why)

    return _until_quiet(broker, queue, lambda: held() + purge(engine, broker, queue, why), PATIENCE_SECONDS)


def close(engine: Engine, broker: Broker, queue: TaskQueue, why: str) -> None:
    """Delete the broker's queue, whose row is gone; what clients sent there meanwhile is cancelled."""
    _until_quiet(broker, queue, lambda: purge(engine, broker, queue, why), LEAVING_SECONDS)
    broker.delete(queue)


def _until_quiet(broker: Broker, queue: TaskQueue, take: Callable[[], int], patience: float) -> int:
    end, count = time.monotonic() + patience, take()
    while _busy(broker, queue) and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
        count += take()
    return count


def _busy(broker: Broker, queue: TaskQueue) -> bool:
    try:
        depth = broker.depth(queue.name)
    except BadInput:
        return False
    # where the broker does not tell what is in hands, whoever consumes may have something
    return bool(depth.ready or (depth.consumers if depth.unacked is None else depth.unacked))
