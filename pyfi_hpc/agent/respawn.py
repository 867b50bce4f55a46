"""The agent's small parent: starts it again when it dies, and leaves nothing behind that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

from pyfi_hpc.agent import kernel
from pyfi_hpc.processes import children, until

FIRST_DELAY, LONGEST_DELAY = 0.2, 5.0
#: An agent that lived so long starts with a short delay again.
SETTLED_SECONDS = 60.0
#: Statuses that another start would not change: it was stopped, or refused for what it was asked to do.
_FINAL = (0, 2)
#: What ends it -> what its child is told.
_HANDED_ON = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGTERM,
    signal.SIGUSR2: signal.SIGUSR2,
}
_TOLD = frozenset(128 + number for number in _HANDED_ON.values())


class Respawner:
    """Keeps one child running until it ends by itself, or it is told to end; the main thread's alone.

    TERM and USR2 (Slurm's early warning) are handed on to the child. That has a process group of its own: a signal to
    this one's group reaches it once, and none of its own helpers.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """`command` is started with `--parent PID` after it."""
        self._command, self._environment = command, environment
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def run(self) -> int:
        """The last child's exit status (128 + signal where it was killed), after all of its descendants are gone."""
        kernel.adopt_orphans()
        for number, handed_on in _HANDED_ON.items():
            signal.signal(number, partial(self._stop, handed_on))
        try:
            return self._keep()
        finally:
            # Slurm's warning comes again and again: an interpreter that is about to end has no handlers any more
            for number in _HANDED_ON:
                signal.signal(number, signal.SIG_IGN)

    def _keep(self) -> int:
        delay = FIRST_DELAY
        while True:
            began = time.monotonic()
            status = self._once()
            end_orphans()
            if self._stopping:
                # a child that had no handler yet dies of what it was told
                return 0 if status in _TOLD else status
            if status in _FINAL:
                return status
            delay = FIRST_DELAY if time.monotonic() - began > SETTLED_SECONDS else delay
            print(f"pyfi: the agent ended with status {status}; starting it again", file=sys.stderr, flush=True)
            if until(lambda: self._stopping, delay):
                return 0
            delay = min(2 * delay, LONGEST_DELAY)

    def _once(self) -> int:
        command = [*self._command, "--parent", str(os.getpid())]
        self._child = subprocess.Popen(command, env=dict(self._environment), process_group=0)
        if self._stopping:
            self._child.terminate()
        status = _wait_for(self._child.pid)
        # told by hand: a plain wait would leave adopted children unreaped meanwhile
        self._child.returncode = status
        return status

    def _stop(self, handed_on: signal.Signals, *_: object) -> None:
        self._stopping = True
        if self._child is not None and self._child.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._child.pid, handed_on)


def _wait_for(child: int) -> int:
    """The exit status of `child`; whatever else ends meanwhile is reaped."""
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def end_orphans() -> None:
    """Kill and reap every child of this process, and those that come to it as their parents end."""
    while found := children(os.getpid()):
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in found:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
