"""The broker, and whether its queues stand as we declare them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from pyfi_hpc.brokers.base import Broker, TaskQueue
from pyfi_hpc.doctor.database import Database
from pyfi_hpc.doctor.findings import Finding, Mark, looked
from pyfi_hpc.errors import BadInput

#: A broker that wants its acks sooner makes leases of ordinary calls.
SHORT_ACK_SECONDS = 300.0


def look(broker: Broker, where: str, database: Database) -> Iterator[Finding]:
    """The broker itself; where it answers, its time limit and queues."""
    found = list(looked("broker", partial(_reached, broker, where)))
    yield from found
    if any(line.mark is Mark.BAD for line in found):
        return
    yield from _ack_timeout(broker)
    if database.fits:
        yield from looked("queues", partial(_queues, broker, database))


def _reached(broker: Broker, where: str) -> Iterator[Finding]:
    yield Finding(Mark.GOOD, "broker", f"{broker.check()} {where}")


def _ack_timeout(broker: Broker) -> Iterator[Finding]:
    limit = broker.ack_timeout_seconds
    if limit is None:
        return
    seen = f"taken to be {limit:g} s (AMQP does not tell): a call goes on under a lease after half of that"
    if limit < SHORT_ACK_SECONDS:
        cure = "raise consumer_timeout of RabbitMQ, then: pyfi config set broker.ack_timeout_seconds 1800"
        yield Finding(Mark.DOUBTFUL, "ack timeout", seen, cure)
    else:
        yield Finding(Mark.GOOD, "ack timeout", seen)


def _queues(broker: Broker, database: Database) -> Iterator[Finding]:
    rows = database.task_queues()
    unlike = [line for row in rows for line in looked("queue", partial(_queue, broker, row))]
    yield from unlike
    if len(unlike) < len(rows) or not rows:
        yield Finding(Mark.GOOD, "queues", f"{len(rows) - len(unlike)} of {len(rows)} stand as declared")


def _queue(broker: Broker, row: Any) -> Iterator[Finding]:
    """Declare the queue, which changes nothing where it stands as asked."""
    queue, declared = TaskQueue(*row[:6]), row[6]
    was_there = _exists(broker, queue)
    broker.declare(queue)
    if declared and not was_there:
        seen = f"{queue.name} was gone, with what was in it: it is declared again"
        yield Finding(Mark.DOUBTFUL, "queue", seen, "pyfi verify --accepted FILE tells what was lost")


def _exists(broker: Broker, queue: TaskQueue) -> bool:
    try:
        broker.depth(queue.name)
    except BadInput as error:
        if error.code != "E_NOT_FOUND":
            raise
        return False
    return True
