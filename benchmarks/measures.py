"""What is measured of a system, each by one function that returns figures by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles

from benchmarks.cpu import cpu_seconds
from benchmarks.memory import mean_memory
from benchmarks.system import Driver, System


@dataclass(frozen=True)
class Figure:
    """A column of a measure's table: its heading, how it is written, and whether systems are compared by it."""

    heading: str
    form: str = "{:,.0f}"
    compared: bool = True


@dataclass(frozen=True)
class Measure:
    """`run` takes a system, its driver, and for how many seconds to measure; it returns `figures` by name."""

    what: str
    figures: Mapping[str, Figure]
    run: Callable[[System, Driver, float], Mapping[str, float]]


def _many(work: str, name: str) -> Callable[[System, Driver, float], dict[str, float]]:
    """As many items as should take that long: items per second, as figure `name`."""

    def run(system: System, driver: Driver, seconds: float) -> dict[str, float]:
        done = driver.ask(many=work, seconds=seconds)
        return {name: done["items"] / done["seconds"]}

    return run


def _start(system: System, driver: Driver, seconds: float) -> dict[str, float]:
    took = system.restart(driver)
    memory = mean_memory(driver.ask(workers=True)["pids"])
    return {"seconds": took, "resident_mib": memory.resident_mib, "unique_mib": memory.unique_mib}


def _single(system: System, driver: Driver, seconds: float) -> dict[str, float]:
    took = driver.ask(one="single", seconds=seconds)["milliseconds"]
    return {"p50_milliseconds": _percentile(took, 50), "p99_milliseconds": _percentile(took, 99)}


def _fan(system: System, driver: Driver, seconds: float) -> dict[str, float]:
    return {"milliseconds": _percentile(driver.ask(one="fan", seconds=seconds)["milliseconds"], 50)}


def _cpu(system: System, driver: Driver, seconds: float) -> dict[str, float]:
    found = costs(driver, [driver.pid, *system.pids()], seconds)
    return {"microseconds_per_call": found["microseconds_per_call"]}


def costs(driver: Driver, pids: Sequence[int], seconds: float) -> dict[str, float]:
    """What a call of a bulk costs these processes and all that they started, and how many there are in a second."""
    driver.ask(many="bulk", seconds=seconds / 4)  # what is learned at first costs nothing here
    before = cpu_seconds(pids)
    done = driver.ask(many="bulk", seconds=seconds)
    spent = cpu_seconds(pids) - before
    return {"microseconds_per_call": 1e6 * spent / done["items"], "calls_per_second": done["items"] / done["seconds"]}


def _hop(system: System, driver: Driver, seconds: float) -> dict[str, float]:
    return {name.replace("-", "_"): value for name, value in driver.ask(look="hop", seconds=seconds).items()}


def _pipe(system: System, driver: Driver, seconds: float) -> dict[str, float]:
    found: dict[str, float] = driver.ask(look="pipe", seconds=seconds)
    return found


_CALLS = {"calls_per_second": Figure("calls/s")}
_ARRAYS = {"arrays_per_second": Figure("arrays/s")}
_MS = "{:,.2f}"

MEASURES: Mapping[str, Measure] = {
    "start": Measure(
        "workers started anew, servers up: seconds to the first result; then the memory of an idle worker",
        {
            "seconds": Figure("seconds", "{:.2f}"),
            "resident_mib": Figure("worker RSS MiB", "{:.1f}"),
            "unique_mib": Figure("USS MiB", "{:.1f}", compared=False),
        },
        _start,
    ),
    "bulk": Measure("many no-op calls submitted, all results gathered", _CALLS, _many("bulk", "calls_per_second")),
    "unbatched": Measure("the same, one call in a message", _CALLS, _many("unbatched", "calls_per_second")),
    "single": Measure(
        "one no-op call after the other, each waited for",
        {"p50_milliseconds": Figure("p50 ms", _MS), "p99_milliseconds": Figure("p99 ms", _MS, compared=False)},
        _single,
    ),
    "cpu": Measure(
        "CPU time of client, workers and servers together, for each call of a bulk",
        {"microseconds_per_call": Figure("µs/call")},
        _cpu,
    ),
    "array-10kb": Measure("arrays of 10 KB, doubled", _ARRAYS, _many("array_10kb", "arrays_per_second")),
    "array-1mb": Measure("arrays of 1 MB, doubled", _ARRAYS, _many("array_1mb", "arrays_per_second")),
    "chain": Measure(
        "three stages for each item, all items submitted, the last stage's results gathered",
        {"items_per_second": Figure("items/s")},
        _many("chain", "items_per_second"),
    ),
    "fan": Measure(
        "100 calls and one more that adds up what they return",
        {"milliseconds": Figure("p50 ms", "{:,.1f}")},
        _fan,
    ),
    "hop": Measure(
        "what a second processor behind a plug adds: by default, and with `route=broker` where there is a choice",
        {
            "hop_p50_milliseconds": Figure("added p50 ms", _MS, compared=False),
            "hop_microseconds_per_item": Figure("added µs/item in bulk", "{:,.1f}", compared=False),
            "hop_items_per_second": Figure("items/s", compared=False),
            "hop_broker_p50_milliseconds": Figure("broker: added p50 ms", _MS, compared=False),
            "hop_broker_microseconds_per_item": Figure("broker: added µs/item", "{:,.1f}", compared=False),
            "hop_broker_items_per_second": Figure("broker: items/s", compared=False),
        },
        _hop,
    ),
    "pipe": Measure("arrays of 4 MB from one process to another", {"gb_per_second": Figure("GB/s", "{:.2f}")}, _pipe),
}

_COSTS = {"microseconds_per_call": Figure("CPU µs/call", "{:,.1f}"), "calls_per_second": Figure("calls/s")}
#: What `benchmarks.scale` measures by itself: name -> what, and figures.
SCALE: Mapping[str, tuple[str, Mapping[str, Figure]]] = {
    "queues": ("calls spread over sockets, each on a queue of its own", _COSTS),
    "workers": ("calls of one queue, shared by workers", _COSTS),
    "rows": ("calls beside outcomes on record", _COSTS),
}


def described(measure: str) -> tuple[str, Mapping[str, Figure]]:
    """What is measured, and its figures by name."""
    if measure in SCALE:
        return SCALE[measure]
    return MEASURES[measure].what, MEASURES[measure].figures


def _percentile(values: Sequence[float], percent: int) -> float:
    if len(values) < 2:
        return values[0]
    return quantiles(values, n=100, method="inclusive")[percent - 1]
