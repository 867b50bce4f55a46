"""The soak's command: see `docs/benchmarks.md`."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from benchmarks import needed  # noqa: F401 (before all that needs them)
from benchmarks.soak.harm import Harm
from benchmarks.soak.load import PATIENCE_SECONDS
from benchmarks.soak.report import Soak
from benchmarks.soak.stage import LASTING, Stage
from benchmarks.soak.watch import Watch
from pyfi_hpc.processes import until
from pyfi_hpc.verify import Report

#: How long all may take to become quiet once nobody kills any more.
QUIET_SECONDS = 120.0


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="Of load and kills.")
@click.option("--seed", type=int, default=None, help="Of what is killed and when; chosen and told by default.")
@click.option("--every", type=click.FloatRange(min=1), default=12.0, show_default=True, help="Seconds between kills.")
@click.option("--rate", type=click.FloatRange(min=1), default=100.0, show_default=True, help="Calls a second.")
@click.option("--embedded", is_flag=True, help="Without RabbitMQ: Postgres is the broker too.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Leave logs and lists in this folder.")
def main(minutes: float, seed: int | None, every: float, rate: float, embedded: bool, keep: Path | None) -> None:
    """Load while workers, agents, RabbitMQ and Postgres are killed; ends with an error if anything is lost or stuck."""
    seed = random.SystemRandom().randrange(10**9) if seed is None else seed
    _say(f"seed {seed}")
    with ExitStack() as stack:
        home = _home(stack, keep)
        found = _soak(stack.enter_context(Stage(home, embedded=embedded)), minutes, seed, every, rate)
    for line in found.lines():
        click.echo(line)
    sys.exit(1 if found.faults else 0)


def _home(stack: ExitStack, keep: Path | None) -> Path:
    if keep is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyfi-soak-", dir="/tmp")))
    keep.mkdir(parents=True)
    return keep.resolve()


def _soak(stage: Stage, minutes: float, seed: int, every: float, rate: float) -> Soak:
    load = stage.load(rate, seed)
    said = _Said(load)
    harm = Harm(stage, seed, every, said.tell)
    watch = Watch(
        {
            "client": lambda: load.pid,
            "agent": lambda: stage.agent(LASTING),
            "RabbitMQ": lambda: stage.rabbitmq.pid if stage.rabbitmq is not None else None,
        },
        every_seconds=max(1.0, minutes * 60 / 400),
    )
    try:
        watch.start()
        harm.start()
        until(lambda: load.poll() is not None or harm.failed is not None, minutes * 60, interval=0.5)
    finally:
        harm.stop()
        watch.stop()
        said.tell("nobody is killed any more")
        counts = said.last()
    record = _quiet(stage)
    if harm.failed is not None:
        raise harm.failed
    return Soak(
        seed, minutes, counts, record,
        outcomes=dict(stage.site.rows("SELECT status::text, count(*) FROM pyfi.outcome GROUP BY status")),
        held=stage.held(),
        queued=stage.queued(),
        repeats=sum(count - 1 for count in stage.site.executions().values()),
        kills=dict(harm.done),
        slow=[stage.told(*each) for each in counts["slowest"]],
        memory=[watch.line(name) for name, seen in watch.seen.items() if seen],
    )  # fmt: skip


def _quiet(stage: Stage) -> Report:
    """The checker's report, once it is content, or its patience is over."""
    reports: list[Report] = []

    def content() -> bool:
        reports.append(stage.checked())
        return reports[-1].quiet

    until(content, QUIET_SECONDS, interval=1.0)
    return reports[-1]


class _Said:
    """What the load says, as it says it."""

    def __init__(self, load: subprocess.Popen[str]) -> None:
        self._load, self._began = load, time.monotonic()
        self._line = ""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self._load.stdout is not None
        for line in self._load.stdout:
            self._line = line

    def tell(self, what: str) -> None:
        """Say what happens, and how the load does."""
        now: Mapping[str, Any] = json.loads(self._line or "{}")
        at = time.monotonic() - self._began
        _say(f"{at:6.1f} s: {what}; {now.get('submitted', 0):,} submitted, {now.get('waiting', 0):,} wait")

    def last(self) -> dict[str, Any]:
        """The last line, once the load has ended.

        Raises:
            RuntimeError: it has failed.
        """
        assert self._load.stdin is not None
        self._load.stdin.close()
        try:
            status = self._load.wait(PATIENCE_SECONDS + 60)
        except subprocess.TimeoutExpired:
            self._load.kill()
            raise RuntimeError("the load does not end") from None
        self._thread.join()
        if status:
            raise RuntimeError(f"the load ended with status {status}: see load.log")
        found: dict[str, Any] = json.loads(self._line)
        return found


def _say(text: str) -> None:
    print(f"==> {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
