"""The launcher of a machine without Slurm: a job is a supervised session in the background, with its own folder."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyfi_hpc.errors import BadInput, Unavailable
from pyfi_hpc.model.status import JobStatus
from pyfi_hpc.slurm import marks
from pyfi_hpc.slurm.environment import job_environment
from pyfi_hpc.slurm.launcher import JobId, Observation, Partition, Submission
from pyfi_hpc.slurm.parsing import seconds, token_of
from pyfi_hpc.slurm.states import status_of

#: The one partition.
PARTITION = "local"
#: Options that ask for what one machine without a queue cannot do: long form → short form.
_CANNOT: Mapping[str, str] = {"--array": "-a", "--dependency": "-d", "--begin": "-b"}
#: How long it is known how a job ended; the newest job is kept for its number.
KEPT_SECONDS = 7 * 86_400.0


class LocalJobs:
    """Jobs of this machine, in `folder`; they outlive the process that submits them.

    Of a submission's options `--comment`, `--time`, `--signal`, `--chdir` and `--output` count (with `%j`, `%A`, `%x`),
    and those that cannot be kept are refused; resources are neither checked nor limited. A script sees PYFI_JOB_ID
    and, with a time limit, PYFI_JOB_ENDS_AT (seconds since 1970). Whatever runs when a job is cancelled, its time is
    up, or its script has ended, gets SIGTERM, and SIGKILL after the grace.
    """

    kind = "local"
    step: Sequence[str] = ()

    def __init__(self, folder: Path, *, grace_seconds: float = 30.0) -> None:
        """`folder` is made when it is needed; `grace_seconds` lie between SIGTERM and SIGKILL.

        The default is Slurm's own. Source: slurm.conf(5), KillWait.
        """
        self.folder, self._grace = folder, grace_seconds

    # jobs

    def submit(self, submission: Submission) -> JobId:
        _check(submission)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._forget_old()
        prepared = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
        marks.write(prepared / marks.JOB, self._wanted(submission))
        (prepared / marks.SCRIPT).write_text(submission.script)
        return self._supervised(prepared)

    def _wanted(self, submission: Submission) -> dict[str, Any]:
        arguments = submission.arguments
        return {
            "token": submission.token,
            "name": (option(arguments, "--job-name", "-J") or "sbatch").replace("/", "_"),
            "comment": option(arguments, "--comment") or "",
            "arguments": list(arguments),
            # 0 is no limit. Source: sbatch(1), --time
            "limit_seconds": seconds(option(arguments, "--time", "-t") or "") or None,
            "warn": _warning(option(arguments, "--signal")),
            "output": option(arguments, "--output", "-o") or "",
            "chdir": option(arguments, "--chdir", "-D") or os.getcwd(),
            "grace_seconds": self._grace,
        }

    def _supervised(self, prepared: Path) -> JobId:
        """Start the supervisor, which makes the job visible and prints its number."""
        command = [sys.executable, "-P", "-m", "pyfi_hpc.slurm.supervise", str(prepared), str(self.folder)]
        with open(prepared / "supervisor.log", "wb") as told:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=told,
                env=job_environment(os.environ),
                start_new_session=True,
            )
        job = done.stdout.decode().strip()
        if job:
            return job
        why = (prepared / "supervisor.log").read_text(errors="replace").strip().rpartition("\n")[2]
        shutil.rmtree(prepared)
        raise Unavailable("E_SLURM", f"the job's supervisor did not start: {why}", at=str(self.folder))

    def test(self, submission: Submission) -> str:
        _check(submission)
        return f"the job would start at once on {socket.gethostname()}"

    def observe(self, jobs: Collection[JobId]) -> Mapping[JobId, Observation]:
        return {job: self._look(job) for job in jobs}

    def find(self, tokens: Collection[str]) -> Mapping[str, Observation]:
        wanted = set(tokens)
        found = (self._look(str(number)) for number in sorted(self._numbers()))
        return {seen.token: seen for seen in found if seen.token in wanted and seen.token is not None}

    def cancel(self, job: JobId) -> None:
        mark = marks.read(self.folder / job / marks.RUNNING) if job.isdecimal() else None
        if mark is None or (self.folder / job / marks.ENDED).exists():
            return
        with suppress(ProcessLookupError):
            # its descriptor first: what it is checked against then cannot become another process
            process = os.pidfd_open(mark["pid"])
            try:
                if marks.running(mark):
                    signal.pidfd_send_signal(process, signal.SIGTERM)
            finally:
                os.close(process)

    def _look(self, job: JobId) -> Observation:
        """The job as its folder tells; how it ended is looked for once more where its supervisor is gone."""
        folder = self.folder / job
        asked = marks.read(folder / marks.JOB) if job.isdecimal() else None
        mark = marks.read(folder / marks.RUNNING) if asked else None
        if asked is None or mark is None:
            return Observation(job, JobStatus.UNKNOWN)
        ended = marks.read(folder / marks.ENDED)
        alive = ended is None and marks.running(mark)
        if ended is None and not alive:
            ended = marks.read(folder / marks.ENDED)
        return _told(job, asked, mark, ended, alive, (folder / marks.ENDING).exists())

    def _numbers(self) -> Iterator[int]:
        with suppress(FileNotFoundError):
            yield from marks.numbers(self.folder)

    def _forget_old(self) -> None:
        before = time.time() - KEPT_SECONDS
        ended = [self.folder / str(number) / marks.ENDED for number in sorted(self._numbers())[:-1]]
        # what a submitter left behind that was killed at work
        for mark in [*ended, *(folder / marks.JOB for folder in self.folder.glob(".new-*"))]:
            with suppress(FileNotFoundError):
                if mark.stat().st_mtime < before:
                    shutil.rmtree(mark.parent)

    # the machine

    def partitions(self) -> Sequence[Partition]:
        return [
            Partition(
                name=PARTITION,
                default=True,
                up=True,
                nodes=1,
                cpus_per_node=len(os.sched_getaffinity(0)),
                mem_mib_per_node=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20,
                gpus_per_node=len([path for path in Path("/dev").glob("nvidia*") if path.name[6:].isdecimal()]),
            )
        ]

    def accounts(self) -> frozenset[str] | None:
        return None

    def cluster(self) -> str:
        return socket.gethostname()


def option(arguments: Sequence[str], long: str, short: str = "") -> str | None:
    """The value of an option among sbatch's `arguments`, the last one given; None where it is not."""
    found: str | None = None
    for index, word in enumerate(arguments):
        if word in (long, short):
            found = arguments[index + 1] if index + 1 < len(arguments) else ""
        elif word.startswith(f"{long}="):
            found = word[len(long) + 1 :]
        elif short and word.startswith(short) and not word.startswith("--"):
            found = word[len(short) :]
    return found


def _check(submission: Submission) -> None:
    """Refuse what this machine cannot do.

    Raises:
        BadInput: E_SUBMIT.
    """
    arguments = submission.arguments
    if not submission.script.startswith("#!"):
        raise _refusal("script", submission.script[:40], "its first line must be #! and an interpreter")
    for long, short in _CANNOT.items():
        if (value := option(arguments, long, short)) is not None:
            raise _refusal(long, value, f"{long} takes a cluster with Slurm")
    partition, nodes = option(arguments, "--partition", "-p"), option(arguments, "--nodes", "-N")
    if partition not in (None, "", PARTITION):
        raise _refusal("--partition", partition, f"this machine has no partition but {PARTITION}")
    if nodes not in (None, "1", "1-1"):
        raise _refusal("--nodes", nodes, "this machine is one node")
    limit = option(arguments, "--time", "-t")
    if limit is not None and seconds(limit) is None and limit.upper() not in ("UNLIMITED", "INFINITE"):
        raise _refusal("--time", limit, "not a time limit as Slurm writes it")


def _refusal(field: str, value: str | None, what: str) -> BadInput:
    return BadInput.of("E_SUBMIT", field, value, f"the local launcher refuses the job: {what}")


def _warning(text: str | None) -> dict[str, Any] | None:
    """What `--signal=[B:]NAME@SECONDS` asks for; 60 seconds where it does not say. Source: sbatch(1), --signal."""
    found = re.fullmatch(r"([RB]*:)?(?:SIG)?([A-Z]+\d?|\d+)(?:@(\d+))?", text or "", re.IGNORECASE)
    if found is None:
        return None
    named = found[2].upper()
    number = int(named) if named.isdecimal() else getattr(signal, f"SIG{named}", None)
    if number is None:
        return None
    return {
        "signal": int(number),
        "seconds": int(found[3] or 60),
        "script_only": "B" in (found[1] or "").upper(),
    }


def _told(
    job: JobId,
    asked: Mapping[str, Any],
    mark: Mapping[str, Any],
    ended: Mapping[str, Any] | None,
    alive: bool | None,
    ending: bool,
) -> Observation:
    limit = asked["limit_seconds"]
    started = _moment(mark["started"])
    if ended is not None:
        state, code, at, reason = ended["state"], ended["exit_code"], _moment(ended["ended"]), ended["reason"]
    elif alive:
        state, code, at, reason = "COMPLETING" if ending else "RUNNING", None, None, None
    elif alive is None:
        state, code, at, reason = "", None, None, f"it was started on {mark['host']}"
    else:
        # killed, or the machine was started anew
        state, code, at, reason = "NODE_FAIL", None, None, "its supervisor is gone"
    status = status_of(state)
    return Observation(
        job=job,
        status=status,
        state=state,
        reason=reason,
        token=token_of(asked["comment"]) or asked["token"],
        nodes=mark["host"],
        exit_code=code,
        started=started,
        ends_at=None if limit is None or status is JobStatus.ENDED else started + datetime.timedelta(seconds=limit),
        ended=at,
    )


def _moment(seconds_since_1970: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds_since_1970, datetime.UTC)
