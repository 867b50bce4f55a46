"""Which way results went, plug by plug. The committer's thread counts, the main thread reads what is new."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pyfi_hpc.wire.messages import Route


class Way(NamedTuple):
    """How many results of a plug went by pipes, and how many by queues."""

    piped: int
    queued: int


class Ways:
    """Counts that only grow."""

    def __init__(self) -> None:
        self._piped: dict[bytes, int] = {}
        self._queued: dict[bytes, int] = {}
        self._told: dict[bytes, Way] = {}

    def piped(self, carried: Mapping[bytes, int]) -> None:
        """Pipes carried so many results, by plug."""
        for plug, count in carried.items():
            self._piped[plug] = self._piped.get(plug, 0) + count

    def queued(self, routes: Iterable[Route]) -> None:
        """A result goes along these routes through the broker."""
        for route in routes:
            self._queued[route.plug] = self._queued.get(route.plug, 0) + 1

    def news(self) -> dict[bytes, Way]:
        """What was added since this was last asked, by plug."""
        piped, queued = self._piped.copy(), self._queued.copy()
        now = {plug: Way(piped.get(plug, 0), queued.get(plug, 0)) for plug in piped.keys() | queued.keys()}
        nothing = Way(0, 0)
        before, self._told = self._told, now
        return {
            plug: Way(way.piped - was.piped, way.queued - was.queued)
            for plug, way in now.items()
            if way != (was := before.get(plug, nothing))
        }
