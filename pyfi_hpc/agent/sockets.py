"""What an agent's loop waits for: its bell, its workers' sockets, and what other agents of its job send."""

from __future__ import annotations

import contextlib
import selectors

from pyfi_hpc.agent.process import WorkerProcess

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
#: What a descriptor is registered with where it is no worker's.
BELL, SIBLINGS = "bell", "siblings"


class Sockets:
    """`select(seconds)` gives what is ready by then: a key whose `data` is a process or a word above, and events."""

    def __init__(self, bell: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._selector.register(bell, READ, BELL)
        self.select = self._selector.select

    def watch(self, process: WorkerProcess) -> None:
        """Wait for what this worker says."""
        self._selector.register(process.socket, READ, process)

    def forget(self, process: WorkerProcess) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(process.socket)

    def write_to(self, process: WorkerProcess) -> None:
        """Frames may wait for this process: wait until its socket takes them."""
        if process.wants_to_write:
            with contextlib.suppress(KeyError):
                self._selector.modify(process.socket, READ | WRITE, process)

    def written(self, process: WorkerProcess) -> None:
        """Its socket took something: wait for it only if there is more."""
        self._selector.modify(process.socket, READ | (WRITE if process.wants_to_write else 0), process)

    def watch_siblings(self, descriptor: int) -> None:
        """Wait for what other agents of the job send here."""
        self._selector.register(descriptor, READ, SIBLINGS)

    def forget_siblings(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)

    def close(self) -> None:
        self._selector.close()
