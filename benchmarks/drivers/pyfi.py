"""Calls pyfi-hpc through its public client: `python -m benchmarks.drivers.pyfi LINES…`, settings from variables.

LINES are names of lines of sockets joined by plugs: see `benchmarks.pyfi`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from typing import Any

from benchmarks.drivers import arrays
from benchmarks.drivers.caller import PATIENCE, STAGES, Caller
from benchmarks.drivers.pyfi_lines import Line, Record, compared
from benchmarks.drivers.serving import serve
from pyfi_hpc.agent.logs import log_to_stderr
from pyfi_hpc.client.client import Client
from pyfi_hpc.client.futures import Future
from pyfi_hpc.config import Settings

#: Enough that the calling side is never what the others wait for.
MOST_IN_FLIGHT = 10_000


class _Pyfi(Caller):
    def __init__(self, stack: ExitStack, lines: Sequence[str]) -> None:
        self._stack, self._names = stack, lines
        self._settings = Settings.load()
        self._client = stack.enter_context(Client(self._settings))

    def submit(self, task: str, *arguments: object) -> Future:
        return self._client.submit(f"p.{task}", *arguments)

    def result(self, handle: Future) -> Any:
        return handle.result(PATIENCE)

    def single(self, number: int) -> int:
        value: int = self._client.call("p.double", number, timeout=PATIENCE)
        return value

    def bulk(self, count: int) -> Iterable[int]:
        return self._client.map("p.double", range(count), max_in_flight=MOST_IN_FLIGHT)

    def unbatched(self, count: int) -> Iterable[int]:
        return self._alone.map("p.double", range(count), max_in_flight=MOST_IN_FLIGHT)

    @cached_property
    def _alone(self) -> Client:
        """A client of which each call travels in a message of its own."""
        settings = replace(self._settings, client=replace(self._settings.client, batch_calls=1))
        return self._stack.enter_context(Client(settings))

    def arrays(self, count: int, size: int) -> Iterable[int]:
        inputs = (arrays.carrying(number, size) for number in range(count))
        for array in self._client.map("p.double", inputs, max_in_flight=arrays.in_flight(size)):
            yield arrays.carried(array, size)

    def fan(self, width: int) -> int:
        parts = self._client.map("p.double", range(width))
        value: int = self._client.call("p.total", *parts, timeout=PATIENCE)
        return value

    # along plugs

    def chain(self, count: int) -> Iterable[int]:
        return self._line("chain", STAGES).run(count)

    def hop(self, seconds: float) -> dict[str, float]:
        """What a second processor behind a plug adds, for each way that there is."""
        ways = {name: self._line(name, 2) for name in self._names if name.startswith("hop")}
        return compared(self._line("alone", 1), ways, seconds)

    def _line(self, name: str, stages: int) -> Line:
        if name not in self._lines:
            self._lines[name] = Line(self._client, self._record, f"first.{name}", stages)
        return self._lines[name]

    @cached_property
    def _lines(self) -> dict[str, Line]:
        return {}

    @cached_property
    def _record(self) -> Record:
        return self._stack.enter_context(Record(self._settings.database.uri))


def main() -> None:
    """Serve until standard input ends."""
    log_to_stderr()
    with ExitStack() as stack:
        serve(_Pyfi(stack, sys.argv[1:]))


if __name__ == "__main__":
    main()
