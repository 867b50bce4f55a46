"""What every system is asked to do, in terms of one call and its result; one that has a better way says so itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

#: Seconds that a call may take before the run ends: something is wrong.
PATIENCE = 120.0
STAGES = 3
_LOOKS = 40


class Caller:
    """Each method that takes `count` gives the results for the inputs 0 … count-1, in that order."""

    def submit(self, task: str, *arguments: object) -> Any:
        """Have a function of `tasks` run; something that stands for its result."""
        raise NotImplementedError

    def result(self, handle: Any) -> Any:
        """What the call returned, waited for."""
        raise NotImplementedError

    def results(self, handles: Sequence[Any]) -> list[Any]:
        """What all of these returned."""
        return [self.result(handle) for handle in handles]

    def restart(self) -> None:
        """Make its workers anew, where they are this process's own."""
        raise NotImplementedError

    # many at a time

    def bulk(self, count: int) -> Iterable[int]:
        """Submit all, then gather all."""
        return self.results([self.submit("double", number) for number in range(count)])

    def unbatched(self, count: int) -> Iterable[int]:
        """The same, each call in a message of its own: what a peer does anyway."""
        return self.bulk(count)

    def array_10kb(self, count: int) -> Iterable[int]:
        """Arrays of 10 KB there and back."""
        return self.arrays(count, 10_000)

    def array_1mb(self, count: int) -> Iterable[int]:
        """Arrays of 1 MB there and back."""
        return self.arrays(count, 1_000_000)

    def arrays(self, count: int, size: int) -> Iterable[int]:
        """Arrays of `size` bytes; a bounded number on their way."""
        from benchmarks.drivers import arrays

        room, flying = arrays.in_flight(size), deque[Any]()
        for number in range(count):
            if len(flying) == room:
                yield arrays.carried(self.result(flying.popleft()), size)
            flying.append(self.submit("double", arrays.carrying(number, size)))
        while flying:
            yield arrays.carried(self.result(flying.popleft()), size)

    def chain(self, count: int) -> Iterable[int]:
        """Three stages for each input: here in waves, for a system without chains of its own."""
        values = list(range(count))
        for _ in range(STAGES):
            values = self.results([self.submit("double", value) for value in values])
        return values

    # one after the other

    def single(self, number: int) -> int:
        """One call there and back."""
        value: int = self.result(self.submit("double", number))
        return value

    def fan(self, width: int) -> int:
        """So many calls, and one more that adds up what they return."""
        parts = self.results([self.submit("double", number) for number in range(width)])
        value: int = self.result(self.submit("total", *parts))
        return value

    def workers(self) -> list[int]:
        """The processes that run calls."""
        return sorted(set(self.results([self.submit("where", 0.02) for _ in range(_LOOKS)])))


class GraphCaller(Caller):
    """Of a system in which what stands for a result may be another call's argument: chains and fans are its own."""

    def chain(self, count: int) -> Iterable[int]:
        """Three stages for each input, all submitted at once."""
        return self.results([self._stages(number) for number in range(count)])

    def _stages(self, number: int) -> Any:
        value: Any = number
        for _ in range(STAGES):
            value = self.submit("double", value)
        return value

    def fan(self, width: int) -> int:
        """So many calls, and one that waits for them all."""
        parts = [self.submit("double", number) for number in range(width)]
        value: int = self.result(self.submit("total", *parts))
        return value
