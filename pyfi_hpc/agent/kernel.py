"""What a process of ours asks of the kernel about itself. Source: prctl(2)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_SET_PDEATHSIG, _SET_DUMPABLE, _SET_CHILD_SUBREAPER = 1, 4, 36


def _prctl(option: int, value: int, name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), name)


def tie_to(parent: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Die with the process `parent`, which started this one, however it ends."""
    _prctl(_SET_PDEATHSIG, how, "PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        sys.exit(f"process {parent}, which started this one, is gone")


def keep_private() -> None:
    """Afterwards no other process of the same user can trace this one or read its memory and environment."""
    _prctl(_SET_DUMPABLE, 0, "PR_SET_DUMPABLE")


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _prctl(_SET_CHILD_SUBREAPER, 1, "PR_SET_CHILD_SUBREAPER")
