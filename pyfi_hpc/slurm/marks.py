"""What a local job's folder holds, and how its files are written and read."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: what was asked for; the script; whose supervisor runs it; it is being ended; how it ended
JOB, SCRIPT, RUNNING, ENDING, ENDED = "job.json", "script", "running.json", "ending.json", "ended.json"
OUTPUT = "output"


def write(path: Path, content: Mapping[str, Any]) -> None:
    """`path` holds `content`, whole or not at all."""
    made = path.with_suffix(f".{os.getpid()}")
    with open(made, "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    made.rename(path)


def read(path: Path) -> dict[str, Any] | None:
    """What `write` wrote; None where there is no such file."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found


def numbers(jobs: Path) -> Iterator[int]:
    """The numbers of all jobs whose folders are below `jobs`."""
    with os.scandir(jobs) as entries:
        yield from [int(entry.name) for entry in entries if entry.name.isdecimal()]


def this_process() -> dict[str, Any]:
    """What tells this process from any other, also from one that gets its number later."""
    return {"pid": os.getpid(), "ticks": ticks(os.getpid()), "boot": boot(), "host": socket.gethostname()}


def boot() -> str:
    """The name of this run of the kernel. Source: random(4)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def ticks(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot; None when it is gone or a zombie.

    Source: proc(5), fields 3 and 22 of `/proc/PID/stat`; the second may hold spaces and parentheses.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def running(mark: Mapping[str, Any]) -> bool | None:
    """Whether the process that `this_process` described still runs; None where this machine cannot tell."""
    if mark["boot"] == boot():
        return bool(ticks(mark["pid"]) == mark["ticks"])
    # the same machine, started anew; or another one that shares the folder
    return False if mark["host"] == socket.gethostname() else None
