"""Which member goes to which worker: plain bookkeeping, no I/O, driven by the agent's main thread alone.

A *lot* is a delivery in hand, known by its token. Its members wait in *units* (some indexes of one lot); a worker is
handed a unit that should take it a few milliseconds, or several small ones, so that short calls travel together and
long ones are balanced one by one. Members of a *careful* lot (it may have been somebody else's before) go alone, and
are announced in the database before they start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from pyfi_hpc.agent.backlog import Backlog, Unit
from pyfi_hpc.model.priority import Priority

#: How much work, by learned run time, a worker is handed at once.
SLICE_SECONDS = 0.004
_LEARNING = 0.3
#: A call is short when so many of them make less than a slice: a whole message is run at once.
_MANY = 64
#: Units of several lots travel together until they have so many members, or their messages so many bytes.
_COMPANY, _COMPANY_BYTES = 64, 256 * 2**10
#: What has been short stays so until its calls take so many times longer.
_FAR = 8


#: Members (by index) that were run, and for how many seconds.
Timings: TypeAlias = Sequence[tuple[int, float]]


class Hand(msgspec.Struct, frozen=True):
    """Give `indexes` of lot `token` to `worker`; when `announce`, only after its start is in the database."""

    worker: int
    token: int
    task: str
    indexes: tuple[int, ...]
    announce: bool
    #: their results may go into pipes
    passing: bool = True


@dataclass(slots=True)
class _Worker:
    processor: bytes
    #: what it has, by lots' tokens
    units: dict[int, list[Unit]] = field(default_factory=dict)
    #: how many units it still has of those that it was handed together
    turns: dict[int, int] = field(default_factory=dict)
    draining: bool = False

    def all_units(self) -> list[Unit]:
        return [unit for units in self.units.values() for unit in units]

    def take(self, unit: Unit) -> None:
        self.units.setdefault(unit.token, []).append(unit)
        self.turns[unit.turn] = self.turns.get(unit.turn, 0) + 1

    def sweep(self, token: int) -> None:
        """Forget units of that lot that are finished."""
        units = self.units[token]
        for unit in units:
            if not unit.indexes:
                self.turns[unit.turn] -= 1
                if not self.turns[unit.turn]:
                    del self.turns[unit.turn]
        left = [unit for unit in units if unit.indexes]
        if left:
            self.units[token] = left
        else:
            del self.units[token]


class Dispatcher:
    """What waits, who has what, and who gets the next."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, Backlog] = {}
        self._workers: dict[int, _Worker] = {}
        #: learned run times: of tasks of processors, since two may call different code by the same name
        self._seconds: dict[tuple[bytes, str], float] = {}
        self._turn = 0

    # workers

    def add_worker(self, worker: int, processor: bytes) -> None:
        """`worker` is ready for calls of `processor`."""
        self._workers[worker] = _Worker(processor)

    def drain_worker(self, worker: int) -> None:
        """Hand nothing more to `worker`; it finishes what it has."""
        if worker in self._workers:
            self._workers[worker].draining = True

    def remove_worker(self, worker: int, running: tuple[int, int] | None) -> tuple[int, int] | None:
        """`worker` is gone while it ran member `running` (token, index).

        Returns that member when it was still open: it alone is to blame. What else the worker had waits again, first.
        """
        gone = self._workers.pop(worker, None)
        if gone is None:
            return None
        blamed = None
        for unit in reversed(gone.all_units()):
            if running and unit.token == running[0] and running[1] in unit.indexes:
                unit.indexes.remove(running[1])
                blamed = running
            unit.again = True
            if unit.indexes:
                self._waiting.setdefault(gone.processor, Backlog()).appendleft(unit)
        return blamed

    def idle(self, worker: int) -> bool:
        """True when `worker` has nothing in hand."""
        return worker in self._workers and not self._workers[worker].units

    def holding(self, worker: int, token: int, index: int) -> bool:
        """True when `worker` has that member and has not finished it."""
        return bool(self.held_of(worker, token, (index,)))

    def held_of(self, worker: int, token: int, indexes: tuple[int, ...]) -> tuple[int, ...]:
        """Those of `indexes` that `worker` has and has not finished."""
        held = {index for unit in self._units_of(worker, token) for index in unit.indexes}
        return indexes if held.issuperset(indexes) else tuple(index for index in indexes if index in held)

    def passing(self, token: int, index: int) -> bool:
        """True when a worker has that member for the first time, and may pass on what comes of it."""
        for worker in self._workers:
            for unit in self._units_of(worker, token):
                if index in unit.indexes:
                    return not (unit.again or unit.careful)
        return False

    def passing_of(self, worker: int, token: int) -> bool:
        """True when `worker` has all that it has of that lot for the first time, and may pass on what comes of it."""
        return not any(unit.again or unit.careful for unit in self._units_of(worker, token))

    def _units_of(self, worker: int, token: int) -> Sequence[Unit]:
        known = self._workers.get(worker)
        return known.units.get(token, ()) if known else ()

    # lots

    def offer(
        self,
        token: int,
        processor: bytes,
        task: str,
        indexes: Iterable[int],
        *,
        careful: bool = False,
        priority: Priority = Priority.NORMAL,
        size: int = 0,
    ) -> None:
        """Members `indexes` of lot `token`, whose message has `size` bytes, wait for a worker of `processor`."""
        unit = Unit(token, task, deque(indexes), careful, priority, size=size)
        if unit.indexes:
            self._waiting.setdefault(processor, Backlog()).append(unit)

    def withdraw(self, token: int, indexes: Iterable[int] | None = None) -> list[int]:
        """Take members that no worker has yet (`indexes`, or all of the lot) out of the queue; returns them."""
        wanted = None if indexes is None else set(indexes)
        taken: list[int] = []
        for units in self._waiting.values():
            for unit in units:
                if unit.token == token:
                    out = [index for index in unit.indexes if wanted is None or index in wanted]
                    taken += out
                    unit.indexes = deque(index for index in unit.indexes if index not in out)
        self._sweep()
        return sorted(taken)

    def withdraw_processor(self, processor: bytes) -> dict[int, list[int]]:
        """Take everything that waits for `processor` out of the queue: lot token -> indexes."""
        taken: dict[int, list[int]] = {}
        for unit in self._waiting.pop(processor, ()):
            taken.setdefault(unit.token, []).extend(unit.indexes)
        return taken

    def processors(self) -> list[bytes]:
        """The processors that something waits for."""
        return list(self._waiting)

    def _sweep(self) -> None:
        for processor in list(self._waiting):
            self._waiting[processor].sweep()

    def held(self, token: int) -> list[int]:
        """Members of lot `token` that workers have."""
        units = (unit for worker in self._workers for unit in self._units_of(worker, token))
        return sorted(index for unit in units for index in unit.indexes)

    def tokens(self) -> set[int]:
        """Every lot that has members here."""
        waiting = {unit.token for units in self._waiting.values() for unit in units}
        return waiting.union(*(worker.units for worker in self._workers.values()))

    def waiting(self, processor: bytes) -> int:
        """How many members wait for `processor`."""
        return sum(len(unit.indexes) for unit in self._waiting.get(processor, ()))

    # handing out

    def hand_out(self) -> list[Hand]:
        """Give waiting members to workers with room: idle ones first, then ahead where calls are short."""
        hands: list[Hand] = []
        for depth in (0, 1) if self._waiting else ():
            for number, worker in self._workers.items():
                if waiting := self._for(worker, depth):
                    hands += self._together(number, worker, waiting, depth)
        return hands

    def _for(self, worker: _Worker, depth: int) -> Backlog | None:
        """What waits for a worker that has been handed something `depth` times, where it may have some of it."""
        if len(worker.turns) != depth or worker.draining or not (waiting := self._waiting.get(worker.processor)):
            return None
        return waiting if self._room(worker, waiting.first()) else None

    def _room(self, worker: _Worker, unit: Unit) -> bool:
        if not worker.turns:
            return True
        # a long call must not wait behind another while a neighbour falls idle
        return not unit.careful and self._seconds.get((worker.processor, unit.task), 1.0) < SLICE_SECONDS

    def _together(self, number: int, worker: _Worker, waiting: Backlog, depth: int) -> list[Hand]:
        """Hand out the first unit, and its share of those after it where all of them are short."""
        self._turn += 1
        processor, size = worker.processor, waiting.first().size
        hands = [self._hand(number, worker, waiting)]
        members, seconds = len(hands[0].indexes), self._estimate(processor, hands[0].task, len(hands[0].indexes))
        share = self._share(processor, len(waiting) + 1, depth)
        while waiting and len(hands) < share and not hands[0].announce:
            unit = waiting.first()
            members += len(unit.indexes)
            seconds += self._estimate(processor, unit.task, len(unit.indexes))
            size += unit.size
            if unit.careful or members > _COMPANY or size > _COMPANY_BYTES or seconds > SLICE_SECONDS:
                break
            hands.append(self._hand(number, worker, waiting))
        return hands

    def _estimate(self, processor: bytes, task: str, calls: int) -> float:
        return self._seconds.get((processor, task), SLICE_SECONDS) * calls

    def _share(self, processor: bytes, units: int, depth: int) -> int:
        """How many of so many units a worker may have, not to leave the others that could begin with nothing."""
        if units < 2:
            return units
        others = [each for each in self._workers.values() if each.processor == processor and not each.draining]
        return -(-units // (1 + sum(len(each.turns) == depth for each in others)))

    def _hand(self, number: int, worker: _Worker, waiting: Backlog) -> Hand:
        unit = waiting.first()
        count = 1 if unit.careful else self._count(worker.processor, unit)
        given = Unit(
            unit.token,
            unit.task,
            deque(unit.indexes.popleft() for _ in range(min(count, len(unit.indexes)))),
            unit.careful,
            unit.priority,
            unit.again,
            self._turn,
            unit.size,
        )
        waiting.took(unit)
        worker.take(given)
        return Hand(
            number, given.token, given.task, tuple(given.indexes), given.careful, not (given.again or given.careful)
        )

    def _count(self, processor: bytes, unit: Unit) -> int:
        seconds = self.seconds(processor, unit.task)
        return 1 if seconds is None else max(1, int(SLICE_SECONDS / max(seconds, 1e-7)))

    def done(self, worker: int, token: int, finished: Timings) -> list[int]:
        """`worker` finished these members (index, seconds it ran). Returns those that it really had."""
        return self.all_done(worker, [(token, finished)])[0]

    def all_done(self, worker: int, lots: Iterable[tuple[int, Timings]]) -> list[list[int]]:
        """As `done`, for members of several lots (by token) that were told together."""
        took: dict[str, list[float]] = {}
        accepted = [self._done(worker, token, finished, took) for token, finished in lots]
        for task, seconds in took.items():
            self.learn(self._workers[worker].processor, task, seconds)
        return accepted

    def _done(self, worker: int, token: int, finished: Timings, took: dict[str, list[float]]) -> list[int]:
        accepted: list[int] = []
        for unit in self._units_of(worker, token):
            for index, seconds in finished:
                if index in unit.indexes:
                    unit.indexes.remove(index)
                    accepted.append(index)
                    took.setdefault(unit.task, []).append(seconds)
        if accepted:
            self._workers[worker].sweep(token)
        return accepted

    def seconds(self, processor: bytes, task: str) -> float | None:
        """How long a call of a processor's `task` takes, as far as that is known."""
        return self._seconds.get((processor, task))

    def short(self, processor: bytes, task: str) -> bool:
        """Whether calls of a processor's `task` are known to be short."""
        return _MANY * self._seconds.get((processor, task), 1.0) < SLICE_SECONDS

    def long(self, processor: bytes, task: str) -> bool:
        """Whether calls of a processor's `task` are known to be far from short."""
        return _MANY * self._seconds.get((processor, task), 1.0) > _FAR * SLICE_SECONDS

    def learn(self, processor: bytes, task: str, took: list[float]) -> None:
        """Calls of a processor's `task` that came together took so long."""
        # the middle one of those that came together: a call whose worker lost its core for a moment tells nothing
        seconds, before = sorted(took)[len(took) // 2], self.seconds(processor, task)
        self._seconds[processor, task] = seconds if before is None else before + _LEARNING * (seconds - before)
