"""What a worker does to itself before it imports anything of the user's: tied to its agent, pinned to its cores."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Collection

_PR_SET_PDEATHSIG = 1
#: Descriptors of ours are at least this; user code that closes or writes to small numbers does not meet them.
_OURS = 100


def tie_to(parent: int) -> None:
    """Die with the agent, whose pid is `parent`, however it ends. Source: prctl(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # it may have ended before the line above
    if os.getppid() != parent:
        sys.exit("the agent is gone")


def pin(cores: Collection[int]) -> None:
    """Run on these cores only, and so will every thread and library that starts later; none: wherever the agent may.

    Raises:
        OSError: none of them is open to this process.
    """
    if cores:
        os.sched_setaffinity(0, cores)


def copied_high(descriptor: int) -> int:
    """A second descriptor of the same file, with a high number, that no child inherits."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _OURS)


def moved_high(descriptor: int) -> int:
    """The same file under a high number that no child inherits; the old number is closed."""
    high = copied_high(descriptor)
    os.close(descriptor)
    return high


def fill_low_numbers() -> None:
    """Afterwards files of libraries, which cannot be moved, get high numbers too.

    User code that closes every small number closes nothing that a library cannot do without.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    # where so many may not be open, as far as it goes
    with contextlib.suppress(OSError):
        while null < _OURS:
            null = os.dup(null)
        os.close(null)
