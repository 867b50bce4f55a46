"""Rounds of figures, and the table of their medians."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeAlias

from rich.table import Table

from benchmarks.cpu import cpu_seconds

#: One round: row -> column -> value; the unit is in the column's name.
Round: TypeAlias = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Surroundings:
    """What a benchmark gets: a folder of the run's own, and how long to watch what goes on by itself."""

    folder: Path
    seconds: float


@dataclass(frozen=True)
class Benchmark:
    """`open` sets everything up and gives what makes one round, again and again."""

    name: str
    what: str
    open: Callable[[Surroundings], AbstractContextManager[Callable[[], Round]]]


def cost(what: str, work: Callable[[], object], times: int, pids: Sequence[int] = ()) -> dict[str, float]:
    """What `work` costs, by column: the least time of so many, and CPU time of this process and of `pids`, their mean.

    On a busy machine the CPU time tells more: the clock runs on while others have the cores.
    """
    before = time.process_time() + cpu_seconds(pids)
    least = min(_once(work) for _ in range(times))
    after = time.process_time() + cpu_seconds(pids)
    return {f"{what}: ms": least, f"{what}: CPU ms": 1000 * (after - before) / times}


def _once(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def table(title: str, rounds: Sequence[Round]) -> Table:
    """Medians of the rounds, with the least and the most where there are several."""
    count = f"medians of {len(rounds)} rounds" if len(rounds) > 1 else "one round"
    shown = Table(title=f"{title} ({count}, load {load()})", title_justify="left")
    shown.add_column("")
    columns = list(dict.fromkeys(column for row in rounds[0].values() for column in row))
    for column in columns:
        shown.add_column(column, justify="right")
    for name in rounds[0]:
        shown.add_row(
            name, *(_cell([each[name][column] for each in _having(rounds, name, column)]) for column in columns)
        )
    return shown


def _having(rounds: Sequence[Round], row: str, column: str) -> Iterator[Round]:
    return (each for each in rounds if column in each[row])


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    if len(values) == 1 or min(values) == max(values):
        return _form(values[0])
    return f"{_form(median(values))} ({_form(min(values))}–{_form(max(values))})"


def _form(value: float) -> str:
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def load() -> str:
    """How many processes wanted a core during the last minute, and how many cores there are."""
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
