"""Who calls: `python -m benchmarks.soak.load RUNS CALLS_PER_SECOND SEED`, settings from variables.

Says each second, as a line of JSON, what it has (`Counts`). It stops submitting when standard input ends, waits for
what is under way, says so once more, and ends.
"""

from __future__ import annotations

import heapq
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from pyfi_hpc.agent.logs import log_to_stderr
from pyfi_hpc.client.client import Client
from pyfi_hpc.client.futures import Future
from pyfi_hpc.errors import PyfiError

#: Of each hundred calls; the rest go down the line. The slow ones keep one worker busy for half of its time.
FLAKY, SLOW, LARGE, LINE = 25, 1, 2, 72
SLOWEST_SECONDS = 1.0
LARGE_BYTES = 400_000
#: More than so many under way: whoever calls waits.
MOST_WAITING = 5_000
BEAT_SECONDS = 0.2
#: So many of the slowest calls are told.
SLOWEST = 3
#: How long the last results may take once nobody kills any more.
PATIENCE_SECONDS = 180.0


@dataclass
class Counts:
    """`errors`: what submits raised, by code; `slowest`: of a few calls seconds from submit to result, socket, id."""

    submitted: int = 0
    right: int = 0
    wrong: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    slowest: list[tuple[float, str, str]] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        """Without a result."""
        return self.submitted - self.right - len(self.wrong)


class Load:
    """Submits lots of calls, and looks at each result when it comes."""

    def __init__(self, client: Client, runs: str, rate: float, seed: int) -> None:
        self._client, self._runs, self._rate, self._random = client, runs, rate, random.Random(seed)
        self._lock = threading.Lock()
        self.counts = Counts()
        self._number = 0

    def beat(self) -> None:
        """One lot to each socket."""
        calls = max(1, round(self._rate * BEAT_SECONDS))
        for socket, share, inputs in self._kinds(calls):
            if share:
                self._submit(socket, [next(inputs) for _ in range(share)])

    def _kinds(self, calls: int) -> Iterator[tuple[str, int, Iterator[tuple[tuple[object, ...], object]]]]:
        """Socket, how many calls of it, and inputs with what must come of each."""
        dealt = Counter(self._random.choices(("flaky", "slow", "large", "line"), (FLAKY, SLOW, LARGE, LINE), k=calls))
        log, numbers = self._runs, self._numbers()
        yield "work.flaky", dealt["flaky"], (((n, log), 2 * n) for n in numbers)
        yield "work.slow", dealt["slow"], (((n, log, self._random.uniform(0, SLOWEST_SECONDS)), -n) for n in numbers)
        yield "work.large", dealt["large"], (((data, log), data[::-1]) for data in self._blocks())
        yield "line1.begin", dealt["line"], (((n, log), (n + 1, log)) for n in numbers)

    def _numbers(self) -> Iterator[int]:
        while True:
            self._number += 1
            yield self._number

    def _blocks(self) -> Iterator[bytes]:
        while True:
            yield self._random.randbytes(LARGE_BYTES)

    def _submit(self, socket: str, lot: list[tuple[tuple[object, ...], object]]) -> None:
        began = time.monotonic()
        try:
            futures = self._client.submit_many(socket, [given for given, _ in lot])
        except PyfiError as error:
            with self._lock:
                self.counts.errors[f"{error.code} {error.facts.get('reason', '')}".strip()] += 1
            print(f"a submit failed: {error}", file=sys.stderr, flush=True)
            return
        with self._lock:
            self.counts.submitted += len(futures)
        for future, (_, wanted) in zip(futures, lot, strict=True):
            future.add_done_callback(self._looking(socket, began, wanted))

    def _looking(self, socket: str, began: float, wanted: object) -> Callable[[Any], None]:
        def look(future: Future) -> None:
            said = ""
            try:
                if (value := future.result()) != wanted:
                    said = f"{socket} {future.id}: a wrong value {value!r:.80}"
            except Exception as error:
                said = f"{socket} {future.id}: {error!r:.300}"
            with self._lock:
                took = (round(time.monotonic() - began, 1), socket, future.id)
                self.counts.slowest = heapq.nlargest(SLOWEST, [*self.counts.slowest, took])
                if said:
                    self.counts.wrong.append(said)
                else:
                    self.counts.right += 1

        return look

    def tell(self) -> None:
        """One line."""
        with self._lock:
            line = json.dumps(asdict(self.counts) | {"waiting": self.counts.waiting})
        print(line, flush=True)


def main() -> None:
    """See the module."""
    runs, rate, seed = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    log_to_stderr()
    enough = threading.Event()
    threading.Thread(target=_until_end_of_input, args=(enough,), daemon=True).start()
    with Client() as client:
        load = Load(client, runs, rate, seed)
        threading.Thread(target=_telling, args=(load,), daemon=True).start()
        while not enough.wait(BEAT_SECONDS):
            if load.counts.waiting < MOST_WAITING:
                load.beat()
        until = time.monotonic() + PATIENCE_SECONDS
        while load.counts.waiting and time.monotonic() < until:
            time.sleep(0.1)
        load.tell()


def _until_end_of_input(enough: threading.Event) -> None:
    sys.stdin.read()
    enough.set()


def _telling(load: Load) -> None:
    with suppress(BrokenPipeError):
        while True:
            time.sleep(1)
            load.tell()


if __name__ == "__main__":
    main()
