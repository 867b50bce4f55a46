"""Signals: SIGINT stops the running call and nothing of ours; SIGTERM and SIGUSR2 are left to the agent."""

from __future__ import annotations

import os
import signal
import threading

# signal.getsignal without its enums, which cost more than all else between two calls
from _signal import getsignal  # type: ignore[import-not-found]
from collections.abc import Callable
from types import FrameType

_SIGINT = int(signal.SIGINT)
#: What Slurm sends to every process of a step: the end, and the early warning of it. The agent starts a worker with
#: them blocked, so that one that comes before `install` kills nobody.
FROM_SLURM = (signal.SIGTERM, signal.SIGUSR2)


class Interrupts:
    """What the agent asked for by SIGINT since the running call began.

    `active` is set while user code runs: only then does the signal become a KeyboardInterrupt. `seen` tells that it
    came, also when it came too early to interrupt anything.
    """

    __slots__ = ("_handler", "active", "seen")

    def __init__(self) -> None:
        self.active = self.seen = False
        # kept: a bound method is a new object each time
        self._handler = self._interrupted

    def install(self) -> None:
        """Take the handlers."""
        signal.signal(signal.SIGINT, self._handler)
        for number in FROM_SLURM:
            signal.signal(number, _left_to_the_agent)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FROM_SLURM)

    def reinstall(self) -> None:
        """Take the handlers again if user code took them since."""
        if getsignal(_SIGINT) is not self._handler:
            self.install()

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        if self.active:
            raise KeyboardInterrupt("the call was interrupted")


def _left_to_the_agent(number: int, frame: FrameType | None) -> None:
    """Slurm tells every process of a step; the agent drains us and says when to end.

    A handler, not SIG_IGN: programs that user code starts must not inherit our deafness.
    """


def restore() -> None:
    """As in any fresh process; for children that user code forks, whose parent may end them by SIGTERM."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in FROM_SLURM:
        signal.signal(number, signal.SIG_DFL)


def restore_in_children(also: Callable[[], None]) -> None:
    """Have `restore`, and then `also`, run in every child that user code forks.

    Until then its signals wait: one that a parent in a hurry sends would meet our handlers, and end nothing.
    """
    masks = threading.local()

    def before() -> None:
        masks.own = signal.pthread_sigmask(signal.SIG_BLOCK, FROM_SLURM)

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.own)

    def in_child() -> None:
        restore()
        also()
        unblock()

    os.register_at_fork(before=before, after_in_parent=unblock, after_in_child=in_child)
