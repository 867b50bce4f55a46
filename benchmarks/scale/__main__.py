"""The command for what grows: see `docs/benchmarks.md`."""

from __future__ import annotations

import json
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from benchmarks import needed  # noqa: F401 (before all that needs them)
from benchmarks.measures import costs, described
from benchmarks.pyfi import UV_VARIABLES, BenchSite
from benchmarks.report import Report, machine
from benchmarks.scale.sites import KINDS, Kind
from benchmarks.system import ROOT, Driver
from benchmarks.table import Round
from pyfi_hpc.box.postgres import ADMIN, ROLE, Postgres
from pyfi_hpc.box.rabbitmq import RabbitMQ
from pyfi_hpc.db import schema
from tests.faults.own import as_admin

SMALL, LARGE = "small", "pyfi-large"


@click.command()
@click.option("--list", "listing", is_flag=True, help="Say what there is, and end.")
@click.option("--only", type=click.Choice(list(KINDS)), multiple=True, help="This one alone; may be repeated.")
@click.option("--many", type=click.IntRange(min=2), help="How many there are in the large one, in place of the usual.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0.1), default=4.0, show_default=True, help="For each measure.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures there.")
def main(
    listing: bool, only: tuple[str, ...], many: int | None, rounds: int, seconds: float, file: Path | None
) -> None:
    """Measure what a call costs in a large installation beside a small one."""
    if listing:
        for name, kind in KINDS.items():
            click.echo(f"{name:14} {described(name)[0]}: {kind.few:,} and {kind.many:,}")
        return
    done: list[Report] = []
    for name in KINDS:
        if name in only or not only:
            done.append(_measured(name, KINDS[name], many or KINDS[name].many, rounds, seconds))
            done[-1].show(Console(width=None if sys.stdout.isatty() else 160))
    if file is not None:
        file.write_text(json.dumps([report.as_json() for report in done], indent=2) + "\n")


def _measured(name: str, kind: Kind, many: int, rounds: int, seconds: float) -> Report:
    whats = {SMALL: f"{kind.few:,} {name}", LARGE: f"{many:,} {name}"}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyfi-bench-", dir="/tmp")))
        servers = _Servers(stack.enter_context(RabbitMQ()), stack.enter_context(Postgres()))
        sizes = {SMALL: kind.few, LARGE: many}
        made = {which: servers.made(folder / which, kind, size, stack) for which, size in sizes.items()}
        done = [_round(name, made, seconds) for _ in range(rounds)]
    return Report(machine(), seconds, whats, {}, done)


def _round(name: str, made: Mapping[str, _Made], seconds: float) -> Round:
    figures = {which: costs(one.driver, one.pids, seconds) for which, one in made.items()}
    for which, found in figures.items():
        _say(f"{name}, {which}: " + ", ".join(f"{key} {value:,.4g}" for key, value in found.items()))
    return {name: figures}


@dataclass(frozen=True)
class _Made:
    """An installation that is up, with somebody who calls it."""

    driver: Driver
    pids: Sequence[int]


@dataclass(frozen=True)
class _Servers:
    rabbitmq: RabbitMQ
    postgres: Postgres

    def made(self, home: Path, kind: Kind, size: int, stack: ExitStack) -> _Made:
        """An installation of that size, in a database of its own."""
        began = time.monotonic()
        home.mkdir()
        name = f"bench_{uuid.uuid4().hex[:10]}"
        as_admin(self.postgres, f"CREATE DATABASE {name}")
        schema.init(self.postgres.uri(ADMIN, name), grant_to=ROLE)
        site = BenchSite(home, self.postgres.uri(ROLE, name), self.rabbitmq.uri, UV_VARIABLES)
        stack.callback(site.close)
        sockets = kind.furnish(site, self.postgres, size)
        command = [sys.executable, "-m", "benchmarks.drivers.pyfi_spread", *sockets]
        driver = stack.enter_context(Driver(command, {**site.environment, "PYTHONPATH": str(ROOT)}))
        driver.wait_ready()
        _say(f"{home.name} is up after {time.monotonic() - began:.0f} s")
        servers = (self.rabbitmq.pid or 0, self.postgres.pid or 0)
        return _Made(driver, [driver.pid, *servers, *(agent.pid for agent in site.agents)])


def _say(text: str) -> None:
    print(f"==> {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
