"""What a worker does to itself before it imports anything of the user's: tied to its agent, pinned to its cores."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterable

_PR_SET_PDEATHSIG = 1
_OURS = 100


def tie_to(parent: int) -> None:
    """Die with the agent, whose pid is `parent`, however it ends. Source: prctl(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit("the agent is gone")


def pin(cores: Iterable[int]) -> None:
    """Run on these cores only, and so will every thread and library that starts later."""
    wanted = set(cores)
    if wanted:
        os.sched_setaffinity(0, wanted)


def out_of_reach(descriptor: int) -> int:
    """The same file under a high number that no child inherits; the low one is closed.

    User code that closes or writes to small numbers by habit does not meet ours.
    """
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _OURS)
    os.close(descriptor)
    return moved
