"""What waits for the workers of one processor: in order within each priority, priorities taking turns. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pyfi_hpc.model.priority import WEIGHTS, Priority


@dataclass(slots=True)
class Unit:
    """Members of one lot that wait, or that one worker has."""

    token: int
    task: str
    indexes: deque[int]
    careful: bool = False
    priority: Priority = Priority.NORMAL
    #: a worker had them before, and may have passed on what came of them
    again: bool = False
    #: those that a worker was handed together have the same number
    turn: int = 0
    #: bytes of the lot's message
    size: int = 0


class Turns:
    """Whose turn it is among priorities that wait: smooth weighted round robin, so that none is ever left out."""

    def __init__(self) -> None:
        self._credit: dict[Priority, int] = {}

    def next_of(self, waiting: Collection[Priority]) -> Priority:
        """Who comes next of those that wait; asking changes nothing."""
        return max(waiting, key=lambda each: (self._credit.get(each, 0) + WEIGHTS[each], WEIGHTS[each]))

    def took(self, taken: Priority, waiting: Collection[Priority]) -> None:
        """One of those that waited had its turn; who does not wait saves up nothing."""
        self._credit = {each: self._credit.get(each, 0) + WEIGHTS[each] for each in waiting}
        self._credit[taken] -= sum(WEIGHTS[each] for each in waiting)


class Backlog:
    """Units that wait for one processor."""

    def __init__(self) -> None:
        self._units: dict[Priority, deque[Unit]] = {}
        self._turns = Turns()

    def __bool__(self) -> bool:
        return bool(self._units)

    def __len__(self) -> int:
        return sum(map(len, self._units.values()))

    def __iter__(self) -> Iterator[Unit]:
        for units in self._units.values():
            yield from units

    def append(self, unit: Unit) -> None:
        """It waits behind the others of its priority."""
        self._units.setdefault(unit.priority, deque()).append(unit)

    def appendleft(self, unit: Unit) -> None:
        """It waits before the others of its priority."""
        self._units.setdefault(unit.priority, deque()).appendleft(unit)

    def first(self) -> Unit:
        """The one whose turn it is."""
        return self._units[self._next()][0]

    def _next(self) -> Priority:
        return next(iter(self._units)) if len(self._units) == 1 else self._turns.next_of(self._units)

    def took(self, unit: Unit) -> None:
        """Members of `unit`, which was the first, were handed out; it goes when it has no more."""
        if len(self._units) > 1:
            self._turns.took(unit.priority, self._units)
        if not unit.indexes:
            units = self._units[unit.priority]
            units.popleft()
            if not units:
                del self._units[unit.priority]

    def sweep(self) -> None:
        """Forget units without members."""
        left = {priority: deque(unit for unit in units if unit.indexes) for priority, units in self._units.items()}
        self._units = {priority: units for priority, units in left.items() if units}
