"""What is measured of a system, each by one function that returns figures by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import TypeAlias

from benchmarks.cpu import cpu_seconds
from benchmarks.system import Driver, System

#: System and its driver, and for how many seconds to measure: figures by name.
Measure: TypeAlias = Callable[[System, Driver, float], Mapping[str, float]]


@dataclass(frozen=True)
class Figure:
    """A column of the table: its heading, how it is written, and whether more is better."""

    heading: str
    form: str
    more_is_better: bool


FIGURES: Mapping[str, Figure] = {
    "calls_per_second": Figure("calls/s", "{:,.0f}", True),
    "p50_milliseconds": Figure("one call p50 ms", "{:.2f}", False),
    "p99_milliseconds": Figure("p99 ms", "{:.2f}", False),
    "cpu_microseconds_per_call": Figure("CPU µs/call", "{:,.0f}", False),
}


def bulk(system: System, driver: Driver, seconds: float) -> dict[str, float]:
    """Many no-op calls submitted and their results gathered: calls per second."""
    done = driver.ask(bulk=seconds)
    return {"calls_per_second": done["calls"] / done["seconds"]}


def single(system: System, driver: Driver, seconds: float) -> dict[str, float]:
    """One no-op call after the other, each waited for: milliseconds there and back."""
    took = driver.ask(single=seconds)["milliseconds"]
    return {"p50_milliseconds": _percentile(took, 50), "p99_milliseconds": _percentile(took, 99)}


def cpu(system: System, driver: Driver, seconds: float) -> dict[str, float]:
    """CPU time of client, agent or worker, and servers together, for each call of a bulk."""
    pids = [driver.pid, *system.pids()]
    before = cpu_seconds(pids)
    calls = driver.ask(bulk=seconds)["calls"]
    return {"cpu_microseconds_per_call": 1e6 * (cpu_seconds(pids) - before) / calls}


MEASURES: Mapping[str, Measure] = {"bulk": bulk, "single": single, "cpu": cpu}


def _percentile(values: Sequence[float], percent: int) -> float:
    if len(values) < 2:
        return values[0]
    return quantiles(values, n=100, method="inclusive")[percent - 1]
