"""Loggers of structlog, which is loaded when something is first logged: it takes as long as all else that we load.

`log = logger()` stands at the top of a module as `structlog.get_logger()` does elsewhere, and is used the same way.
"""

from __future__ import annotations

import sys
import traceback
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
        log = structlog.get_logger(*self._name)
        if level == "exception":
            return partial(_said, log.error, exc_info=True)
        return partial(_said, getattr(log, level))


def _said(say: Callable[..., object], *what: object, exc_info: object = None, **facts: object) -> None:
    if exc_info and (trace := _trace(exc_info)):
        facts["exception"] = trace
    # a log that cannot be written (no space, closed, no reader) must not end the thread that has something to say
    with suppress(OSError, ValueError):
        say(*what, **facts)


def _trace(given: object) -> str:
    """The traceback as text. Some renderers, structlog's own among them where `rich` is installed, make one of what
    structlog is given otherwise, and show the local variables of each frame: passwords, and users' data."""
    error = given if isinstance(given, BaseException) else given[1] if isinstance(given, tuple) else sys.exc_info()[1]
    return "" if error is None else "".join(traceback.format_exception(error)).rstrip()


def logger(*name: str) -> Any:
    """A logger, of that name where there is one."""
    return _Logger(name)
