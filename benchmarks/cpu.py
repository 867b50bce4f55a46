"""CPU time of whole process trees."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pyfi_hpc.processes import children

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_seconds(roots: Iterable[int]) -> float:
    """User and system time so far of these processes, all that they started, and all of those that have ended.

    Source: proc(5), fields 14 to 17 of `/proc/PID/stat`; ticks of 10 ms on most machines.
    """
    return sum(_ticks(pid) for pid in _trees(roots)) / _TICKS_PER_SECOND


def _trees(roots: Iterable[int]) -> set[int]:
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children(pid)
    return found


def _ticks(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    # the second field may hold spaces and parentheses; the rest starts with the third
    fields = stat.rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15])
