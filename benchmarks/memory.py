"""How much memory processes have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean


@dataclass(frozen=True)
class Memory:
    """In MiB: all that is resident, and what a process shares with no other."""

    resident_mib: float
    unique_mib: float


def memory_of(pid: int) -> Memory:
    """Of one process.

    Source: proc(5), `/proc/PID/smaps_rollup`; its lines are in kB.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return Memory(kib["Rss"] / 1024, (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024)


def mean_memory(pids: Sequence[int]) -> Memory:
    """The mean of several."""
    found = [memory_of(pid) for pid in pids]
    return Memory(mean(each.resident_mib for each in found), mean(each.unique_mib for each in found))
