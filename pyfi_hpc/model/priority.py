"""Priorities of calls: each has a durable queue of its own, and a share of the workers that depends on its weight."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.names import checked_choice


class Priority(StrEnum):
    """How soon a call is to be run, compared with others of its socket."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


#: While all of them wait, out of eleven turns high has eight, normal two, low one: none is ever left out.
WEIGHTS: Mapping[Priority, int] = {Priority.HIGH: 8, Priority.NORMAL: 2, Priority.LOW: 1}
#: So many a socket may have.
MOST = len(Priority)
#: Which priorities a socket of so many has.
OF: Mapping[int, frozenset[Priority]] = {
    1: frozenset({Priority.NORMAL}),
    2: frozenset({Priority.HIGH, Priority.NORMAL}),
    3: frozenset(Priority),
}


def level_key(task_key: str, priority: Priority) -> str:
    """What the queue of that priority is bound by: the task key, and a suffix but for the usual priority."""
    return task_key if priority is Priority.NORMAL else f"{task_key}.{priority}"


def keys(task_key: str) -> list[str]:
    """Every key that calls of that task may have been sent by."""
    return [level_key(task_key, priority) for priority in Priority]


def of_key(key: str) -> Priority:
    """The priority of calls that were sent by that key; a task key itself has no dot."""
    suffix = key.rpartition(".")[2]
    return Priority(suffix) if "." in key and suffix in set(Priority) else Priority.NORMAL


def checked(value: str, priorities: int, socket: str) -> Priority:
    """`value`, when calls of `socket`, which has so many priorities, may have it.

    Raises:
        BadInput: E_CHOICE.
    """
    found = Priority(checked_choice(value, list(Priority), "priority"))
    if found not in OF[priorities]:
        what = f"calls of socket {socket} have no priority {found}"
        cure = "a fifo socket has none" if priorities == 1 else None
        raise BadInput.of(
            "E_CHOICE", "priority", value, what, cure=cure or f"pyfi update socket {socket} --priorities 3"
        )
    return found
