"""The benchmarks' command: see `docs/benchmarks.md`."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console

from benchmarks import needed  # noqa: F401 (before all that needs them)
from benchmarks.celery import Celery
from benchmarks.measures import MEASURES
from benchmarks.pyfi import PyfiEmbedded, PyfiRabbitMQ
from benchmarks.system import Driver, Surroundings, System
from benchmarks.table import Round, medians, table
from pyfi_hpc.db.embedded import remove_below

SYSTEMS: tuple[type[System], ...] = (PyfiRabbitMQ, PyfiEmbedded, Celery)


@click.command()
@click.option("--list", "listing", is_flag=True, help="Say what there is, and end.")
@click.option("--only", type=click.Choice(list(MEASURES)), multiple=True, help="This measure alone; may be repeated.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Every system once a round.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=4.0, show_default=True, help="For each measure.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures there.")
def main(listing: bool, only: tuple[str, ...], rounds: int, seconds: float, file: Path | None) -> None:
    """Measure pyfi-hpc and its peers side by side; the table goes to stdout."""
    if listing:
        _list()
        return
    systems = [make() for make in SYSTEMS]
    wanted = only or tuple(MEASURES)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyfi-bench-", dir="/tmp")))
        folder.chmod(0o711)
        stack.callback(remove_below, folder)
        drivers = _started(systems, Surroundings(folder, stack))
        done = [_round(number, systems, drivers, wanted, seconds) for number in range(1, rounds + 1)]
    Console(width=None if sys.stdout.isatty() else 140).print(table(done, {s.name: s.what for s in systems}, "celery"))
    if file is not None:
        report = {"machine": _machine(), "seconds": seconds, "medians": medians(done), "rounds": done}
        file.write_text(json.dumps(report, indent=2) + "\n")


def _list() -> None:
    for name, measure in MEASURES.items():
        click.echo(f"{name:14} {(measure.__doc__ or '').strip()}")
    for system in SYSTEMS:
        click.echo(f"{system.name:14} {system.what}")


def _started(systems: list[System], around: Surroundings) -> dict[str, Driver]:
    """Each system's driver, warm."""
    drivers = {}
    for system in systems:
        began = time.monotonic()
        drivers[system.name] = driver = system.start(around)
        driver.wait_ready()
        _say(f"{system.name} is warm after {time.monotonic() - began:.1f} s")
    return drivers


def _round(
    number: int, systems: list[System], drivers: dict[str, Driver], wanted: tuple[str, ...], seconds: float
) -> Round:
    figures: dict[str, dict[str, float]] = {system.name: {} for system in systems}
    for name in wanted:
        for system in systems:
            figures[system.name] |= MEASURES[name](system, drivers[system.name], seconds)
    for system in systems:
        _say(f"round {number}, {system.name}: " + ", ".join(f"{k} {v:,.4g}" for k, v in figures[system.name].items()))
    return figures


def _machine() -> dict[str, object]:
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpus": os.cpu_count(), "memory_gib": round(memory_gib), "python": platform.python_version()}


def _say(text: str) -> None:
    print(f"==> {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
