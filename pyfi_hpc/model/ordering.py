"""The order in which calls of a socket run."""

from __future__ import annotations

from enum import StrEnum


class Ordering(StrEnum):
    """What is promised of it."""

    NONE = "none"
    FIFO = "fifo"
