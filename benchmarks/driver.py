"""The calling side of a system, as a process of its own: commands and answers are lines of JSON.

    {"bulk": SECONDS}     -> {"calls": n, "seconds": s}     as many calls as should take that long, all results gathered
    {"single": SECONDS}   -> {"milliseconds": [...]}        one call after the other

Standard library only: a peer's environment has nothing of ours.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable

#: Calls of a first run, from which the number of a second follows.
FIRST_CALLS = 200

#: Takes the numbers 0 … n-1, returns their doubles in that order: one call each.
Bulk = Callable[[int], Iterable[int]]
Once = Callable[[int], int]


def serve(bulk: Bulk, once: Once) -> None:
    """Answer commands until standard input ends."""
    rate = _warm_up(bulk)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if "bulk" in command:
            calls = max(FIRST_CALLS, int(rate * command["bulk"]))
            seconds = timed(bulk, calls)
            rate = calls / seconds
            answer: dict[str, object] = {"calls": calls, "seconds": seconds}
        else:
            answer = {"milliseconds": one_by_one(once, command["single"])}
        print(json.dumps(answer), flush=True)


def _warm_up(bulk: Bulk) -> float:
    """Calls per second, once everything that is learned or opened at first use is there."""
    rate = FIRST_CALLS / timed(bulk, FIRST_CALLS)
    calls = max(FIRST_CALLS, int(rate * 0.5))
    return calls / timed(bulk, calls)


def timed(bulk: Bulk, calls: int) -> float:
    """Seconds that so many calls take, results gathered.

    Raises:
        SystemExit: a result is wrong, so the figure would be too.
    """
    began = time.perf_counter()
    results = list(bulk(calls))
    seconds = time.perf_counter() - began
    if results != [2 * number for number in range(calls)]:
        raise SystemExit(f"{calls} calls gave {len(results)} results, not all of them right")
    return seconds


def one_by_one(once: Once, seconds: float) -> list[float]:
    """How long each call took, in milliseconds."""
    took: list[float] = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        if once(len(took)) != 2 * len(took):
            raise SystemExit("a result is wrong")
        took.append(1000 * (time.perf_counter() - began))
    return took
