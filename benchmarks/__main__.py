"""The benchmarks' command: see `docs/benchmarks.md`."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console

from benchmarks import needed  # noqa: F401 (before all that needs them)
from benchmarks.celery import Celery
from benchmarks.dramatiq import Dramatiq
from benchmarks.inprocess import Dask, Parsl, Pool, Ray
from benchmarks.measures import MEASURES
from benchmarks.pipes import PyfiPipes, SharedMemory
from benchmarks.pyfi import PyfiEmbedded, PyfiRabbitMQ
from benchmarks.report import Report, machine
from benchmarks.system import Driver, Surroundings, System
from pyfi_hpc.db.embedded import remove_below

SYSTEMS = {
    each.name: each
    for each in (PyfiRabbitMQ, PyfiEmbedded, Celery, Dramatiq, Parsl, Dask, Ray, Pool, PyfiPipes, SharedMemory)
}


def _chosen(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not names or (unknown := [name for name in names if name not in SYSTEMS]):
        raise click.BadParameter(f"{', '.join(unknown) if names else 'nothing'}: known are {', '.join(SYSTEMS)}")
    return [name for name in SYSTEMS if name in names]


@click.command()
@click.option("--list", "listing", is_flag=True, help="Say what there is, and end.")
@click.option("--only", type=click.Choice(list(MEASURES)), multiple=True, help="This measure alone; may be repeated.")
@click.option("--systems", callback=_chosen, default=",".join(SYSTEMS), help="These alone: names, with commas.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Every system once a round.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=4.0, show_default=True, help="For each measure.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures there.")
def main(
    listing: bool, only: tuple[str, ...], systems: list[str], rounds: int, seconds: float, file: Path | None
) -> None:
    """Measure pyfi-hpc and its peers side by side; the tables go to stdout."""
    if listing:
        _list()
        return
    # as installed: what starts a second time is not compiled again, whatever is set for development
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    wanted = [measure for measure in MEASURES if measure in only or not only]
    made = [SYSTEMS[name]() for name in systems]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyfi-bench-", dir="/tmp")))
        folder.chmod(0o711)
        stack.callback(remove_below, folder)
        running = _started(made, Surroundings(folder, stack, wanted))
        done = [_round(number, running, wanted, seconds) for number in range(1, rounds + 1)]
    report = Report(
        machine(), seconds, {s.name: s.what for s in made}, {s.name: dict(s.versions()) for s in made}, done
    )
    report.show(Console(width=None if sys.stdout.isatty() else 160))
    if file is not None:
        file.write_text(json.dumps(report.as_json(), indent=2) + "\n")


def _list() -> None:
    for name, measure in MEASURES.items():
        click.echo(f"{name:14} {measure.what}")
    for name, system in SYSTEMS.items():
        click.echo(f"{name:14} {system.what}")


def _started(systems: Sequence[System], around: Surroundings) -> list[tuple[System, Driver]]:
    """Each with its driver, after a first call."""
    running = []
    for system in systems:
        began = time.monotonic()
        driver = system.start(around)
        driver.wait_ready()
        running.append((system, driver))
        _say(f"{system.name} is up after {time.monotonic() - began:.1f} s")
    return running


def _round(
    number: int, running: Sequence[tuple[System, Driver]], wanted: Sequence[str], seconds: float
) -> dict[str, dict[str, dict[str, float]]]:
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for name in wanted:
        able = [(system, driver) for system, driver in running if name in system.does]
        if able:
            figures[name] = {system.name: dict(MEASURES[name].run(system, driver, seconds)) for system, driver in able}
            for system, found in figures[name].items():
                _say(f"round {number}, {name}, {system}: " + ", ".join(f"{k} {v:,.4g}" for k, v in found.items()))
    return figures


def _say(text: str) -> None:
    print(f"==> {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
