"""What took an agent that did not end by itself: what Slurm has said of its job decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyfi_hpc.control.losses import Lost, cause_of, error_of
from pyfi_hpc.model.status import SPENDS_BUDGET, Cause, JobStatus

#: Its lease lapsed, and its job goes on as if nothing had happened.
SILENT = Lost("a", "n2", False, False, False, JobStatus.RUNNING, "RUNNING", "n[1-3]")


def test_an_agent_of_which_slurm_says_nothing_was_lost_alone() -> None:
    assert cause_of(SILENT) is Cause.AGENT_LOST
    assert cause_of(replace(SILENT, told=True)) is Cause.AGENT_LOST
    assert cause_of(replace(SILENT, status=JobStatus.UNKNOWN, nodes=None)) is Cause.AGENT_LOST


def test_a_job_that_was_started_again_has_lost_the_node_of_an_agent_that_nobody_told() -> None:
    waiting = replace(SILENT, overtaken=True, status=JobStatus.PENDING, state="PENDING", nodes=None)
    assert cause_of(waiting) is Cause.NODE_FAILED
    assert cause_of(replace(SILENT, overtaken=True)) is Cause.NODE_FAILED


@pytest.mark.parametrize("state", ["NODE_FAIL", "NODE_FAIL+COMPLETING"])
def test_slurms_own_word_for_it_counts(state: str) -> None:
    assert cause_of(replace(SILENT, status=JobStatus.ENDED, state=state)) is Cause.NODE_FAILED


def test_a_job_that_goes_on_without_the_node_has_lost_it() -> None:
    assert cause_of(replace(SILENT, nodes="n[1,3]")) is Cause.NODE_FAILED
    assert cause_of(replace(SILENT, nodes="n[1,3]", status=JobStatus.ENDING)) is Cause.AGENT_LOST
    assert cause_of(replace(SILENT, nodes=None)) is Cause.AGENT_LOST


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ("TIMEOUT", Cause.WALLTIME),
        ("DEADLINE", Cause.WALLTIME),
        ("PREEMPTED", Cause.PREEMPTED),
        ("CANCELLED", Cause.PREEMPTED),
        ("NODE_FAIL", Cause.PREEMPTED),
    ],
)
def test_one_that_was_killed_while_it_drained_was_ended_by_slurm(state: str, cause: Cause) -> None:
    assert cause_of(replace(SILENT, told=True, status=JobStatus.ENDED, state=state)) is cause


def test_one_that_drained_in_a_job_that_was_requeued_was_preempted_whatever_became_of_the_job() -> None:
    assert cause_of(replace(SILENT, told=True, overtaken=True)) is Cause.PREEMPTED
    ended = replace(SILENT, told=True, overtaken=True, status=JobStatus.ENDED, state="TIMEOUT")
    assert cause_of(ended) is Cause.PREEMPTED


@pytest.mark.parametrize("state", ["NODE_FAIL", "TIMEOUT"])
def test_one_in_whose_place_another_was_started_was_not_lost_with_its_node(state: str) -> None:
    ended = Lost("a", "n2", True, True, True, JobStatus.ENDED, state)
    assert cause_of(ended) is Cause.AGENT_LOST


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", "CANCELLED", "OUT_OF_MEMORY", "TIMEOUT"])
def test_one_that_was_gone_before_its_job_ended_for_another_reason_was_lost_alone(state: str) -> None:
    assert cause_of(replace(SILENT, status=JobStatus.ENDED, state=state)) is Cause.AGENT_LOST


@pytest.mark.parametrize("cause", [Cause.NODE_FAILED, Cause.PREEMPTED, Cause.WALLTIME])
def test_what_slurm_has_done_costs_a_call_nothing_and_is_said_in_words(cause: Cause) -> None:
    assert cause not in SPENDS_BUDGET
    assert error_of(cause).cause == cause
    assert error_of(cause).message != error_of(Cause.AGENT_LOST).message
