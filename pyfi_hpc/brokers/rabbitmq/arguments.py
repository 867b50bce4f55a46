"""Names and arguments of what we declare, every argument explicit (RELIABILITY 1.17)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pyfi_hpc.brokers.base import DELIVERY_LIMIT, TaskQueue
from pyfi_hpc.brokers.letters import DEAD_EXCHANGE
from pyfi_hpc.errors import BadInput

#: AMQP writes a name's length into one byte.
NAME_BYTES = 255

_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']*)' for (?P<what>queue|exchange) '(?P<name>[^']*)'.*?: "
    r"received (?P<asked>.*?) but current is (?P<found>.*)$",
    re.DOTALL,
)


def control_exchange(network: str) -> str:
    """The fanout exchange for hints to every agent of `network`."""
    return f"control.{network}"


def task_queue_arguments(queue: TaskQueue) -> dict[str, object]:
    """The arguments of a task's queue.

    Source: RabbitMQ, "Quorum Queues": at-least-once dead lettering needs `reject-publish`.
    """
    arguments: dict[str, object] = {
        "x-queue-type": queue.kind,
        "x-dead-letter-exchange": DEAD_EXCHANGE,
        "x-dead-letter-routing-key": queue.network,
        "x-overflow": "reject-publish",
    }
    if queue.kind == "quorum":
        # a classic queue has neither: it never gives up on a message, so it has no dead letters of its own
        arguments |= {"x-delivery-limit": DELIVERY_LIMIT, "x-dead-letter-strategy": "at-least-once"}
    if queue.single:
        arguments["x-single-active-consumer"] = True
    if queue.max_length is not None:
        arguments["x-max-length"] = queue.max_length
    return arguments


def dead_queue_arguments() -> dict[str, object]:
    """The arguments of a queue of dead letters: no limit of any kind."""
    return {"x-queue-type": "quorum"}


def checked_name(name: str) -> str:
    """`name`, if AMQP can carry it."""
    if not 0 < len(name.encode()) <= NAME_BYTES:
        raise BadInput.of("E_LIMIT", "queue", name, f"a name in the broker has 1 to {NAME_BYTES} bytes")
    return name


def mismatch(name: str, text: str) -> BadInput:
    """What the broker's refusal of a declaration (406 PRECONDITION_FAILED) says."""
    found = _INEQUIVALENT.search(text)
    facts: Mapping[str, str] = found.groupdict() if found else {}
    what = (
        f"{facts['what']} {facts['name']} stands with another {facts['argument']}: "
        f"asked for {facts['asked']}, found {facts['found']}"
        if facts
        else f"queue {name} stands with other arguments: {text}"
    )
    cure = "use the next generation of the queue; the old one is emptied and deleted after that"
    return BadInput.of("E_QUEUE_MISMATCH", facts.get("argument", "queue"), name, what, cure=cure)
