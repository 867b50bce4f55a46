"""Facts about other processes, and the end of one that we started."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether `pid` runs; a zombie is gone."""
    return _state(pid) not in ("", "Z", "X")


def zombie(pid: int) -> bool:
    """Whether `pid` has ended and its parent has not asked how."""
    return _state(pid) == "Z"


def dying(pid: int) -> bool:
    """Whether `pid` is there without a command line: on its way out (or a thread of the kernel)."""
    return alive(pid) and not arguments(pid)


def _state(pid: int) -> str:
    """The letter of `pid`'s state; empty when there is no such process.

    Source: proc(5), third field of `/proc/PID/stat`; the second may hold spaces and parentheses.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return stat.rpartition(")")[2].split()[0]


def stall(pid: int) -> None:
    """Stop `pid` where it stands: on return each of its threads has, so that nothing more is answered.

    Source: proc(5), state `T`; kill(2) returns before the threads have heard of it.
    """

    def stopped() -> bool:
        states = [path.read_text(errors="replace").rpartition(")")[2].split()[0] for path in threads()]
        return set(states) <= {"T"}

    def threads() -> list[Path]:
        return list(Path(f"/proc/{pid}/task").glob("*/stat"))

    os.kill(pid, signal.SIGSTOP)
    until(stopped, 10.0, interval=0.001)


def start_ticks(pid: int) -> int:
    """When `pid` started, in clock ticks since the machine did; 0 when it is gone.

    Source: proc(5), field 22 of `/proc/PID/stat`; the second may hold spaces and parentheses.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(")")[2].split()[19])


def fingerprint(pid: int) -> str:
    """What tells process `pid` from every other, on any machine, at any time; empty when it is gone.

    A number alone says little: it is used again, and it counts in a namespace of a machine.
    Source: proc(5), `/proc/sys/kernel/random/boot_id`; pid_namespaces(7).
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    ticks = start_ticks(pid)
    return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}:{pid}:{ticks}" if ticks else ""


def arguments(pid: int) -> list[str]:
    """The command line of `pid`; empty when it is gone."""
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that are its own children still; empty when it is gone."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            # a thread of it may end meanwhile
            with suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, file.read_text().split())
    return found


def until(true: Callable[[], bool], timeout: float, interval: float = 0.02) -> bool:
    """Ask `true` again and again for at most `timeout` seconds; its last answer."""
    deadline = time.monotonic() + timeout
    while not (answer := true()) and time.monotonic() < deadline:
        time.sleep(interval)
    return answer


def end(pid: int, how: signal.Signals = signal.SIGTERM, *, patience: float = 20.0) -> None:
    """Afterwards `pid` is gone: asked with `how`, killed after `patience` seconds."""
    for sign, seconds in ((how, patience), (signal.SIGKILL, 10.0)):
        with suppress(ProcessLookupError):
            os.kill(pid, sign)
        if until(lambda: not alive(pid), seconds):
            return
    raise TimeoutError(f"process {pid} is still there after SIGKILL")
