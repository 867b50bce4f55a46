"""Ask for a pilot and have it sent: by the scheduler that leads, else by this very process.

Also what other commands need who change a job's row while perhaps nobody leads.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from pyfi_hpc.brokers.base import Broker
from pyfi_hpc.config import Settings
from pyfi_hpc.control import credentials, preparing
from pyfi_hpc.control.leading import Database
from pyfi_hpc.control.pilots import Patience
from pyfi_hpc.control.scheduler import Scheduler
from pyfi_hpc.db import job_listing as listed
from pyfi_hpc.db import jobs as rows
from pyfi_hpc.db.jobs import Standing
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.errors import BadInput, PyfiError, Unavailable
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.model.status import JobStatus
from pyfi_hpc.slurm.launcher import Launcher

__all__ = ["Control", "HINT", "Standing", "act", "refresh", "submit", "turn_if_alone", "until"]

#: What a hint says that tells of a change to jobs.
HINT = "jobs"
#: How long a submission may take: sbatch's own time, a lease that has to lapse before, and some.
PATIENCE_SECONDS = 90.0
_LOOK_SECONDS = (0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True)
class Control:
    """What a process needs to act on jobs: `database`, `broker` and `launcher` of these `settings`."""

    database: Database
    broker: Broker
    launcher: Launcher
    settings: Settings

    @property
    def network(self) -> str:
        return self.settings.agent.network

    def scheduler(self, name: str, patience: Patience | None = None) -> Scheduler:
        """This process's part in the scheduler of that name. Raises E_NOT_FOUND."""
        poll = float(self.settings.slurm.poll_seconds)
        return Scheduler(
            self.database,
            self.broker,
            self.launcher,
            preparing.Preparer(self.settings, self.launcher),
            preparing.slots,
            network=self.network,
            name=name,
            folder=credentials.folder(self.settings),
            patience=patience or Patience(poll=poll),
        )


def submit(
    control: Control,
    *,
    processor: str,
    request: ResourceRequest,
    workers: int,
    scheduler: str | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> dict[str, Any]:
    """Put a pilot for `processor` on record and wait until Slurm has it; the job's record, as `show job` has it.

    The processor is wanted RUNNING afterwards, and `request` is the shape of its further pilots. `workers` is how many
    the pilot brings. The scheduler is the one named, else the only one, else `default`, which is made if need be.

    Raises:
        BadInput: E_NOT_FOUND; E_MISSING, which scheduler?; E_SUBMIT, with Slurm's own words: no job is left, and the
            processor is asked for what it was before.
        Unavailable: E_SLURM, whether Slurm has it is not known: it is on record, and nobody need submit it again.
        DatabaseUnavailable.
    """
    token = secrets.token_hex(16)
    name, before = control.database.run(
        lambda cursor: _record(cursor, control.network, scheduler, token, processor, request, workers)
    )
    control.broker.hint(control.network, HINT)
    try:
        _wait(control, name, token, patience_seconds)
    except BadInput:
        _withdraw(control, token, before)
        raise
    return control.database.run(lambda cursor: listed.one(cursor, token))


def _record(
    cursor: Cursor,
    network: str,
    scheduler: str | None,
    token: str,
    processor: str,
    request: ResourceRequest,
    workers: int,
) -> tuple[str, rows.Wish | None]:
    """The job is on record; under which scheduler, and what the processor was asked for before."""
    name = rows.find_or_make_scheduler(cursor, network, scheduler)
    identity = rows.scheduler_id(cursor, network, name)
    rows.lock_scheduler(cursor, identity)
    before = rows.wish(cursor, network, processor)
    wanted = rows.ask_processor(cursor, network, processor, lasting(request))
    rows.want(cursor, identity, token=token, processor=wanted, request=request, workers=workers)
    return name, before


def _withdraw(control: Control, token: str, before: rows.Wish | None) -> None:
    """What Slurm refused changes nothing: no pilot is sent after it, and no failure of the processor's is counted."""
    if before is not None and control.database.run(lambda cursor: rows.withdraw(cursor, token, before)):
        credentials.path(credentials.folder(control.settings), token).unlink(missing_ok=True)


def lasting(request: ResourceRequest) -> ResourceRequest:
    """What later pilots ask for too: not when this one may begin, and not how often it is sent."""
    return replace(request, dependency=None, begin=None, array=None)


def _wait(control: Control, scheduler: str, token: str, seconds: float) -> None:
    deadline, tries = time.monotonic() + seconds, 0
    while True:
        standing = control.database.run(lambda cursor: rows.standing(cursor, token))
        if standing.slurm_id is not None:
            return
        _refuse(standing, token, timed_out=time.monotonic() >= deadline)
        if not standing.led:
            control.scheduler(scheduler).once()
        else:
            time.sleep(_LOOK_SECONDS[min(tries, len(_LOOK_SECONDS) - 1)])
            tries += 1


def _refuse(standing: Standing, token: str, *, timed_out: bool) -> None:
    """Raise what became of a submission that will not come to a good end now."""
    if standing.status is JobStatus.ENDED:
        what = standing.reason or "the job was cancelled"
        raise BadInput("E_SUBMIT", what, at="sbatch", cure="change what it asks for; --dry-run shows the sbatch line")
    asked = standing.status is JobStatus.SUBMITTING and standing.reason is not None
    if asked or timed_out:
        why = standing.reason or "its scheduler has not come to it"
        what = f"the job is on record, and is sent when it can be: {why}"
        raise Unavailable("E_SLURM", what, at=f"job {token}", cure=f"pyfi show job {token}")


def turn_if_alone(control: Control, scheduler: str) -> bool:
    """Where nobody leads, make a pass in this process, so that what is on record is acted on; whether one was made."""

    def led(cursor: Cursor) -> bool:
        return rows.is_led(cursor, rows.scheduler_id(cursor, control.network, scheduler))

    return not control.database.run(led) and control.scheduler(scheduler).once()


def refresh(control: Control) -> None:
    """Where jobs are live and nobody follows them, follow them once; what cannot be asked stays as it is on record."""
    _attend(control, want=False)


def act(control: Control) -> None:
    """Where nobody leads, act once on what was asked of processors: pilots are sent, and cancelled."""
    _attend(control, want=True)


def _attend(control: Control, *, want: bool) -> None:
    for name in control.database.run(lambda cursor: rows.unled(cursor, control.network, wanted=want)):
        with suppress(PyfiError):
            control.scheduler(name).once(want=want)


def until(control: Control, token: str, done: Callable[[Standing], bool], seconds: float | None = None) -> Standing:
    """How the job of that token stands once `done` says so, or `seconds` are over; passes are made if nobody leads."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        standing = control.database.run(lambda cursor: rows.standing(cursor, token))
        if done(standing) or (deadline is not None and time.monotonic() >= deadline):
            return standing
        if not standing.led:
            turn_if_alone(control, standing.scheduler)
        time.sleep(min(1.0, control.settings.slurm.poll_seconds))
