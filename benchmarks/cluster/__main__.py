"""The cluster benchmarks' command: see `docs/benchmarks.md`."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click
import structlog
from rich.console import Console

from benchmarks import needed  # noqa: F401 (before all that needs them)
from benchmarks.cluster.first_result import open_first_result
from benchmarks.cluster.passes import open_passes
from benchmarks.cluster.queries import open_queries
from benchmarks.cluster.report import Benchmark, Round, Surroundings, load, table
from pyfi_hpc.agent.logs import log_to_stderr
from pyfi_hpc.db.embedded import remove_below

BENCHMARKS = {
    each.name: each
    for each in (
        Benchmark("pass", "a reconcile pass over 1,000 nodes and 10,000 workers that are rows alone", open_passes),
        Benchmark("queries", "how often slurmctld is asked: per minute, with 1, 10 and 50 pilots", open_queries),
        Benchmark("first-result", "from `pyfi submit` to the first result of a call", open_first_result),
    )
}


@click.command()
@click.option("--list", "listing", is_flag=True, help="Say what there is, and end.")
@click.option("--only", type=click.Choice(list(BENCHMARKS)), multiple=True, help="This one alone; may be repeated.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=20.0,
    show_default=True,
    help="How long the scheduler is watched.",
)
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures there.")
def main(listing: bool, only: tuple[str, ...], rounds: int, seconds: float, file: Path | None) -> None:
    """Measure the control plane of clusters; the tables go to stdout."""
    if listing:
        for each in BENCHMARKS.values():
            click.echo(f"{each.name:14} {each.what}")
        return
    log_to_stderr()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    console, done = Console(width=None if sys.stdout.isatty() else 140), {}
    for name in only or BENCHMARKS:
        done[name] = _measured(BENCHMARKS[name], rounds, seconds)
        console.print(table(f"{name}: {BENCHMARKS[name].what}", done[name]))
    if file is not None:
        file.write_text(json.dumps({"load": load(), "seconds": seconds, "rounds": done}, indent=2) + "\n")


def _measured(benchmark: Benchmark, rounds: int, seconds: float) -> list[Round]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyfi-bench-", dir="/tmp")))
        folder.chmod(0o711)
        stack.callback(remove_below, folder)
        one = stack.enter_context(benchmark.open(Surroundings(folder, seconds)))
        return [one() for _ in range(rounds)]


if __name__ == "__main__":
    main()
