"""Whatever happens, wherever a leader dies: one job in Slurm for each token, and none is given up while it lives."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pyfi_hpc.control import pilots
from pyfi_hpc.control.pilots import Action, Patience, PilotJob, PilotProcessor, Seen, plan
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.model.status import JOB_NEXT, JobStatus, Requested
from pyfi_hpc.slurm.launcher import Observation

J = JobStatus
PATIENCE = Patience()
SLOTS = 2
BEGIN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
ASKED = PilotProcessor(b"p", "p", Requested.RUNNING, BEGIN, ResourceRequest(), SLOTS, 4)
#: What sbatch may come to: its answer, no answer though the job is queued, or is queued later, or never; a refusal.
ANSWERS = ("taken", "taken, unanswered", "late", "lost", "refused")
#: So long after sbatch was given up, what it sent may still come to a controller that had stalled.
LATE = datetime.timedelta(seconds=50)
#: Where the leader may die.
DEATHS = (None, "before the intent", "after the intent", "after sbatch")


@dataclass
class World:
    """Rows of one processor's jobs, and Slurm."""

    now: datetime.datetime = BEGIN
    rows: dict[bytes, PilotJob] = field(default_factory=dict)
    slurm: dict[str, Observation] = field(default_factory=dict)
    processor: PilotProcessor = field(default_factory=lambda: ASKED)
    #: tokens on their way to Slurm, and when they are there at the latest
    under_way: dict[str, datetime.datetime] = field(default_factory=dict)
    made: int = 0
    numbered: int = 0

    def change(self, job: bytes, status: JobStatus, **values: object) -> None:
        """The row moves, as the database allows."""
        row = self.rows[job]
        assert status is row.status or status in JOB_NEXT[row.status], f"{row.status} → {status}"
        ended = {"ended": self.now} if status is J.ENDED else {}
        self.rows[job] = replace(row, status=status, **ended, **values)  # type: ignore[arg-type]

    def arrive(self, token: str) -> str:
        self.numbered += 1
        job = str(self.numbered)
        self.slurm[job] = Observation(job, J.PENDING, "PENDING", token=token)
        return job

    def look(self) -> Seen:
        rows = list(self.rows.values())
        tokens = pilots.sought(rows)
        found = {seen.token: seen for seen in self.slurm.values() if seen.token in tokens and seen.token is not None}
        known = {job: self.slurm.get(job, Observation(job, J.UNKNOWN)) for job in pilots.asked(rows)}
        return Seen(known, tokens, found)

    def planned(self, seen: Seen | None, *, silent: bool = False) -> list[Action]:
        given_up = sum(row.workers for row in self.rows.values() if row.cancel_requested and row.status is J.ENDED)
        newest = max((row.created for row in self.rows.values() if row.reason != pilots.LOST), default=None)
        processor = replace(self.processor, given_up=given_up, newest=newest)
        rows = [replace(row, requested=processor.requested) for row in self.rows.values()]
        return plan([processor], rows, seen, self.now, PATIENCE, silent=silent)

    def do(self, actions: list[Action], answer: str = "taken", death: str | None = None) -> None:
        """As the scheduler does: what needs no Slurm in one transaction, the rest one by one, until it dies."""
        for action in actions:
            self.note(action)
        for action in actions:
            if isinstance(action, pilots.Submit) and not self.submit(action.job, answer, death):
                return
            if isinstance(action, pilots.Cancel):
                self.cancel(action)

    def cancel(self, action: pilots.Cancel) -> None:
        job = self.rows[action.job].slurm_id or ""
        if job in self.slurm:
            self.slurm[job] = replace(self.slurm[job], status=J.ENDED, state="CANCELLED")
        self.change(action.job, J.ENDING, retry_at=self.later(action.seconds))

    def later(self, seconds: float) -> datetime.datetime:
        return self.now + datetime.timedelta(seconds=seconds)

    def note(self, action: Action) -> None:
        match action:
            case pilots.Want():
                self.made += 1
                identity = b"%d" % self.made
                self.rows[identity] = PilotJob(identity, b"p", f"token{self.made}", J.WANTED, action.workers, self.now)
            case pilots.Adopt() | pilots.Update():
                seen = action.observation
                if self.rows[action.job].status is J.WANTED:
                    self.change(action.job, J.SUBMITTING)
                reason = f"{seen.state}" if seen.status is J.ENDED else None
                self.change(
                    action.job, seen.status, slurm_id=seen.job, known=replace(seen, token=None), missed=None,
                    reason=reason,
                )  # fmt: skip
            case pilots.Miss():
                row = self.rows[action.job]
                self.change(action.job, row.status if row.slurm_id is None else J.UNKNOWN, missed=self.now)
            case pilots.Forget():
                self.change(action.job, J.WANTED)
            case pilots.Drain():
                self.rows[action.job] = replace(self.rows[action.job], agents=0, retry_at=self.later(action.seconds))
            case pilots.End():
                assert action.reason in (pilots.LOST, pilots.UNSENT)
                if action.reason == pilots.LOST:
                    missed = self.rows[action.job].missed
                    assert missed is not None and (self.now - missed).total_seconds() >= PATIENCE.lost
                    assert str(self.rows[action.job].slurm_id) not in self.slurm, "Slurm knows it"
                    assert not self.rows[action.job].agents, "its agents serve"
                self.change(action.job, J.ENDED, reason=action.reason)

    def submit(self, job: bytes, answer: str, death: str | None) -> bool:
        """Whether the leader lives on."""
        if death == "before the intent":
            return False
        assert self.rows[job].status is J.WANTED, "it may have been submitted"
        self.change(job, J.SUBMITTING, missed=None)
        if death == "after the intent":
            return False
        token = self.rows[job].token
        if answer == "refused":
            self.change(job, J.ENDED, reason="refused")
        elif answer == "late":
            self.under_way[token] = self.now + LATE
        elif answer != "lost":
            number = self.arrive(token)
            if death == "after sbatch":
                return False
            if answer == "taken":
                seen = Observation(number, J.PENDING, "PENDING")
                self.change(job, J.PENDING, slurm_id=number, known=seen, retry_at=None, missed=None)
        return True


class Pilots(RuleBasedStateMachine):
    """A person, a leader that may die, and a Slurm that may do anything."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(workers=st.integers(0, 9))
    def asks(self, workers: int) -> None:
        """A person asks for so many workers; none: to stop."""
        requested = Requested.RUNNING if workers else Requested.STOPPED
        self.world.processor = replace(
            self.world.processor, requested=requested, workers=workers or None, wanted_since=self.world.now
        )

    @rule(pick=st.randoms(use_true_random=False))
    def cancels(self, pick: object) -> None:
        live = [row.id for row in self.world.rows.values() if row.status is not J.ENDED]
        if live:
            job = pick.choice(live)  # type: ignore[attr-defined]
            self.world.rows[job] = replace(self.world.rows[job], cancel_requested=True)

    @rule(seconds=st.sampled_from([1, 10, 61, 130, 400]))
    def time_passes(self, seconds: int) -> None:
        self.world.now += datetime.timedelta(seconds=seconds)
        for token in [token for token, latest in self.world.under_way.items() if latest <= self.world.now]:
            self.arrives(token)

    def arrives(self, token: str) -> None:
        del self.world.under_way[token]
        self.world.arrive(token)

    @rule()
    def what_was_late_arrives(self) -> None:
        for token in list(self.world.under_way):
            self.arrives(token)

    @rule()
    def agents_lose_their_leases(self) -> None:
        self.world.rows = {name: replace(row, agents=0) for name, row in self.world.rows.items()}

    def turn(self, look: bool, answer: str = "taken", death: str | None = None) -> None:
        actions = self.world.planned(self.world.look() if look else None)
        self.bounded(actions)
        self.world.do(actions, answer, death)

    @rule(count=st.integers(1, 4))
    def leader_looks(self, count: int) -> None:
        for _ in range(count):
            self.turn(look=True)
            self.world.now += datetime.timedelta(seconds=1)

    @rule()
    def leader_follows_a_hint(self) -> None:
        self.turn(look=False)

    @rule(answer=st.sampled_from(ANSWERS), death=st.sampled_from(DEATHS))
    def leader_submits_in_bad_weather(self, answer: str, death: str | None) -> None:
        for _ in range(2):  # what is wanted is put on record in the first
            self.turn(look=True, answer=answer, death=death)

    @rule()
    def slurm_is_silent(self) -> None:
        actions = self.world.planned(None, silent=True)
        self.bounded(actions)
        harmless = (pilots.Explain, pilots.Drain, pilots.Cancel, pilots.End)
        assert all(isinstance(action, harmless) for action in actions)
        assert all(action.reason == pilots.UNSENT for action in actions if isinstance(action, pilots.End))

    @rule(pick=st.randoms(use_true_random=False), what=st.sampled_from(["start", "end", "requeue", "forget"]))
    def slurm_moves_a_job(self, pick: object, what: str) -> None:
        jobs = [seen for seen in self.world.slurm.values() if seen.status is not J.ENDED]
        if not jobs:
            return
        seen = pick.choice(jobs)  # type: ignore[attr-defined]
        row = next((row for row in self.world.rows.values() if row.slurm_id == seen.job), None)
        if what == "forget":
            del self.world.slurm[seen.job]
        elif what == "requeue":
            self.world.slurm[seen.job] = replace(seen, status=J.PENDING, state="PENDING", restarts=seen.restarts + 1)
        else:
            status, state = (J.RUNNING, "RUNNING") if what == "start" else (J.ENDED, "COMPLETED")
            self.world.slurm[seen.job] = replace(seen, status=status, state=state)
        if row is not None and row.status is not J.ENDED and what != "forget":
            agents = 1 if what == "start" else 0
            self.world.rows[row.id] = replace(row, agents=agents, served=row.served or bool(agents))

    @rule()
    def slurm_loses_its_state(self) -> None:
        self.world.slurm.clear()

    def bounded(self, actions: list[Action]) -> None:
        starts = sum(isinstance(action, pilots.Submit | pilots.Want) for action in actions)
        stops = sum(isinstance(action, pilots.Cancel | pilots.Drain) for action in actions)
        assert starts <= pilots.MAX_STARTS and stops <= pilots.MAX_STOPS

    @invariant()
    def one_job_for_each_token(self) -> None:
        tokens = [seen.token for seen in self.world.slurm.values()]
        assert len(tokens) == len(set(tokens))

    @invariant()
    def no_job_that_lives_is_given_up(self) -> None:
        ended = {row.slurm_id for row in self.world.rows.values() if row.status is J.ENDED}
        for seen in self.world.slurm.values():
            assert seen.status is J.ENDED or seen.job not in ended

    def teardown(self) -> None:
        """Once all is well again, what is asked for is what is there."""
        self.what_was_late_arrives()
        self.agents_lose_their_leases()
        self.world.now += datetime.timedelta(seconds=1)
        self.world.processor = replace(self.world.processor, wanted_since=self.world.now)
        for _ in range(12):
            self.world.now += datetime.timedelta(seconds=130)
            self.world.do(self.world.planned(self.world.look()))
            self.one_job_for_each_token()
            self.no_job_that_lives_is_given_up()
        live = [row for row in self.world.rows.values() if row.status is not J.ENDED]
        assert all(row.slurm_id in self.world.slurm for row in live)
        carried = {seen.token for seen in self.world.slurm.values() if seen.status is not J.ENDED}
        assert carried == {row.token for row in live}, "a job in Slurm that nobody knows of"
        wanted = self.world.processor
        if wanted.requested is Requested.STOPPED:
            assert live == []
        elif wanted.workers is not None:
            given_up = sum(row.workers for row in self.world.rows.values() if row.cancel_requested)
            assert sum(row.workers for row in live) + given_up >= wanted.workers


TestPilots = Pilots.TestCase
TestPilots.settings = settings(max_examples=120, stateful_step_count=20, deadline=None)
