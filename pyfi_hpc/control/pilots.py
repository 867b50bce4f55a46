"""Which jobs should be in Slurm: records in, actions out, no I/O.

A pilot is a job that brings slots for one processor. It is on record (WANTED) before Slurm is asked; it is SUBMITTING
while Slurm is asked; what a crash leaves there is settled by the token in the job's comment. That Slurm does not answer
says nothing about any job, and a job that it does not know is not known to have ended.
"""

from __future__ import annotations

import datetime
import math
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.model.status import JobStatus, Requested
from pyfi_hpc.slurm.launcher import JobId, Observation
from pyfi_hpc.slurm.states import status_of

#: At most so many jobs are submitted, and so many stopped, in one pass.
MAX_STARTS, MAX_STOPS = 16, 16
#: So many pilots that fail alike, one after another, and no more are sent until a person asks again.
LIKE_FAILURES = 3
#: More of the live jobs than this part, and at least so many, cannot have gone at once.
SUSPECT_PART, SUSPECT_COUNT = 0.3, 3
#: Why a job ended that Slurm has forgotten: another may take its place.
LOST = "Slurm does not know it any more"
UNSENT = "cancelled before it was submitted"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long things may take, in seconds.

    Attributes:
        poll: between two looks at Slurm.
        missing: a token that was not found is looked for again after this long, before it counts as never submitted.
        lost: a job that Slurm does not know, and no agent serves, has ended after this long.
        drain: for the workers of a job that is to be cancelled.
        again: between two tries to cancel.
        longest: between two tries to submit, however often it failed.
    """

    poll: float = 10.0
    missing: float = 60.0
    lost: float = 120.0
    drain: float = 45.0
    again: float = 30.0
    longest: float = 300.0


@dataclass(frozen=True, slots=True)
class PilotProcessor:
    """A processor as far as jobs are concerned.

    Attributes:
        shape: what one pilot asks for; None: it never gets one.
        slots: how many workers one pilot brings.
        places: its workers on nodes whose agents were started by hand.
        given_up: slots that a person cancelled since `wanted_since`.
        newest: when its newest job was made, but for those that Slurm lost.
        explained: what its row says of its pilots now.
    """

    id: bytes
    name: str
    requested: Requested
    wanted_since: datetime.datetime
    shape: ResourceRequest | None = None
    slots: int = 1
    workers: int | None = None
    places: int = 0
    given_up: int = 0
    newest: datetime.datetime | None = None
    explained: str | None = None


@dataclass(frozen=True, slots=True)
class PilotJob:
    """A job row: live, or one of the processor's last that have ended.

    Attributes:
        known: what the row has of Slurm; None while it has no job id.
        retry_at: not to be submitted, or cancelled (again), before then.
        missed: when it was first asked for and not found.
        agents: how many agents in it hold their lease.
        served: an agent has run in it.
        requested: what is asked of its processor now; None where it has none.
    """

    id: bytes
    processor: bytes | None
    token: str
    status: JobStatus
    workers: int
    created: datetime.datetime
    slurm_id: JobId | None = None
    known: Observation | None = None
    cancel_requested: bool = False
    failures: int = 0
    retry_at: datetime.datetime | None = None
    missed: datetime.datetime | None = None
    agents: int = 0
    served: bool = False
    ended: datetime.datetime | None = None
    reason: str | None = None
    requested: Requested | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What Slurm answered: `jobs` by id, each that was asked for; `found` by token, of the `sought` ones."""

    jobs: Mapping[JobId, Observation] = field(default_factory=dict)
    sought: frozenset[str] = frozenset()
    found: Mapping[str, Observation] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Want:
    """Put a pilot on record; Slurm is asked later."""

    processor: bytes
    request: ResourceRequest
    workers: int


@dataclass(frozen=True, slots=True)
class Submit:
    """Hand a job that is on record to Slurm."""

    job: bytes


@dataclass(frozen=True, slots=True)
class Adopt:
    """This job of Slurm's is ours: it carries the token."""

    job: bytes
    observation: Observation


@dataclass(frozen=True, slots=True)
class Miss:
    """Note that Slurm answered and did not know it; one with a job id is UNKNOWN from now on."""

    job: bytes


@dataclass(frozen=True, slots=True)
class Forget:
    """Slurm never heard of it: back to WANTED."""

    job: bytes


@dataclass(frozen=True, slots=True)
class Update:
    """Note what Slurm says of it now."""

    job: bytes
    observation: Observation


@dataclass(frozen=True, slots=True)
class Drain:
    """Ask the agents in it to finish what runs and end; it is cancelled at the latest `seconds` from now."""

    job: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Cancel:
    """Have Slurm end it; where it stays, again `seconds` from now."""

    job: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class End:
    """It has ended, and why."""

    job: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Explain:
    """Show with the processor why it gets no pilots; None: that is over."""

    processor: bytes
    what: str | None


@dataclass(frozen=True, slots=True)
class Suspect:
    """So many of the live jobs seem to have gone at once: nothing is stopped or ended in this pass."""

    gone: int
    live: int


Action: TypeAlias = Want | Submit | Adopt | Miss | Forget | Update | Drain | Cancel | End | Explain | Suspect


def plan(
    processors: Sequence[PilotProcessor],
    jobs: Sequence[PilotJob],
    seen: Seen | None,
    now: datetime.datetime,
    patience: Patience | None = None,
    *,
    silent: bool = False,
) -> list[Action]:
    """The actions of one pass; none when nothing is left to do.

    `jobs` are all live ones and, newest first, each processor's last that have ended. `seen` is None where Slurm was
    not asked, or, with `silent`, did not answer. `now` is the database's clock.
    """
    return _Pass(processors, jobs, seen, now, patience or Patience(), silent).run()


class _Pass:
    """One pass over everything, with what it may still do."""

    def __init__(
        self,
        processors: Sequence[PilotProcessor],
        jobs: Sequence[PilotJob],
        seen: Seen | None,
        now: datetime.datetime,
        patience: Patience,
        silent: bool,
    ) -> None:
        self.processors, self.seen, self.now, self.patience = processors, seen, now, patience
        self.jobs_of: dict[bytes | None, list[PilotJob]] = defaultdict(list)
        for job in sorted(jobs, key=lambda job: job.created, reverse=True):
            self.jobs_of[job.processor].append(job)
        self.live = sorted((job for job in jobs if job.status is not JobStatus.ENDED), key=lambda job: job.created)
        self.may_start = 0 if silent else MAX_STARTS
        self.may_stop = MAX_STOPS
        self.actions: list[Action] = []

    def run(self) -> list[Action]:
        if gone := self._gone_at_once():
            self.actions.append(Suspect(gone, len(self.live)))
            self.may_stop = 0
        for job in self.live:
            self._decide(job, self._look(job))
        for processor in self.processors:
            self._want(processor)
        return self.actions

    def _gone_at_once(self) -> int:
        """How many live jobs Slurm does not know all of a sudden; 0 where they are few."""
        known = [job for job in self.live if job.slurm_id is not None]
        gone = sum(self._is_gone(job) and self._seconds_since(job.missed) < self.patience.poll for job in known)
        return gone if gone >= SUSPECT_COUNT and gone > SUSPECT_PART * len(known) else 0

    def _is_gone(self, job: PilotJob) -> bool:
        return self.seen is not None and job.slurm_id in self.seen.jobs and not was_seen(job, self.seen)

    def _seconds_since(self, when: datetime.datetime | None) -> float:
        """0 where it has never been."""
        return (self.now - when).total_seconds() if when is not None else 0.0

    def _due(self, job: PilotJob) -> bool:
        return job.retry_at is None or job.retry_at <= self.now

    # what Slurm says of it

    def _look(self, job: PilotJob) -> JobStatus:
        """Note what was seen of it; the status that it has then."""
        if self.seen is None:
            return job.status
        if job.slurm_id is not None:
            observation = self.seen.jobs.get(job.slurm_id)
            return self._observe(job, observation) if observation is not None else job.status
        if job.token in self.seen.found:
            self.actions.append(Adopt(job.id, self.seen.found[job.token]))
            return JobStatus.ENDED  # nothing more in this pass
        if job.status is JobStatus.SUBMITTING and job.token in self.seen.sought:
            return self._not_found(job)
        return job.status

    def _not_found(self, job: PilotJob) -> JobStatus:
        if job.missed is None:
            self.actions.append(Miss(job.id))
        elif self._seconds_since(job.missed) >= self.patience.missing:
            self.actions.append(Forget(job.id))
        return job.status

    def _observe(self, job: PilotJob, observation: Observation) -> JobStatus:
        if is_this(observation, job.token):
            if job.missed is not None or job.known is None or differs(job.known, observation):
                self.actions.append(Update(job.id, observation))
            return observation.status
        if job.missed is None:
            self.actions.append(Miss(job.id))
        elif not job.agents and self._seconds_since(job.missed) >= self.patience.lost and self.may_stop:
            self.may_stop -= 1
            self.actions.append(End(job.id, LOST))
            return JobStatus.ENDED
        return JobStatus.UNKNOWN

    # what is to be done with it

    def _decide(self, job: PilotJob, status: JobStatus) -> None:
        unwanted = job.cancel_requested or job.requested in (Requested.STOPPED, Requested.REMOVED)
        match status:
            case JobStatus.WANTED if unwanted:
                self.actions.append(End(job.id, UNSENT))
            case JobStatus.WANTED if self._due(job) and self._surely_unsent(job):
                self._start(Submit(job.id))
            case JobStatus.RUNNING | JobStatus.UNKNOWN if unwanted and job.agents and job.retry_at is None:
                self._stop(Drain(job.id, self.patience.drain))
            case JobStatus.ENDING if job.retry_at is None:
                pass  # it ends by itself
            case JobStatus.UNKNOWN if self._is_gone(job):
                pass  # there is nothing to cancel, and its number may be another job's by now
            case JobStatus.PENDING | JobStatus.RUNNING | JobStatus.ENDING | JobStatus.UNKNOWN:
                if unwanted and self._due(job):
                    self._stop(Cancel(job.id, self.patience.again))

    def _surely_unsent(self, job: PilotJob) -> bool:
        """One that was forgotten once is looked for in the very pass that submits it again."""
        return job.missed is None or (self.seen is not None and job.token in self.seen.sought)

    def _start(self, action: Submit) -> None:
        if self.may_start:
            self.may_start -= 1
            self.actions.append(action)

    def _stop(self, action: Drain | Cancel) -> None:
        if self.may_stop:
            self.may_stop -= 1
            self.actions.append(action)

    # what is missing

    def _want(self, processor: PilotProcessor) -> None:
        if processor.shape is None or processor.requested is not Requested.RUNNING:
            return
        jobs = self.jobs_of[processor.id]
        live = [job for job in jobs if job.status is not JobStatus.ENDED]
        failed = failures(jobs, processor.wanted_since)
        paused = _alike(failed) or (bool(failed) and processor.workers is None and not live)
        self._explain(processor, f"its pilots fail: {failed[0].reason}" if paused else None)
        if paused or self._too_soon(failed):
            return
        for _ in range(min(_missing(processor, live), self.may_start)):
            self.may_start -= 1
            self.actions.append(Want(processor.id, processor.shape, processor.slots))

    def _explain(self, processor: PilotProcessor, what: str | None) -> None:
        if processor.explained != what:
            self.actions.append(Explain(processor.id, what))

    def _too_soon(self, failed: Sequence[PilotJob]) -> bool:
        if not failed:
            return False
        wait = backoff_seconds(len(failed), failed[0].token, self.patience.longest)
        return self._seconds_since(failed[0].ended) < wait


def _missing(processor: PilotProcessor, live: Iterable[PilotJob]) -> int:
    """How many pilots are to be put on record."""
    jobs = list(live)
    if processor.workers is None:
        # one for each time that a person asked
        asked = processor.newest is None or processor.wanted_since > processor.newest
        return int(asked and not jobs)
    has = processor.places + processor.given_up + sum(job.workers for job in jobs)
    return max(0, math.ceil((processor.workers - has) / processor.slots))


def failures(jobs: Iterable[PilotJob], since: datetime.datetime) -> list[PilotJob]:
    """Of one processor's jobs, newest first, the last that failed: none has served, and nobody cancelled them."""
    failed: list[PilotJob] = []
    for job in jobs:
        if job.served or job.created < since:
            break
        if job.status is JobStatus.ENDED and not job.cancel_requested and job.reason != LOST:
            failed.append(job)
    return failed


def _alike(failed: Sequence[PilotJob]) -> bool:
    return len(failed) >= LIKE_FAILURES and len({job.reason for job in failed[:LIKE_FAILURES]}) == 1


def backoff_seconds(count: int, seed: str, longest: float = 300.0) -> float:
    """How long to wait after `count` failures: 1 s, 2 s, 4 s …, less up to half, so that many do not come together."""
    spread = zlib.crc32(f"{seed}:{count}".encode()) / 2**32
    whole = min(longest, 2.0 ** min(max(0, count - 1), 20))
    return max(1.0, whole * (0.5 + spread / 2)) if count > 1 else 1.0


def is_known(observation: Observation) -> bool:
    """False where Slurm's controller does not know the job (any more); a state of it that we do not know is a state.

    UNKNOWN beside a state that we do know is what accounting has of a job that the controller has lost.
    """
    if observation.status is not JobStatus.UNKNOWN:
        return True
    return bool(observation.state) and status_of(observation.state) is JobStatus.UNKNOWN


def is_this(observation: Observation, token: str) -> bool:
    """Whether Slurm knows the job that carries the token: a controller that lost its state gives numbers again."""
    return is_known(observation) and observation.token in (None, token)


def was_seen(job: PilotJob, seen: Seen) -> bool:
    """Whether Slurm told of the job."""
    observation = seen.jobs.get(job.slurm_id or "")
    return observation is not None and is_this(observation, job.token)


def differs(known: Observation, observation: Observation) -> bool:
    """Whether the observation says anything that is not on record. A count of restarts never goes back."""
    return replace(known, token=None) != replace(
        observation, token=None, restarts=max(known.restarts, observation.restarts)
    )


def sought(jobs: Iterable[PilotJob]) -> frozenset[str]:
    """The tokens to look for: of what may have been submitted, and is not known to have been."""
    return frozenset(
        job.token
        for job in jobs
        if job.status is JobStatus.SUBMITTING or (job.status is JobStatus.WANTED and job.missed is not None)
    )


def asked(jobs: Iterable[PilotJob]) -> frozenset[JobId]:
    """The job ids to ask about."""
    return frozenset(job.slurm_id for job in jobs if job.slurm_id is not None and job.status is not JobStatus.ENDED)
