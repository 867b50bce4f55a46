"""The demo itself: set up, run, do harm on the way, merge, check, tell."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any, Protocol, TextIO

import psycopg2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pyfi_hpc import verify
from pyfi_hpc.client.client import Client
from pyfi_hpc.client.futures import Future
from pyfi_hpc.config import Settings
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.demo import source
from pyfi_hpc.demo.code import ANALYSE, MERGE
from pyfi_hpc.demo.findings import show_findings
from pyfi_hpc.errors import Fault, WaitTimeout
from pyfi_hpc.processes import until

#: So many findings are merged by one call.
BATCH = 32
#: After the last value, acks and hold rows of the harmed calls may take a moment.
QUIET_SECONDS = 15.0
#: Something is wrong with a machine that needs longer.
TIME_LIMIT_SECONDS = 300.0


class Stage(Protocol):
    """Where a demo plays: services and workers of its own, all of it gone afterwards."""

    #: what is being started, for a person
    opening: str
    #: whose processes the checker looks for; None: it cannot look there
    host: str | None

    @property
    def settings(self) -> Settings:
        """Of everything on it, once it is open."""

    @property
    def accepted(self) -> Path:
        """The file of the ids that the broker has confirmed."""

    def open(self) -> AbstractContextManager[Client]:
        """A client of the running stage."""

    def build(self, client: Client) -> Sequence[str]:
        """The processor `analysis` with its two sockets; lines that say what was made."""

    def harm(self, cursor: Cursor) -> str:
        """Take something away on which calls run now; what, for a person."""

    def shares(self, cursor: Cursor) -> str:
        """Who ran how many calls."""


def run(stage: Stage, out: TextIO | None = None) -> int:
    """Show the demo on `out` (stdout); 0 only if the invariant checker found every promise kept."""
    console = Console(file=out or sys.stdout, highlight=False, soft_wrap=not (out or sys.stdout).isatty())
    console.print(stage.opening)
    with stage.open() as client:
        return _Demo(console, stage, client).run()


class _Demo:
    def __init__(self, console: Console, stage: Stage, client: Client) -> None:
        self._console, self._stage, self._client = console, stage, client

    def run(self) -> int:
        for line in self._stage.build(self._client):
            self._console.print(line, markup=False)
        texts = source.files()
        self._console.print(f"Sending {len(texts):,} files of Python's standard library, a durable call each …")
        began = time.monotonic()
        found = self._merged(self._analysed(texts))
        seconds = time.monotonic() - began
        report = self._check()
        self._console.print()
        show_findings(self._console, found)
        self._console.print()
        self._console.print(f"{report.done:,} calls in {seconds:.1f} s: {report.done / seconds:,.0f} calls per second")
        with self._session() as connection, connection.cursor() as cursor:
            self._console.print(self._stage.shares(cursor), markup=False)
        for problem in report.problems:
            self._console.print(problem, markup=False)
        self._console.print(report.line)
        return 0 if report.ok else 1

    def _session(self) -> Any:
        return closing(psycopg2.connect(self._client.session.database_uri))

    # the calls

    def _analysed(self, texts: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        futures = self._client.submit_many(ANALYSE, texts)
        with _Bar(self._console, len(futures)) as bar:
            third = _After(futures, len(futures) // 3, bar.advance)
            third.wait(self._still_working)
            bar.say(f"After {third.done:,} of {len(futures):,}: {self._harm()}")
            return [future.result(TIME_LIMIT_SECONDS) for future in futures]

    def _merged(self, parts: list[dict[str, Any]]) -> dict[str, Any]:
        """A tree of merges: the findings of all."""
        while len(parts) > 1:
            batches = [(parts[at : at + BATCH],) for at in range(0, len(parts), BATCH)]
            parts = [future.result(TIME_LIMIT_SECONDS) for future in self._client.submit_many(MERGE, batches)]
        return parts[0]

    def _still_working(self) -> None:
        """Raises what keeps the processor from running, where something does."""
        processor = self._client.network.show("processor", "analysis")
        if processor["status"] == "FAILED":
            reason = processor["reason"] or {}
            raise Fault(reason.get("code", "E_INTERNAL"), f"the demo's processor cannot run: {reason.get('what')}")

    def _harm(self) -> str:
        with self._session() as connection, connection.cursor() as cursor:
            return self._stage.harm(cursor)

    # the check

    def _check(self) -> verify.Report:
        """The checker's report, once all is quiet."""
        reports: list[verify.Report] = []

        def fine() -> bool:
            reports.append(self._checked())
            return reports[-1].quiet

        until(fine, QUIET_SECONDS, interval=0.25)
        return reports[-1]

    def _checked(self) -> verify.Report:
        settings, session = self._stage.settings, self._client.session
        accepted = verify.read_accepted(self._stage.accepted)
        with self._session() as connection:
            return verify.check(
                connection, accepted, broker=session.broker, blob_dir=settings.blob_dir, host=self._stage.host
            )


class _After:
    """Waits until so many of some futures are done, and goes on counting."""

    def __init__(self, futures: Sequence[Future], count: int, told: Callable[[int], None]) -> None:
        self._count, self._told = max(1, count), told
        self._lock, self._there = threading.Lock(), threading.Event()
        self.done = 0
        for future in futures:
            future.add_done_callback(self._one_more)

    def _one_more(self, _: Future) -> None:
        with self._lock:
            self.done += 1
            self._told(self.done)
            if self.done >= self._count:
                self._there.set()

    def wait(self, check: Callable[[], None]) -> None:
        """Return when so many are done; `check` is called every second meanwhile."""
        deadline = time.monotonic() + TIME_LIMIT_SECONDS
        while not self._there.wait(1.0):
            check()
            if time.monotonic() > deadline:
                raise WaitTimeout("E_TIMEOUT", f"only {self.done} calls are done after {TIME_LIMIT_SECONDS:g} s")


class _Bar:
    """A bar on a terminal, else a line for each tenth."""

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total, self._tenth = console, total, 0
        columns = (TextColumn("analysing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console) if console.is_terminal else None
        self._task = self._progress.add_task("", total=total) if self._progress else None

    def __enter__(self) -> _Bar:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

    def advance(self, done: int) -> None:
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=done)
        elif (tenth := 10 * done // self._total) > self._tenth:
            self._tenth = tenth
            self._console.print(f"analysing {done:,} of {self._total:,} ({10 * tenth} %)")

    def say(self, line: str) -> None:
        self._console.print(line, markup=False)
