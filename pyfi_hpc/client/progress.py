"""How far a number of futures is: a bar on a terminal, plain lines in a log; failures are counted apart."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable
from typing import Any, Protocol, TextIO

from pyfi_hpc.client.futures import Future

_LINE_SHARE, _LINE_SECONDS = 0.1, 30.0


class _Display(Protocol):
    def show(self, done: int, failed: int) -> None:
        """So many are done, `failed` of them without a value."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def end(self) -> None:
        """All are done."""


class _Lines:
    """One line for every tenth, or every 30 seconds."""

    def __init__(self, total: int, what: str, out: TextIO) -> None:
        self._total, self._what, self._out = total, what, out
        self._shown, self._at = 0, time.monotonic()

    def show(self, done: int, failed: int) -> None:
        late = time.monotonic() - self._at >= _LINE_SECONDS
        if done < self._total and not late and done - self._shown < self._total * _LINE_SHARE:
            return
        self._shown, self._at = done, time.monotonic()
        failures = f", {failed} failed" if failed else ""
        self.say(f"{self._what} {done} of {self._total} ({100 * done // self._total} %){failures}")

    def say(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def end(self) -> None:
        """The last line is there already."""


class _Bar:
    """A bar that redraws itself."""

    def __init__(self, total: int, what: str, out: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        failures = TextColumn("[red]{task.fields[failures]}")
        self._bar: Any = Progress(*columns, failures, console=Console(file=out), refresh_per_second=5)
        self._task = self._bar.add_task(what, total=total, failures="")
        self._bar.start()

    def show(self, done: int, failed: int) -> None:
        self._bar.update(self._task, completed=done, failures=f"{failed} failed" if failed else "")

    def say(self, text: str) -> None:
        from rich.text import Text

        self._bar.console.print(Text(text))

    def end(self) -> None:
        self._bar.stop()


class _Count:
    """Counts futures as they get done, from any thread, and shows the first error at once."""

    def __init__(self, total: int, display: _Display) -> None:
        self._total, self._display = total, display
        self._lock = threading.Lock()
        self._done = self._failed = 0

    def add(self, future: Future) -> None:
        """One more is done."""
        failed = future.status != "SUCCEEDED"
        with self._lock:
            self._done += 1
            self._failed += failed
            if failed and self._failed == 1:
                self._display.say(f"first failure: {_words(future)}")
            self._display.show(self._done, self._failed)
            if self._done == self._total:
                self._display.end()


def _words(future: Future) -> str:
    try:
        future.result(timeout=0)
    except Exception as error:
        return f"{future!r} {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return repr(future)


def progress(futures: Iterable[Future], *, what: str = "calls", out: TextIO | None = None) -> list[Future]:
    """The same futures, as a list; how far they are is shown on `out` (stderr) from now on, until all are done."""
    every = list(futures)
    if not every:
        return every
    stream = out or sys.stderr
    display: _Display = (_Bar if stream.isatty() else _Lines)(len(every), what, stream)
    count = _Count(len(every), display)
    for future in every:
        future.add_done_callback(count.add)
    return every
