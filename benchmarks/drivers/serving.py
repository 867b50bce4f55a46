"""The calling side of a system, as a process of its own: commands and answers are lines of JSON.

    {"many": WORK, "seconds": s}   -> {"items": n, "seconds": s}    as many items as should take that long, all gathered
    {"one": WORK, "seconds": s}    -> {"milliseconds": [...]}       one after the other, for that long, at least one
    {"look": NAME, "seconds": s}   -> a figure for each name        what only this system can be asked
    {"workers": true}              -> {"pids": [...]}
    {"restart": true}              -> {"seconds": s}                new workers, and the first call's result

Standard library only: a peer's environment has nothing of ours.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.drivers.caller import STAGES, Caller

#: Items of a first run, from which the number of a second follows.
FIRST_ITEMS = 50
#: A first run is repeated, with more items, until it has taken this long: by then all that is learned is learned.
LEARNING_SECONDS = 0.4
WIDTH = 100

#: Work on many items -> what comes of the input 1.
MANY = {"bulk": 2, "unbatched": 2, "array_10kb": 2, "array_1mb": 2, "chain": 2**STAGES}
#: Work on one -> what it is given for the n-th time, and what must come of that.
ONE: dict[str, tuple[Callable[[int], int], Callable[[int], int]]] = {
    "single": (lambda number: number, lambda number: 2 * number),
    "fan": (lambda _: WIDTH, lambda _: WIDTH * (WIDTH - 1)),
}


def serve(caller: Caller) -> None:
    """Answer commands until standard input ends."""
    _right(caller.single(21), 42)
    print(json.dumps({"ready": True}), flush=True)
    answering = _Answering(caller)
    for line in sys.stdin:
        print(json.dumps(answering.answer(json.loads(line))), flush=True)


class _Answering:
    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        #: items per second, by work
        self._rates: dict[str, float] = {}

    def answer(self, command: dict[str, Any]) -> dict[str, object]:
        """What the command asks for."""
        if "many" in command:
            return self._many(command["many"], command["seconds"])
        if "one" in command:
            return {"milliseconds": self._one(command["one"], command["seconds"])}
        if "workers" in command:
            return {"pids": self._caller.workers()}
        if "look" in command:
            found: dict[str, object] = getattr(self._caller, command["look"])(command["seconds"])
            return found
        began = time.perf_counter()
        self._caller.restart()
        _right(self._caller.single(21), 42)
        return {"seconds": time.perf_counter() - began}

    def _many(self, work: str, seconds: float) -> dict[str, object]:
        run, factor = getattr(self._caller, work), MANY[work]
        if work not in self._rates:
            self._rates[work] = _learned(run, factor, seconds)
        items = max(FIRST_ITEMS, int(self._rates[work] * seconds))
        took = timed(run, items, factor)
        self._rates[work] = items / took
        return {"items": items, "seconds": took}

    def _one(self, work: str, seconds: float) -> list[float]:
        run, (given, wanted) = getattr(self._caller, work), ONE[work]
        took: list[float] = []
        until = time.perf_counter() + seconds
        while not took or time.perf_counter() < until:
            began = time.perf_counter()
            value = run(given(len(took)))
            seconds_taken = time.perf_counter() - began
            _right(value, wanted(len(took)))
            took.append(1000 * seconds_taken)
        return took


def _learned(run: Callable[[int], Iterable[int]], factor: int, seconds: float) -> float:
    """Items per second, once everything that is learned or opened at first use is there."""
    items = FIRST_ITEMS
    while True:
        took = timed(run, items, factor)
        if took >= min(LEARNING_SECONDS, seconds / 3):
            return items / took
        items = max(2 * items, int(items / took * LEARNING_SECONDS))


def timed(run: Callable[[int], Iterable[int]], items: int, factor: int) -> float:
    """Seconds that so many items take, results gathered.

    Raises:
        SystemExit: a result is wrong or missing, so the figure would be too.
    """
    began = time.perf_counter()
    results = list(run(items))
    seconds = time.perf_counter() - began
    if results != [factor * number for number in range(items)]:
        raise SystemExit(f"{items} items gave {len(results)} results, not all of them right")
    return seconds


def _right(value: object, wanted: object) -> None:
    if value != wanted:
        raise SystemExit(f"a result is wrong: {value!r}, not {wanted!r}")
