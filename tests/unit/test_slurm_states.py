"""Slurm's words as our statuses, and its reasons in plain words."""

from __future__ import annotations

import pytest

from pyfi_hpc.model.status import JobStatus
from pyfi_hpc.slurm.states import COMPACT, FLAGS, REASONS, STATES, known, status_of, together, words

#: Every word of the table of states and the table of flags in Slurm's documentation of job states, and where it is.
DOCUMENTED = {
    JobStatus.PENDING: "PENDING CONFIGURING POWER_UP_NODE REQUEUED REQUEUE_FED REQUEUE_HOLD RESV_DEL_HOLD SPECIAL_EXIT",
    JobStatus.RUNNING: "RUNNING SUSPENDED RESIZING SIGNALING STOPPED",
    JobStatus.ENDING: "COMPLETING STAGE_OUT EXPEDITING",
    JobStatus.ENDED: "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED TIMEOUT",
    JobStatus.UNKNOWN: "REVOKED LAUNCH_FAILED RECONFIG_FAIL UPDATE_DB",
}
CASES = [(word, status) for status, line in DOCUMENTED.items() for word in line.split()]


@pytest.mark.parametrize(("word", "status"), CASES)
def test_every_documented_state_has_a_status(word: str, status: JobStatus) -> None:
    assert (status_of(word), known(word)) == (status, True)


def test_the_tables_hold_nothing_but_what_is_documented() -> None:
    assert {*STATES, *FLAGS} == {word for word, _ in CASES}


def test_compact_words_mean_what_the_long_ones_do() -> None:
    assert {short: status_of(short) for short in COMPACT} == {short: status_of(COMPACT[short]) for short in COMPACT}


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("CANCELLED by 1000", JobStatus.ENDED),
        ("cancelled by someone else", JobStatus.ENDED),
        ("CANCELLED+", JobStatus.ENDED),
        ("CANCELLED+COMPLETING", JobStatus.ENDING),
        ("RUNNING,COMPLETING", JobStatus.ENDING),
        ("PENDING,COMPLETING,REQUEUED", JobStatus.ENDING),
        ("RUNNING+CONFIGURING", JobStatus.PENDING),
        ("PENDING+REQUEUE_HOLD", JobStatus.PENDING),
        ("FAILED+SPECIAL_EXIT", JobStatus.PENDING),
        ("NODE_FAIL+EXPEDITING", JobStatus.ENDING),
        ("PENDING,LAUNCH_FAILED", JobStatus.PENDING),
        ("FAILED,LAUNCH_FAILED", JobStatus.ENDED),
        ("COMPLETED,UPDATE_DB", JobStatus.ENDED),
        ("CANCELLED,REVOKED", JobStatus.UNKNOWN),
    ],
)
def test_flags_beside_a_state_say_where_the_job_is(state: str, status: JobStatus) -> None:
    assert status_of(state) is status


@pytest.mark.parametrize("state", ["", "FROBNICATED", "COMPLETED+FROBNICATED", "RUNNING,XX", "?", "C D"])
def test_a_word_never_seen_is_unknown_and_never_an_end(state: str) -> None:
    assert status_of(state) is JobStatus.UNKNOWN


def test_a_word_never_seen_can_be_told_from_one_that_says_little() -> None:
    assert (known("COMPLETED,FROBNICATED"), known("UPDATE_DB")) == (False, True)


def test_an_array_is_where_its_liveliest_element_is() -> None:
    ended, pending, running = JobStatus.ENDED, JobStatus.PENDING, JobStatus.RUNNING
    assert together([ended, running, pending]) is running
    assert together([ended, pending]) is pending
    assert together([ended, JobStatus.UNKNOWN]) is JobStatus.UNKNOWN
    assert together([]) is JobStatus.UNKNOWN


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_is_said_in_words_of_ours(reason: str) -> None:
    said = words(None, reason) if reason == reason.upper() else words(reason, "PENDING")
    assert said == REASONS[reason]
    assert reason not in said.what


@pytest.mark.parametrize(
    ("reason", "what"),
    [
        ("AssocGrpCpuLimit", "its account has all the CPUs that it may"),
        ("AssocGrpGRES", "its account has all the GPUs or other generic resources that it may"),
        ("AssocGrpMemRunMinutes", "its account has all the minutes still to run that it may"),
        ("AssocMaxJobsLimit", "its account allows a person no more jobs"),
        ("AssocMaxWallDurationPerJobLimit", "its account allows a job no more run time"),
        ("QOSGrpNodeLimit", "the QOS has all the nodes that it may"),
        ("QOSMaxSubmitJobPerUserLimit", "the QOS allows a person no more jobs queued and running"),
        ("QOSMaxMemoryPerNode", "the QOS allows a job on one node no more memory"),
        ("QOSMinGRES", "it asks for fewer GPUs or other generic resources than the QOS demands"),
        ("MaxCpuPerAccount", "the QOS allows an account no more CPUs"),
        ("QOSGrpSomethingNew", "the QOS has all the resources that it may"),
    ],
)
def test_the_hundred_limits_are_told_by_their_scheme(reason: str, what: str) -> None:
    said = words(reason, "PENDING")
    assert said is not None
    assert (said.what, bool(said.cure)) == (what, True)


def test_what_slurm_adds_to_a_reason_is_kept() -> None:
    said = words("ReqNodeNotAvail, UnavailableNodes:n1", "PENDING")
    assert said is not None
    assert said.what.endswith("(UnavailableNodes:n1)")


@pytest.mark.parametrize("reason", ["Frobnication", "a sentence, that a site's plugin wrote", "assocgrp", "Maximum"])
def test_an_unknown_reason_is_given_back_as_it_is(reason: str) -> None:
    assert str(words(reason, "PENDING")) == reason


def test_a_job_that_runs_needs_no_reason() -> None:
    assert words("None", "RUNNING") is None
    assert words(None) is None


def test_a_job_that_nobody_has_looked_at_waits_for_that() -> None:
    assert words("None", "PENDING") == REASONS["None"]


@pytest.mark.parametrize(
    ("reason", "state", "said"),
    [
        ("Priority", "CANCELLED", "CANCELLED"),
        ("None", "TIMEOUT", "TIMEOUT"),
        ("NonZeroExitCode", "FAILED", "NonZeroExitCode"),
        ("BadConstraints", "FAILED", "BadConstraints"),
        ("Priority", "PENDING", "Priority"),
    ],
)
def test_a_job_that_ended_no_longer_waits(reason: str, state: str, said: str) -> None:
    assert words(reason, state) == REASONS[said]


def test_without_a_reason_the_state_is_told() -> None:
    assert str(words("None", "CANCELLED by 1000")) == "it was cancelled"
