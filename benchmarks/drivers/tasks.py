"""What every system runs: the same file for each peer and in pyfi-hpc's repository. Standard library only."""

import os
import time


def double(x):  # type: ignore[no-untyped-def]
    """Twice x, a number or an array."""
    return x * 2


def total(*values):  # type: ignore[no-untyped-def]
    """Their sum."""
    return sum(values)


def where(seconds):  # type: ignore[no-untyped-def]
    """The worker's process, after a while."""
    time.sleep(seconds)
    return os.getpid()
