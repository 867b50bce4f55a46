"""What several tests share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T], *, timeout: float = 10.0, interval: float = 0.02) -> T:
    """The first true value of `look`; fails with its last value once `timeout` seconds are over.

    An AssertionError in `look` counts as not yet.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            last: T | AssertionError = look()
        except AssertionError as error:
            last = error
        if last and not isinstance(last, AssertionError):
            return last
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout} s; last seen: {last!r}")
        time.sleep(interval)
