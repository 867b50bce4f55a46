"""How long an agent's calls may go on once it is to end, and what is said of those that could not finish."""

from __future__ import annotations

import pytest

from pyfi_hpc.agent.ending import ASKED, DRAIN_SECONDS, MARGIN_SECONDS, Course, Ending, near_time_limit, told_by_slurm
from pyfi_hpc.model.status import SPENDS_BUDGET, Cause


def test_calls_may_use_what_the_time_limit_leaves() -> None:
    assert near_time_limit(120.0) == Ending(Cause.WALLTIME, 120.0 - MARGIN_SECONDS)
    assert near_time_limit(None) == Ending(Cause.WALLTIME, DRAIN_SECONDS)
    assert near_time_limit(-3.0) == Ending(Cause.WALLTIME, 0.0)


@pytest.mark.parametrize(("kill_wait", "seconds"), [(30.0, 25.0), (2.0, 1.0), (300.0, DRAIN_SECONDS)])
def test_slurms_kill_comes_after_the_drain(kill_wait: float, seconds: float) -> None:
    assert told_by_slurm(kill_wait, 3600.0) == Ending(Cause.PREEMPTED, seconds)


def test_a_term_at_the_time_limit_is_told_from_a_preemption() -> None:
    assert told_by_slurm(30.0, 2.0).cause is Cause.WALLTIME
    assert told_by_slurm(30.0, None).cause is Cause.PREEMPTED


def test_no_ending_spends_a_calls_budget() -> None:
    endings = ASKED, near_time_limit(1.0), told_by_slurm(1.0, 1.0), told_by_slurm(1.0, None)
    assert not {each.cause for each in endings} & SPENDS_BUDGET


def test_a_course_begins_to_end_once_and_the_reason_that_leaves_less_time_wins() -> None:
    course = Course()
    assert course.serves and not course.out_of_time(1e9)

    assert course.end(Ending(Cause.DRAINED, 30.0), 100.0)
    assert not course.end(Ending(Cause.WALLTIME, 10.0), 105.0)
    assert not course.end(Ending(Cause.PREEMPTED, 30.0), 106.0)

    assert course.why == Ending(Cause.WALLTIME, 10.0)
    assert (course.out_of_time(115.0), course.out_of_time(115.1)) == (False, True)


def test_a_course_is_near_its_job_s_limit_only_while_it_serves() -> None:
    course = Course()
    assert (course.seconds_left(100.0), course.near_limit(1e9, 60.0)) == (None, False)

    course.know_limit(100.0, 100.0)
    assert course.seconds_left(130.0) == 70.0
    assert (course.near_limit(139.0, 60.0), course.near_limit(141.0, 60.0)) == (False, True)

    course.end(ASKED, 141.0)
    assert not course.near_limit(142.0, 60.0)
