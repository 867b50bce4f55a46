"""What a running task may know of itself."""

from __future__ import annotations

from contextvars import ContextVar

import msgspec

from pyfi_hpc.errors import BadInput
from pyfi_hpc.wire.ids import id_text
from pyfi_hpc.wire.messages import Call


class Invocation(msgspec.Struct, frozen=True):
    """The call that runs now. `(id, serial)` names this attempt, `id` alone the call through all its attempts: keys to
    make outside effects idempotent with."""

    id: str
    serial: int
    task: str
    socket: str


_running: ContextVar[tuple[Call, str, bytes] | None] = ContextVar("pyfi_invocation", default=None)

#: From here on this runs: a call, its task's name, its socket's id.
enter = _running.set


def current() -> Invocation:
    """The invocation that this code runs for; in a thread of the task's own, only with a copy of its context.

    Raises:
        BadInput: E_NOT_FOUND, called outside of a task.
    """
    running = _running.get()
    if running is None:
        raise BadInput("E_NOT_FOUND", "no task is running here", cure="call current() inside a task's function")
    call, task, socket = running
    return Invocation(id_text(call.id), call.serial, task, id_text(socket))
