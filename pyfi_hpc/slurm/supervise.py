"""The supervisor of one local job: claims its number, runs its script, ends it in time, and writes down how it ended.

    python -P -m pyfi_hpc.slurm.supervise PREPARED JOBS

PREPARED is a folder with `job.json` and `script`; once it is `JOBS/NUMBER`, the job is there for all to see and the
number is printed. From then on the job needs nobody else: the process that submitted it may be gone.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyfi_hpc.agent import kernel
from pyfi_hpc.processes import children
from pyfi_hpc.slurm import marks

_AWAITED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
#: How often the job is looked at without a signal.
_LOOK_SECONDS = 60.0


def main(prepared: Path, jobs: Path) -> None:
    """Run the job to its end; the process that started this one returns as soon as its number is printed."""
    # a cancellation that comes early waits until it is asked for
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    if os.fork():
        os._exit(0)
    kernel.adopt_orphans()
    folder = _claim(prepared, jobs)
    print(folder.name, flush=True)
    _close_output()
    Supervisor(folder).run()


def _claim(prepared: Path, jobs: Path) -> Path:
    """Make the prepared folder the job with the next free number."""
    marks.write(prepared / marks.RUNNING, {**marks.this_process(), "started": time.time()})
    while True:
        folder = jobs / str(max(marks.numbers(jobs), default=0) + 1)
        try:
            # onto a folder with something in it: another job was faster
            prepared.rename(folder)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        else:
            return folder


def _close_output() -> None:
    """Let the submitter's pipe go: it reads to the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


class Supervisor:
    """One job, from the start of its script until nothing of it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job: dict[str, Any] = json.loads((folder / marks.JOB).read_text())
        self.began = time.monotonic()
        self.status: int | None = None
        #: Slurm's word for why it was ended, where it did not end by itself
        self.ended_by: str | None = None
        self.kill_at: float | None = None
        self.warned = False
        self._asked: set[int] = set()

    def run(self) -> None:
        """Afterwards the job has ended, and how is on record."""
        try:
            self.process = self._start()
        except (OSError, subprocess.SubprocessError) as error:
            marks.write(self.folder / marks.ENDED, _outcome("FAILED", "1:0", f"it could not be started: {error}"))
            return
        while self._left() or self.status is None:
            self._wait()
            self._reap()
            self._act()
        marks.write(self.folder / marks.ENDED, self._outcome())

    def _start(self) -> subprocess.Popen[bytes]:
        job = self.job
        environment = {**os.environ, "PYFI_JOB_ID": self.folder.name}
        if job["limit_seconds"] is not None:
            environment["PYFI_JOB_ENDS_AT"] = str(int(time.time() + job["limit_seconds"]))
        with open(os.devnull) as nothing, open(self._output(), "ab") as output:
            return subprocess.Popen(
                ["bash", str(self.folder / marks.SCRIPT)],
                stdin=nothing,
                stdout=output,
                stderr=output,
                cwd=job["chdir"],
                env=environment,
                start_new_session=True,
                preexec_fn=_as_child_of(os.getpid()),
            )

    def _output(self) -> Path:
        """Where the output goes: as asked, from the job's folder on. Source: sbatch(1), "filename pattern"."""
        values = {"%": "%", "j": self.folder.name, "A": self.folder.name, "x": self.job["name"]}
        asked = re.sub("%([%jAx])", lambda found: values[found[1]], self.job["output"])
        return Path(self.job["chdir"]) / asked if asked else self.folder / marks.OUTPUT

    def _wait(self) -> None:
        """Sleep until something is due, a child ends or somebody wants the job to end."""
        now = time.monotonic()
        due = min((at for at in self._dues() if at is not None), default=now + _LOOK_SECONDS)
        told = signal.sigtimedwait(_AWAITED, max(0.0, min(due - now, _LOOK_SECONDS)))
        if told is not None and told.si_signo != signal.SIGCHLD:
            self._stop("CANCELLED")

    def _dues(self) -> Iterator[float | None]:
        yield self.kill_at
        if self.ended_by is None and self.status is None:
            yield self._limit()
            yield self._warning()

    def _limit(self) -> float | None:
        seconds = self.job["limit_seconds"]
        return None if seconds is None else self.began + seconds

    def _warning(self) -> float | None:
        limit, warn = self._limit(), self.job["warn"]
        return None if limit is None or warn is None or self.warned else limit - warn["seconds"]

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.process.pid:
                    self.status = ended[1]
                    # told by hand: it was waited for here
                    self.process.returncode = os.waitstatus_to_exitcode(ended[1])

    def _act(self) -> None:
        """What the clock, or the script's end, asks for."""
        now = time.monotonic()
        warning, limit = self._warning(), self._limit()
        if self.status is not None or self.ended_by is not None:
            self._end_rest()
        elif limit is not None and now >= limit:
            self._stop("TIMEOUT")
        elif warning is not None and now >= warning:
            self.warned = True
            warn = self.job["warn"]
            self._signal([self.process.pid] if warn["script_only"] else self._left(), warn["signal"])
        if self.kill_at is not None and now >= self.kill_at:
            self._signal(self._left(), signal.SIGKILL)
            # one that was just being started may have been missed
            self.kill_at = now + 0.1

    def _stop(self, word: str) -> None:
        """Ask the job to end; whatever is left after the grace is killed."""
        self.ended_by = self.ended_by or word
        self._end_rest()

    def _end_rest(self) -> None:
        """Ask each process once, also those that were just being started when the others were asked."""
        left = [pid for pid in self._left() if pid not in self._asked]
        if left and self.kill_at is None:
            self.kill_at = time.monotonic() + self.job["grace_seconds"]
            marks.write(self.folder / marks.ENDING, {"state": "COMPLETING"})
        self._asked.update(left)
        self._signal(left, signal.SIGTERM)

    def _left(self) -> list[int]:
        """Every process of the job: all that is below this one, since those that lose their parent come to it."""
        return list(_below(os.getpid()))

    def _signal(self, pids: list[int], sign: int) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, sign)

    def _outcome(self) -> dict[str, Any]:
        status = self.status or 0
        sign, code = (os.WTERMSIG(status), 0) if os.WIFSIGNALED(status) else (0, os.WEXITSTATUS(status))
        state = self.ended_by or ("COMPLETED" if status == 0 else "FAILED")
        return _outcome(state, f"{code}:{sign}")


def _outcome(state: str, exit_code: str, reason: str | None = None) -> dict[str, Any]:
    return {"state": state, "exit_code": exit_code, "reason": reason, "ended": time.time()}


def _below(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from _below(child)


def _as_child_of(parent: int) -> Any:
    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        kernel.tie_to(parent)

    return prepare


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
