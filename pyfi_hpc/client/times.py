"""When a call may start and how long it may take, as callers say it; no I/O."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable

from pyfi_hpc.errors import BadInput

YEAR_SECONDS = 366 * 86_400.0
#: The year 2000. No call is that old: who gives an earlier time means something else.
_CENTURY = 946_684_800.0
_FROM_NOW = "deadline=time.time() + 5 is five seconds from now; a datetime will do as well"


def delay_of(delay: float | None, at: datetime.datetime | None, deadline: float | None) -> float:
    """Seconds until a call may start, by its `delay` in seconds or `at` a time (of this machine, where it names no
    zone); 0 where neither is given, or it is past.

    Raises:
        BadInput: E_ARGUMENT, both; E_RANGE, no such number or time, or `deadline` (UTC seconds) comes before it.
    """
    if delay is not None and at is not None:
        raise BadInput.of("E_ARGUMENT", "at", at, "a call has a delay or a time at which it starts, not both")
    seconds = _until(at) if at is not None else 0.0 if delay is None else _checked("delay", delay)
    if seconds > YEAR_SECONDS:
        field, value = ("delay", delay) if at is None else ("at", at)
        raise BadInput.of("E_RANGE", field, value, "no call waits for more than a year")
    if seconds and deadline is not None and deadline <= time.time() + seconds:
        what = "the deadline comes before the call may start, so it could never run"
        raise BadInput.of("E_RANGE", "deadline", deadline, what)
    return seconds


def timeout_of(timeout: float | None) -> float | None:
    """The seconds that each attempt may run.

    Raises:
        BadInput: E_RANGE.
    """
    return None if timeout is None else _checked("timeout", timeout, least=0.001, most=YEAR_SECONDS)


def deadline_of(deadline: float | datetime.datetime | None) -> float | None:
    """UTC seconds since 1970 after which a call need not start.

    Raises:
        BadInput: E_RANGE.
    """
    if deadline is None:
        return None
    seconds = deadline.timestamp() if isinstance(deadline, datetime.datetime) else deadline
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise BadInput.of("E_RANGE", "deadline", deadline, "a time is wanted", cure=_FROM_NOW)
    if seconds < _CENTURY:
        what = "a deadline is a time, and this one was in the past century; it is no number of seconds from now"
        raise BadInput.of("E_RANGE", "deadline", deadline, what, cure=_FROM_NOW)
    return float(seconds)


def countdown(seconds: float | None) -> Callable[[], float | None]:
    """What tells how many of so many seconds from now are left; None of None, for ever."""
    if seconds is None:
        return lambda: None
    until = time.monotonic() + seconds
    return lambda: max(0.0, until - time.monotonic())


def _until(at: datetime.datetime) -> float:
    if not isinstance(at, datetime.datetime):
        raise BadInput.of("E_RANGE", "at", at, "a datetime is wanted")
    return max(0.0, at.timestamp() - time.time())


def _checked(field: str, given: object, least: float = 0.0, most: float = math.inf) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise BadInput.of("E_RANGE", field, given, "a number of seconds is wanted")
    if not least <= given <= most:
        limit = f"at least {least:.15g}" if given < least else f"at most {most:.15g}"
        raise BadInput.of("E_RANGE", field, given, f"{limit} seconds")
    return float(given)
