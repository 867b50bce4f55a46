"""Which jobs should be in Slurm."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import pytest

from pyfi_hpc.control import pilots
from pyfi_hpc.control.pilots import (
    LOST,
    MAX_STARTS,
    MAX_STOPS,
    Action,
    Adopt,
    Cancel,
    Drain,
    End,
    Explain,
    Forget,
    Miss,
    Patience,
    PilotJob,
    PilotProcessor,
    Seen,
    Submit,
    Suspect,
    Update,
    Want,
    plan,
)
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.model.status import JobStatus, Requested
from pyfi_hpc.slurm.launcher import Observation

J = JobStatus
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
SHAPE = ResourceRequest(ntasks=4)


def ago(seconds: float) -> datetime.datetime:
    return NOW - datetime.timedelta(seconds=seconds)


def soon(seconds: float) -> datetime.datetime:
    return NOW + datetime.timedelta(seconds=seconds)


def processor(**given: Any) -> PilotProcessor:
    usual: dict[str, Any] = {"requested": Requested.RUNNING, "wanted_since": ago(1000), "shape": SHAPE, "slots": 4}
    return PilotProcessor(b"p", "p", **(usual | given))


def job(name: str = "j", status: JobStatus = J.RUNNING, **given: Any) -> PilotJob:
    """A job of processor p, known to Slurm as its row has it unless it is not submitted yet."""
    usual: dict[str, Any] = {"workers": 4, "created": ago(500), "requested": Requested.RUNNING}
    if status not in (J.WANTED, J.SUBMITTING):
        usual |= {"slurm_id": name, "known": Observation(name, status, status.value)}
    return PilotJob(name.encode(), b"p", f"{name:0>32}", status, **(usual | given))


def failed(name: str, reason: str = "no such account", seconds: float = 100, **given: Any) -> PilotJob:
    return job(name, J.ENDED, reason=reason, created=ago(seconds + 1), ended=ago(seconds), **given)


def seen(*observations: Observation, sought: tuple[PilotJob, ...] = (), found: Any = None) -> Seen:
    tokens = frozenset(each.token for each in sought)
    return Seen({each.job: each for each in observations}, tokens, found or {})


def gone(name: str) -> Observation:
    """Slurm does not know it."""
    return Observation(name, J.UNKNOWN)


def planned(
    processors: list[PilotProcessor], jobs: list[PilotJob], look: Seen | None = None, **given: Any
) -> list[Action]:
    return plan(processors, jobs, look, NOW, **given)


# what is wanted


def test_pilots_are_sent_for_the_workers_that_are_missing() -> None:
    assert planned([processor(workers=8)], []) == [Want(b"p", SHAPE, 4)] * 2
    assert planned([processor(workers=8)], [job()]) == [Want(b"p", SHAPE, 4)]
    assert planned([processor(workers=8)], [job("a"), job("b", J.PENDING)]) == []


def test_a_last_pilot_may_bring_more_than_is_missing() -> None:
    assert planned([processor(workers=5)], [job()]) == [Want(b"p", SHAPE, 4)]


def test_places_on_nodes_that_are_there_anyway_count() -> None:
    assert planned([processor(workers=8, places=5)], []) == [Want(b"p", SHAPE, 4)]
    assert planned([processor(workers=8, places=8)], []) == []


def test_slots_that_a_person_cancelled_are_not_sent_again() -> None:
    assert planned([processor(workers=8, given_up=8)], []) == []


def test_without_a_number_of_workers_one_pilot_is_sent_for_each_asking() -> None:
    assert planned([processor()], []) == [Want(b"p", SHAPE, 4)]
    assert planned([processor(wanted_since=NOW, newest=ago(10))], []) == [Want(b"p", SHAPE, 4)]
    assert planned([processor(wanted_since=ago(10), newest=ago(10))], []) == []
    assert planned([processor(wanted_since=NOW, newest=ago(10))], [job(created=ago(10))]) == []


@pytest.mark.parametrize("requested", [Requested.STOPPED, Requested.PAUSED, Requested.REMOVED])
def test_a_processor_that_is_not_to_run_gets_none(requested: Requested) -> None:
    assert planned([processor(workers=8, requested=requested)], []) == []


def test_a_processor_without_a_shape_gets_none() -> None:
    assert planned([processor(workers=8, shape=None)], []) == []


def test_no_more_than_so_many_are_wanted_or_submitted_in_one_pass() -> None:
    assert len(planned([processor(workers=1000)], [])) == MAX_STARTS
    wanted = [job(f"j{number}", J.WANTED) for number in range(MAX_STARTS + 5)]
    actions = planned([processor(workers=1000)], wanted)
    assert [type(action) for action in actions] == [Submit] * MAX_STARTS


# failures


def test_a_pilot_that_failed_is_followed_by_another_after_a_while() -> None:
    assert planned([processor(workers=4)], [failed("a", seconds=0.5)]) == []
    assert planned([processor(workers=4)], [failed("a", seconds=2)]) == [Want(b"p", SHAPE, 4)]


def test_the_wait_grows_to_five_minutes_and_no_further() -> None:
    waits = [pilots.backoff_seconds(count, "token") for count in range(1, 40)]
    assert waits[0] == 1.0
    assert 150 <= waits[-1] <= 300
    assert all(one <= 300 for one in waits)
    assert len({pilots.backoff_seconds(12, str(seed)) for seed in range(20)}) > 10, "not all at once"


def test_three_that_fail_alike_pause_the_pool_and_the_processor_says_why() -> None:
    jobs = [failed(name, seconds=1000 - number) for number, name in enumerate("abc")]
    told = Explain(b"p", "its pilots fail: no such account")
    assert planned([processor(workers=4, wanted_since=ago(2000))], jobs) == [told]
    assert planned([processor(workers=4, wanted_since=ago(2000), explained=told.what)], jobs) == []


def test_asking_again_ends_the_pause() -> None:
    jobs = [failed(name) for name in "abc"]
    asked = processor(workers=4, wanted_since=ago(1), explained="its pilots fail: no such account")
    assert planned([asked], jobs) == [Explain(b"p", None), Want(b"p", SHAPE, 4)]


def test_failures_that_differ_do_not_pause_the_pool() -> None:
    jobs = [failed("a"), failed("b", "no such partition"), failed("c")]
    assert planned([processor(workers=4)], jobs) == [Want(b"p", SHAPE, 4)]


def test_a_pilot_that_served_ends_a_row_of_failures() -> None:
    jobs = [failed("a", seconds=90), failed("b", seconds=80), failed("d", seconds=60)]
    served = failed("c", "TIMEOUT", seconds=70, served=True)
    assert planned([processor(workers=4)], [*jobs, served]) == [Want(b"p", SHAPE, 4)]


def test_the_only_pilot_of_an_asking_is_not_sent_again_when_it_fails() -> None:
    one = failed("a")
    told = Explain(b"p", "its pilots fail: no such account")
    assert planned([processor(newest=one.created)], [one]) == [told]


def test_a_job_that_a_person_cancelled_is_no_failure() -> None:
    jobs = [failed(name, "CANCELLED", cancel_requested=True) for name in "abc"]
    assert planned([processor(workers=4, given_up=0)], jobs) == [Want(b"p", SHAPE, 4)]


# submitting, and what a crash leaves


def test_a_job_on_record_is_submitted_once_it_is_due() -> None:
    assert planned([], [job(status=J.WANTED)]) == [Submit(b"j")]
    assert planned([], [job(status=J.WANTED, retry_at=ago(1))]) == [Submit(b"j")]
    assert planned([], [job(status=J.WANTED, retry_at=soon(1))]) == []


def test_nothing_is_submitted_while_slurm_does_not_answer() -> None:
    assert planned([processor(workers=8)], [job(status=J.WANTED)], silent=True) == []


def test_what_is_being_submitted_is_never_submitted_again() -> None:
    assert planned([processor(workers=4)], [job(status=J.SUBMITTING)]) == []
    assert planned([], [job(status=J.SUBMITTING)], silent=True) == []


def test_a_job_found_by_its_token_is_adopted() -> None:
    left = job(status=J.SUBMITTING)
    found = Observation("88", J.RUNNING, "RUNNING", token=left.token)
    look = seen(sought=(left,), found={left.token: found})
    assert planned([], [left], look) == [Adopt(b"j", found)]


def test_a_token_not_found_twice_a_minute_apart_goes_back_to_wanted() -> None:
    left = job(status=J.SUBMITTING)
    assert planned([], [left], seen(sought=(left,))) == [Miss(b"j")]
    left = replace(left, missed=ago(59))
    assert planned([], [left], seen(sought=(left,))) == []
    left = replace(left, missed=ago(60))
    assert planned([], [left], seen(sought=(left,))) == [Forget(b"j")]
    assert planned([], [replace(left, missed=ago(5))], seen(sought=(left,)), patience=Patience(missing=5)) == [
        Forget(b"j")
    ]


def test_a_token_that_was_not_looked_for_is_not_missed() -> None:
    assert planned([], [job(status=J.SUBMITTING, missed=ago(500))], seen()) == []


def test_one_that_was_forgotten_is_looked_for_in_the_pass_that_submits_it_again() -> None:
    back = job(status=J.WANTED, missed=ago(70))
    assert pilots.sought([back]) == {back.token}
    assert planned([], [back]) == []
    assert planned([], [back], seen(sought=(back,))) == [Submit(b"j")]
    late = Observation("88", J.PENDING, "PENDING", token=back.token)
    assert planned([], [back], seen(sought=(back,), found={back.token: late})) == [Adopt(b"j", late)]


# what Slurm says


def test_nothing_is_written_where_nothing_has_changed() -> None:
    assert planned([processor(workers=4)], [job()], seen(Observation("j", J.RUNNING, "RUNNING"))) == []


def test_what_has_changed_is_noted() -> None:
    now = Observation("j", J.RUNNING, "RUNNING", nodes="n[1-2]")
    assert planned([], [job(status=J.PENDING)], seen(now)) == [Update(b"j", now)]


def test_a_requeued_job_is_pending_again_with_one_more_restart() -> None:
    now = Observation("j", J.PENDING, "PENDING", reason="BeginTime", restarts=1)
    assert planned([], [job()], seen(now)) == [Update(b"j", now)]


def test_a_count_of_restarts_never_goes_back() -> None:
    known = Observation("j", J.RUNNING, "RUNNING", restarts=2)
    assert planned([], [job(known=known)], seen(Observation("j", J.RUNNING, "RUNNING"))) == []


def test_silence_changes_nothing() -> None:
    jobs = [job("a"), job("b", J.PENDING), job("c", J.SUBMITTING, missed=ago(500))]
    assert planned([processor(workers=12)], jobs, silent=True) == []


def test_a_job_that_slurm_does_not_know_is_unknown_and_not_ended() -> None:
    assert planned([processor(workers=4)], [job()], seen(gone("j"))) == [Miss(b"j")]
    assert planned([processor(workers=4)], [job(status=J.UNKNOWN, missed=ago(119))], seen(gone("j"))) == []


def test_a_lost_job_has_ended_once_its_agents_are_gone_and_it_was_unknown_for_long() -> None:
    lost = job(status=J.UNKNOWN, missed=ago(120))
    assert planned([], [lost], seen(gone("j"))) == [End(b"j", LOST)]
    assert planned([], [replace(lost, agents=1)], seen(gone("j"))) == []
    assert planned([], [lost]) == [], "Slurm must have said so in this very pass"
    assert planned([], [lost], silent=True) == []


def test_a_lost_job_is_sent_again() -> None:
    lost = job("j", J.ENDED, reason=LOST, ended=ago(1))
    assert planned([processor(workers=4)], [lost]) == [Want(b"p", SHAPE, 4)]
    assert planned([processor()], [lost]) == [Want(b"p", SHAPE, 4)], "its asking was not answered"


def test_a_state_that_we_do_not_know_is_watched_and_never_ended() -> None:
    strange = Observation("j", J.UNKNOWN, "QUANTUM")
    unknown = job(status=J.UNKNOWN, known=strange, missed=None)
    assert planned([], [unknown], seen(strange)) == []


def test_a_job_that_is_known_again_is_as_slurm_says() -> None:
    now = Observation("j", J.RUNNING, "RUNNING")
    back = job(status=J.UNKNOWN, missed=ago(300), known=replace(now, status=J.UNKNOWN))
    assert planned([], [back], seen(now)) == [Update(b"j", now)]


def test_a_number_that_slurm_gave_to_another_job_is_not_ours_to_follow_or_cancel() -> None:
    other = Observation("j", J.RUNNING, "RUNNING", token="f" * 32)
    assert planned([], [job()], seen(other)) == [Miss(b"j")]
    assert planned([], [job(cancel_requested=True)], seen(other)) == [Miss(b"j")]
    assert planned([], [job(status=J.UNKNOWN, missed=ago(120))], seen(other)) == [End(b"j", LOST)]


def test_a_third_of_all_jobs_gone_at_once_is_suspect_and_stops_nothing() -> None:
    jobs = [job(name) for name in "abcdef"]
    jobs.append(job("z", cancel_requested=True))
    jobs.append(job("y", J.UNKNOWN, missed=ago(500)))
    actions = planned([], jobs, seen(gone("a"), gone("b"), gone("c"), gone("y")))
    assert actions == [Suspect(3, 8), Miss(b"a"), Miss(b"b"), Miss(b"c")]


def test_a_second_look_a_poll_later_confirms_it() -> None:
    jobs = [job(name, J.UNKNOWN, missed=ago(10)) for name in "abc"] + [job("z", cancel_requested=True)]
    assert planned([], jobs, seen(gone("a"), gone("b"), gone("c"))) == [Cancel(b"z", 30.0)]


def test_two_jobs_gone_are_not_suspect() -> None:
    jobs = [job("a"), job("b"), job("z", cancel_requested=True)]
    assert planned([], jobs, seen(gone("a"), gone("b"))) == [Miss(b"a"), Miss(b"b"), Cancel(b"z", 30.0)]


# what is not wanted any more


def test_a_job_that_is_not_in_slurm_yet_is_cancelled_on_record() -> None:
    assert planned([], [job(status=J.WANTED, cancel_requested=True)]) == [End(b"j", pilots.UNSENT)]


def test_a_waiting_job_is_cancelled_at_once() -> None:
    assert planned([], [job(status=J.PENDING, cancel_requested=True)]) == [Cancel(b"j", 30.0)]


def test_the_agents_of_a_running_job_drain_before_it_is_cancelled() -> None:
    asked = job(cancel_requested=True, agents=2)
    assert planned([], [asked]) == [Drain(b"j", 45.0)]
    assert planned([], [replace(asked, retry_at=soon(1))]) == []
    assert planned([], [replace(asked, retry_at=ago(0))]) == [Cancel(b"j", 30.0)]


def test_a_job_that_stays_is_cancelled_again() -> None:
    ending = job(status=J.ENDING, cancel_requested=True, retry_at=soon(1))
    assert planned([], [ending]) == []
    assert planned([], [replace(ending, retry_at=ago(0))]) == [Cancel(b"j", 30.0)]
    assert planned([], [replace(ending, retry_at=None)]) == [], "Slurm ends it by itself"


@pytest.mark.parametrize("requested", [Requested.STOPPED, Requested.REMOVED])
def test_the_jobs_of_a_stopped_processor_go(requested: Requested) -> None:
    jobs = [job("a", J.PENDING, requested=requested), job("b", requested=requested, agents=1)]
    assert planned([processor(requested=requested)], jobs) == [Cancel(b"a", 30.0), Drain(b"b", 45.0)]


def test_the_jobs_of_a_paused_processor_stay() -> None:
    assert planned([processor(requested=Requested.PAUSED)], [job(requested=Requested.PAUSED)]) == []


def test_a_job_that_is_cancelled_while_it_is_submitted_waits_until_it_is_found() -> None:
    assert planned([], [job(status=J.SUBMITTING, cancel_requested=True)]) == []


def test_no_more_than_so_many_are_stopped_in_one_pass() -> None:
    jobs = [job(f"j{number}", cancel_requested=True) for number in range(MAX_STOPS + 5)]
    assert len(planned([], jobs)) == MAX_STOPS
