"""Memory over time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from statistics import median

from benchmarks.memory import memory_of

#: From this part of the time on: before, what is learned and cached is still growing.
SETTLED = 0.25


class Watch:
    """A thread that looks every so often at the resident memory of some processes, by name."""

    def __init__(self, who: Mapping[str, Callable[[], int | None]], every_seconds: float) -> None:
        self._who, self._every = who, every_seconds
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")
        #: name -> MiB at each look
        self.seen: dict[str, list[float]] = {name: [] for name in who}

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._enough.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._enough.wait(self._every):
            for name, pid_of in self._who.items():
                pid = pid_of()
                try:
                    if pid is not None:
                        self.seen[name].append(memory_of(pid).resident_mib)
                except (OSError, KeyError):
                    continue  # it has just ended

    def line(self, name: str) -> str:
        """What it had over time: ten figures, and how much it grew."""
        seen = self.seen[name]
        if len(seen) < 8:
            return f"{name}: looked at {len(seen)} times only"
        step = max(1, len(seen) // 10)
        shown = " ".join(f"{value:.0f}" for value in seen[::step])
        return f"{name}: {shown} MiB; {growth(seen):+.1f} MiB from its first settled quarter to its last"


def growth(seen: list[float]) -> float:
    """The median of the last quarter of what is settled, less that of its first quarter."""
    settled = seen[int(len(seen) * SETTLED) :]
    quarter = max(1, len(settled) // 4)
    return median(settled[-quarter:]) - median(settled[:quarter])
