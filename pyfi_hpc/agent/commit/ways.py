"""Which way results went, plug by plug. The committer's thread counts, the main thread reads what is new."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pyfi_hpc.wire.messages import Route


class Way(NamedTuple):
    """How many results of a plug went by pipes, how many by queues, and how many of the piped to another node."""

    piped: int
    queued: int
    far: int = 0


class Ways:
    """Counts that only grow."""

    def __init__(self) -> None:
        self._piped: dict[bytes, int] = {}
        self._far: dict[bytes, int] = {}
        self._queued: dict[bytes, int] = {}
        self._told: dict[bytes, Way] = {}

    def piped(self, carried: Mapping[bytes, int], far: Mapping[bytes, int]) -> None:
        """Pipes carried so many results, by plug, and so many of them to another node."""
        for counts, more in ((self._piped, carried), (self._far, far)):
            for plug, count in more.items():
                counts[plug] = counts.get(plug, 0) + count

    def queued(self, routes: Iterable[Route]) -> None:
        """A result goes along these routes through the broker."""
        for route in routes:
            self._queued[route.plug] = self._queued.get(route.plug, 0) + 1

    def news(self) -> dict[bytes, Way]:
        """What was added since this was last asked, by plug."""
        piped, queued, far = self._piped.copy(), self._queued.copy(), self._far.copy()
        now = {
            plug: Way(piped.get(plug, 0), queued.get(plug, 0), far.get(plug, 0))
            for plug in piped.keys() | queued.keys()
        }
        nothing = Way(0, 0)
        before, self._told = self._told, now
        return {
            plug: Way(way.piped - was.piped, way.queued - was.queued, way.far - was.far)
            for plug, way in now.items()
            if way != (was := before.get(plug, nothing))
        }
