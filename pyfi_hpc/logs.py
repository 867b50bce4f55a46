"""Loggers of structlog, which is loaded when something is first logged: it takes as long as all else that we load.

`log = logger()` stands at the top of a module as `structlog.get_logger()` does elsewhere, and is used the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

#: How structlog is to be set up, as soon as it is loaded.
_pending: list[Callable[[], None]] = []


def set_up(how: Callable[[], None]) -> None:
    """Have `how` configure structlog before anything else is logged."""
    if how not in _pending:
        _pending.append(how)


class _Logger:
    """What `structlog.get_logger` gives, asked for anew each time: a test's capture sees what was made before it."""

    __slots__ = ("_name",)

    def __init__(self, name: tuple[str, ...]) -> None:
        self._name = name

    def __getattr__(self, level: str) -> Any:
        if level.startswith("__"):
            raise AttributeError(level)
        import structlog

        while _pending:
            _pending.pop(0)()
        return partial(_said, getattr(structlog.get_logger(*self._name), level))


def _said(say: Callable[..., object], *what: object, **facts: object) -> None:
    # a log that cannot be written (no space, closed, no reader) must not end the thread that has something to say
    with suppress(OSError, ValueError):
        say(*what, **facts)


def logger(*name: str) -> Any:
    """A logger, of that name where there is one."""
    return _Logger(name)
