"""Do what `pilots.plan` says: rows in the plan's own transaction, jobs one by one and outside of any.

A job that cannot be submitted or cancelled is put off by itself and holds up no other.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Protocol

from pyfi_hpc.control import pilots
from pyfi_hpc.control.leading import Leader
from pyfi_hpc.control.pilots import Action, PilotJob
from pyfi_hpc.db import jobs as rows
from pyfi_hpc.db.jobs import Wanted
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.errors import BadInput, PyfiError, Unavailable
from pyfi_hpc.failpoints import reach
from pyfi_hpc.logs import logger
from pyfi_hpc.model.status import JobStatus
from pyfi_hpc.slurm.launcher import Launcher, Observation, Submission

log = logger("pyfi.scheduler")


class Prepare(Protocol):
    """Makes the job script of a job on record, and the file that its agents read their settings from."""

    def __call__(self, wanted: Wanted, /) -> tuple[Submission, str | None]:
        """The submission, and where Slurm writes the job's output, with Slurm's own patterns (`%j`) in it."""


def note(cursor: Cursor, scheduler: str, action: Action, jobs: Mapping[bytes, PilotJob]) -> None:
    """Write what needs no Slurm."""
    match action:
        case pilots.Want():
            token = secrets.token_hex(16)
            rows.want(
                cursor, scheduler, token=token, processor=action.processor, request=action.request,
                workers=action.workers,
            )  # fmt: skip
        case pilots.Adopt() | pilots.Update():
            _observe(cursor, jobs[action.job], action.observation)
        case pilots.Miss():
            rows.miss(cursor, action.job)
        case pilots.Forget():
            rows.forget(cursor, action.job)
        case pilots.Drain():
            rows.drain(cursor, action.job, action.seconds)
        case pilots.End():
            rows.end(cursor, action.job, action.reason)
            _tell(cursor, jobs[action.job], JobStatus.ENDED, action.reason)
        case pilots.Explain():
            rows.explain(cursor, action.processor, action.what)
        case pilots.Submit() | pilots.Cancel() | pilots.Suspect():
            pass  # outside of this transaction


def _observe(cursor: Cursor, job: PilotJob, seen: Observation) -> None:
    rows.update(cursor, job.id, seen)
    if seen.status is not job.status:
        reason = rows.ended_because(seen) if seen.status is JobStatus.ENDED else seen.reason
        _tell(cursor, job, seen.status, reason, seen.job)


def _tell(cursor: Cursor, job: PilotJob, status: JobStatus, reason: str | None, slurm_id: str | None = None) -> None:
    name = slurm_id or job.slurm_id or ""
    log.info("job", job=name, token=job.token, status=status.value, reason=reason)
    rows.event(cursor, "job", job.id, name, status.value, {"reason": reason} if reason else None)


class Hands:
    """Submits and cancels jobs. Counts in `queries` how often Slurm was asked."""

    def __init__(self, leader: Leader, launcher: Launcher, prepare: Prepare) -> None:
        self._leader, self._launcher, self._prepare = leader, launcher, prepare
        self.queries = 0

    def act(self, action: Action, job: PilotJob | None) -> None:
        """Submit or cancel. What goes wrong is put on the job's row.

        Raises:
            Fault: E_FENCED, another process leads.
            DatabaseUnavailable.
        """
        match action:
            case pilots.Submit() if job is not None:
                self._submit(job)
            case pilots.Cancel() if job is not None and job.slurm_id is not None:
                self._cancel(job, job.slurm_id, action.seconds)

    # submitting

    def _submit(self, job: PilotJob) -> None:
        reach("submit_before_intent")
        try:
            made = self._leader.write(lambda cursor: self._intend(cursor, job))
        except (BadInput, OSError, ValueError) as error:
            self._fail(job, error)
            return
        if made is None:
            return
        reach("submit_after_intent")
        try:
            self.queries += 1
            slurm_id = self._launcher.submit(made)
        except Unavailable as error:
            log.warning("whether Slurm has the job is not known", token=job.token, reason=error.what)
            why = f"{error.what}; it is looked for by its token"
            self._leader.write(lambda cursor: rows.uncertain(cursor, job.id, why))
        except PyfiError as error:
            self._fail(job, error)
        else:
            reach("submit_after_sbatch")
            self._leader.write(lambda cursor: _submitted(cursor, job, slurm_id))

    def _intend(self, cursor: Cursor, job: PilotJob) -> Submission | None:
        """From this transaction's commit on Slurm may have been asked."""
        wanted = rows.begin(cursor, job.id)
        if wanted is None:
            return None
        submission, output = self._prepare(wanted)
        rows.keep_script(cursor, job.id, submission.script, submission.arguments, output)
        return submission

    def _fail(self, job: PilotJob, error: Exception) -> None:
        """Refused for good, or, for a reason of ours, put off: Slurm has not taken it in either case."""
        if isinstance(error, BadInput) and error.code != "E_NO_SLURM":
            log.info("job refused", token=job.token, code=error.code, reason=error.what)
            self._leader.write(lambda cursor: _refused(cursor, job, error))
            return
        what = error.what if isinstance(error, PyfiError) else str(error)
        seconds = pilots.backoff_seconds(job.failures + 1, job.token)
        log.error("job not submitted", token=job.token, reason=what, again_seconds=round(seconds, 1))
        self._leader.write(lambda cursor: rows.put_off(cursor, job.id, what, seconds))

    # cancelling

    def _cancel(self, job: PilotJob, slurm_id: str, again_seconds: float) -> None:
        try:
            self.queries += 1
            # a controller that lost its state gives numbers again: whose is it now?
            if not pilots.is_this(self._launcher.observe([slurm_id])[slurm_id], job.token):
                return
            self.queries += 1
            self._launcher.cancel(slurm_id)
        except PyfiError as error:
            log.warning("job not cancelled", job=slurm_id, reason=error.what)
            return
        self._leader.write(lambda cursor: _cancelled(cursor, job, again_seconds))


def _submitted(cursor: Cursor, job: PilotJob, slurm_id: str) -> None:
    rows.submitted(cursor, job.id, slurm_id)
    _tell(cursor, job, JobStatus.PENDING, None, slurm_id)


def _refused(cursor: Cursor, job: PilotJob, error: BadInput) -> None:
    rows.end(cursor, job.id, error.what)
    _tell(cursor, job, JobStatus.ENDED, error.what)


def _cancelled(cursor: Cursor, job: PilotJob, seconds: float) -> None:
    rows.cancelled(cursor, job.id, seconds)
    _tell(cursor, job, JobStatus.ENDING, "cancelled")
