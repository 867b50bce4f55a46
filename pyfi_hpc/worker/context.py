"""What a running task may know of itself."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from pyfi_hpc.errors import BadInput


@dataclass(frozen=True, slots=True)
class Invocation:
    """The call that runs now. `(id, serial)` names this attempt: a key to make outside effects idempotent with."""

    id: str
    serial: int
    task: str


_running: ContextVar[Invocation | None] = ContextVar("pyfi_invocation", default=None)


def current() -> Invocation:
    """The invocation that this code runs for.

    Raises:
        BadInput: E_NOT_FOUND, called outside of a task.
    """
    running = _running.get()
    if running is None:
        raise BadInput("E_NOT_FOUND", "no task is running here", cure="call current() inside a task's function")
    return running


def enter(invocation: Invocation) -> None:
    """From here on `invocation` runs."""
    _running.set(invocation)
