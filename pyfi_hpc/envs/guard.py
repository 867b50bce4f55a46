"""Run one command so that nothing of it outlives its end, its time limit or whoever asked for it.

Run as a script by `pyfi_hpc.envs.build`, with the standard library alone: `guard.py SECONDS COMMAND…`. Its standard
input is a pipe that closes when the builder is gone, however it went. Exit code: the command's, 124 after the time
limit, 125 when the builder went away.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress

PR_SET_CHILD_SUBREAPER = 36  # Source: prctl(2)
TIMED_OUT, ABANDONED = 124, 125


def main(seconds: float, command: Sequence[str]) -> int:
    """Run `command` to one of its three ends."""
    # whatever the command starts, in a session of its own too, becomes our child when its parent ends
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    ended = os.pidfd_open(child.pid)
    ready, _, _ = select.select([ended, 0], [], [], seconds)
    code = child.wait() if ended in ready else ABANDONED if ready else TIMED_OUT
    end_children()
    return code if code >= 0 else 128 - code


def end_children() -> None:
    """Kill until there is no child left; those of a killed child come to us and are next."""
    with suppress(ChildProcessError):
        while True:
            for pid in _children():
                os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)


def _children() -> Iterator[int]:
    own = os.getpid()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # Source: proc(5); the name in brackets may itself hold brackets and spaces
                if int(file.read().rpartition(b")")[2].split()[1]) == own:
                    yield int(name)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
