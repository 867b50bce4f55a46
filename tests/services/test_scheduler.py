"""A scheduler on a real database: what is on record reaches Slurm once, whoever leads and whatever fails."""

from __future__ import annotations

import datetime
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pyfi_hpc.brokers.base import Broker
from pyfi_hpc.brokers.connect import connect as connect_broker
from pyfi_hpc.control.pilots import LOST
from pyfi_hpc.db.jobs import Wanted
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.model.status import JobStatus
from pyfi_hpc.slurm.launcher import Submission
from tests.services.paper_slurm import PaperSlurm
from tests.services.scheduler_support import Desk, prepare
from tests.support import eventually


class PaperDesk(Desk):
    """With a Slurm on paper."""

    def __init__(self, uri: str, broker: Broker, folder: Path) -> None:
        self.slurm = PaperSlurm()
        super().__init__(uri, broker, self.slurm, folder)


@pytest.fixture(scope="module")
def broker(database_uri: str) -> Iterator[Broker]:
    """The embedded broker on the same database."""
    broker = connect_broker(None, database_uri=database_uri)
    yield broker
    broker.close()


@pytest.fixture
def desk(database_uri: str, broker: Broker, tmp_path: Path) -> Iterator[PaperDesk]:
    """A network with scheduler `sched1`."""
    made = PaperDesk(database_uri, broker, tmp_path)
    yield made
    made.close()


# one leader


def test_a_job_on_record_is_submitted_and_followed_to_its_end(desk: PaperDesk) -> None:
    token, leader = desk.want(), desk.leading()
    leader.turn(look=True)
    assert desk.jobs() == [("PENDING", "88")]
    assert desk.slurm.with_token(token) == ["88"]
    assert (desk.job(token, "script"), desk.job(token, "output")) == (f"#!/bin/sh\n# {token}\n", "/tmp/%j.out")

    desk.slurm.runs("88")
    leader.turn(look=True)
    assert (desk.job(token, "status"), desk.job(token, "node_list")) == ("RUNNING", "n1")

    desk.slurm.becomes("88", "TIMEOUT", JobStatus.ENDED, exit_code="0:15")
    leader.turn(look=True)
    assert (desk.job(token, "status"), desk.job(token, "reason")) == ("ENDED", "TIMEOUT (exit 0:15)")
    assert desk.job(token, "ended") is not None


def test_a_requeued_job_is_another_incarnation(desk: PaperDesk) -> None:
    token, leader = desk.want(), desk.leading()
    leader.turn(look=True)
    desk.slurm.runs("88")
    leader.turn(look=True)
    desk.slurm.becomes("88", "PENDING", JobStatus.PENDING, reason="BeginTime", restarts=1, nodes=None)
    leader.turn(look=True)
    assert (desk.job(token, "status"), desk.job(token, "restarts"), desk.job(token, "node_list")) == (
        "PENDING",
        1,
        None,
    )


def test_a_processor_with_a_shape_gets_the_pilots_that_it_lacks(desk: PaperDesk) -> None:
    desk.processor(workers=10)
    assert desk.scheduler().once()
    assert desk.jobs() == [("PENDING", "88"), ("PENDING", "89"), ("PENDING", "90")]
    assert desk.scheduler().once()
    assert len(desk.jobs()) == 3


def test_a_processor_without_a_shape_gets_none(desk: PaperDesk) -> None:
    desk.processor(workers=10, shape=None)
    desk.scheduler().once()
    assert desk.jobs() == []


def test_without_a_number_of_workers_each_asking_gets_one_pilot(desk: PaperDesk) -> None:
    processor = desk.processor()
    desk.scheduler().once()
    desk.scheduler().once()
    assert desk.jobs() == [("PENDING", "88")]
    desk.slurm.becomes("88", "COMPLETED", JobStatus.ENDED)
    desk.scheduler().once()
    desk.scheduler().once()
    assert desk.jobs() == [("ENDED", "88")]
    desk.rows("UPDATE pyfi.processor SET wanted_since = now() WHERE id = %s", processor)
    desk.scheduler().once()
    assert desk.jobs() == [("ENDED", "88"), ("PENDING", "89")]


def test_slurms_refusal_is_the_jobs_reason_and_three_alike_are_the_processors(desk: PaperDesk) -> None:
    processor, leader = desk.processor(workers=4), desk.leading()
    desk.slurm.refuses = "invalid account"

    def turned() -> bool:
        # the waits between failures are long past
        desk.rows("UPDATE pyfi.job SET ended = ended - interval '1 hour' WHERE network_id = %s", desk.network_id)
        return leader.turn(look=True)

    while turned():
        pass
    for _ in range(6):
        turned()
    assert desk.jobs() == [("ENDED", None)] * 3
    assert desk.rows("SELECT DISTINCT reason FROM pyfi.job WHERE network_id = %s", desk.network_id) == [
        ("invalid account",)
    ]
    ((status, reason),) = desk.rows("SELECT status, reason FROM pyfi.processor WHERE id = %s", processor)
    assert (status, reason["code"]) == ("FAILED", "E_SUBMIT")
    assert "invalid account" in reason["what"]


def test_a_job_that_cannot_be_prepared_holds_up_no_other(desk: PaperDesk) -> None:
    bad, good = desk.want(), desk.want()

    def prepared(wanted: Wanted) -> tuple[Submission, str | None]:
        if wanted.token == bad:
            raise OSError("no space left")
        return prepare(wanted)

    desk.prepare = prepared
    desk.leading().turn(look=True)
    assert (desk.job(bad, "status"), desk.job(bad, "reason"), desk.job(bad, "failures")) == (
        "WANTED",
        "no space left",
        1,
    )
    assert desk.job(bad, "retry_at") is not None
    assert desk.job(good, "status") == "PENDING"


def test_slurm_is_asked_once_a_look_however_many_jobs_there_are(desk: PaperDesk) -> None:
    leader = desk.leading()
    for count in (1, 12):
        for _ in range(count):
            desk.want()
        leader.turn(look=True)
        before = dict(desk.slurm.asked)
        leader.turn(look=True)
        assert {name: count - before.get(name, 0) for name, count in desk.slurm.asked.items()} == {
            "submit": 0,
            "observe": 1,
        } | {name: 0 for name in before if name not in ("submit", "observe")}
    leader.turn(look=False)
    assert desk.ours("queries") == sum(desk.slurm.asked.values())


# Slurm fails


def test_an_uncertain_submission_is_adopted_by_its_token(desk: PaperDesk) -> None:
    token, leader = desk.want(), desk.leading()
    desk.slurm.swallows = True
    leader.turn(look=True)
    assert (desk.job(token, "status"), desk.job(token, "slurm_id")) == ("SUBMITTING", None)
    assert "no answer in time" in desk.job(token, "reason")
    desk.slurm.swallows = False
    leader.turn(look=True)
    assert (desk.job(token, "status"), desk.job(token, "slurm_id"), desk.job(token, "reason")) == (
        "PENDING",
        "88",
        None,
    )
    assert desk.slurm.with_token(token) == ["88"]


def test_a_submission_that_slurm_never_heard_of_is_made_again(desk: PaperDesk) -> None:
    token, leader = desk.want(), desk.leading(missing=0.0)
    desk.slurm.answers = False
    leader.turn(look=False)
    assert desk.job(token, "status") == "SUBMITTING"
    desk.slurm.answers = True
    leader.turn(look=True)
    assert desk.job(token, "missed") is not None
    assert desk.job(token, "status") == "SUBMITTING"
    leader.turn(look=True)
    leader.turn(look=True)
    assert (desk.job(token, "status"), desk.job(token, "missed")) == ("PENDING", None)
    assert desk.slurm.with_token(token) == ["88"]


def test_while_slurm_is_silent_every_job_stays_as_it_was_and_the_scheduler_says_so(desk: PaperDesk) -> None:
    token, leader = desk.want(), desk.leading()
    leader.turn(look=True)
    desk.slurm.runs("88")
    leader.turn(look=True)
    waiting = desk.want()
    desk.slurm.answers = False
    for _ in range(3):
        leader.turn(look=True)
    assert (desk.job(token, "status"), desk.job(waiting, "status")) == ("RUNNING", "WANTED")
    assert "does not answer" in desk.ours("problem")
    desk.slurm.answers = True
    leader.turn(look=True)
    assert desk.ours("problem") is None
    assert desk.job(waiting, "status") == "PENDING"


def test_a_job_that_slurm_has_lost_is_sent_again_once_its_agents_are_gone(desk: PaperDesk) -> None:
    desk.processor(workers=4)
    leader = desk.leading(lost=0.0)
    while leader.turn(look=True):
        pass
    ((token,),) = desk.rows("SELECT token FROM pyfi.job WHERE network_id = %s", desk.network_id)
    agent = desk.agent_in(token)
    desk.slurm.jobs.clear()  # its state directory is empty
    for _ in range(3):
        leader.turn(look=True)
    assert desk.jobs() == [("UNKNOWN", "88")]
    desk.rows("UPDATE pyfi.agent SET lease_until = now() - interval '1 second' WHERE id = %s", agent)
    leader.turn(look=True)
    while leader.turn(look=False):
        pass
    assert desk.job(token, "reason") == LOST
    assert desk.jobs() == [("ENDED", "88"), ("PENDING", "89")]


def test_many_jobs_gone_at_once_are_not_believed(desk: PaperDesk) -> None:
    leader = desk.leading(lost=0.0)
    for _ in range(4):
        desk.want()
    leader.turn(look=True)
    kept = dict(desk.slurm.jobs)
    desk.slurm.jobs.clear()
    leader.turn(look=True)
    assert {status for status, _ in desk.jobs()} == {"UNKNOWN"}
    assert "E_SUSPECT_OBSERVATION" in desk.ours("problem")
    desk.slurm.jobs = kept
    leader.turn(look=True)
    assert {status for status, _ in desk.jobs()} == {"PENDING"}
    assert desk.ours("problem") is None


# cancelling


def test_a_waiting_job_is_cancelled_at_once(desk: PaperDesk) -> None:
    token, leader = desk.want(), desk.leading()
    leader.turn(look=True)
    desk.rows("UPDATE pyfi.job SET cancel_requested = true WHERE token = %s", token)
    leader.turn(look=False)
    assert desk.slurm.cancelled == ["88"]
    assert desk.job(token, "status") == "ENDING"


def test_a_running_jobs_agents_are_asked_to_end_before_it_is_cancelled(desk: PaperDesk) -> None:
    token, leader = desk.want(), desk.leading(drain=0.0)
    leader.turn(look=True)
    desk.slurm.runs("88")
    leader.turn(look=True)
    agent = desk.agent_in(token)
    desk.rows("UPDATE pyfi.job SET cancel_requested = true WHERE token = %s", token)
    leader.turn(look=False)
    assert desk.rows("SELECT stop_requested FROM pyfi.agent WHERE id = %s", agent) == [(True,)]
    assert desk.slurm.cancelled == []
    leader.turn(look=False)
    assert desk.slurm.cancelled == ["88"]


def test_a_number_that_slurm_gave_again_is_not_cancelled(desk: PaperDesk) -> None:
    token, leader = desk.want(), desk.leading()
    leader.turn(look=True)
    desk.slurm.jobs["88"] = replace(desk.slurm.jobs["88"], token="f" * 32)  # its state was lost meanwhile
    desk.rows("UPDATE pyfi.job SET cancel_requested = true WHERE token = %s", token)
    leader.turn(look=False)
    assert desk.slurm.cancelled == []


# two processes


def test_one_process_leads_and_another_takes_over_when_its_lease_lapses(desk: PaperDesk) -> None:
    first, second = desk.leading(), desk.scheduler()
    assert not second.leader.lead()
    epoch = desk.ours("epoch")
    desk.lapse()
    assert second.leader.lead()
    assert desk.ours("epoch") == epoch + 1
    token = desk.want()
    with pytest.raises(PyfiError) as refused:
        first.turn(look=True)
    assert refused.value.code == "E_FENCED"
    assert not first.leader.leads
    assert (desk.job(token, "status"), desk.slurm.jobs) == ("WANTED", {})
    second.turn(look=True)
    assert desk.job(token, "status") == "PENDING"


def test_a_leader_whose_lease_lapsed_unnoticed_leads_on_while_nobody_took_it(desk: PaperDesk) -> None:
    leader, token = desk.leading(), desk.want()
    desk.lapse()
    leader.turn(look=True)
    assert desk.job(token, "status") == "PENDING"
    assert not desk.scheduler().leader.lead()


def test_a_leader_that_is_deposed_while_sbatch_runs_writes_nothing_and_its_job_is_adopted(desk: PaperDesk) -> None:
    first, second, token = desk.leading(), desk.scheduler(missing=0.0), desk.want()

    def deposed() -> None:
        desk.lapse()
        assert second.leader.lead()

    desk.slurm.meanwhile = deposed
    with pytest.raises(PyfiError):
        first.turn(look=True)
    desk.slurm.meanwhile = lambda: None
    assert desk.job(token, "status") == "SUBMITTING"
    second.turn(look=True)
    assert (desk.job(token, "status"), desk.job(token, "slurm_id")) == ("PENDING", "88")
    assert desk.slurm.with_token(token) == ["88"]


def test_two_that_both_want_to_lead_submit_each_job_once(desk: PaperDesk) -> None:
    desk.processor(workers=12)
    racing = [desk.scheduler(poll=0.05) for _ in range(2)]
    threads = [threading.Thread(target=each.run) for each in racing]

    def all_pending() -> bool:
        desk.lapse()  # who leads changes all the time
        return {status for status, _ in desk.jobs()} == {"PENDING"}

    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            desk.lapse()
            desk.want()
            desk.broker.hint(desk.network, "jobs")
        eventually(all_pending, timeout=60)
    finally:
        for each in racing:
            each.stop()
        for thread in threads:
            thread.join(20)
    tokens = [seen.token for seen in desk.slurm.jobs.values()]
    assert len(tokens) == len(set(tokens)) == len(desk.jobs())


def test_a_hint_is_acted_on_without_waiting_for_the_next_look(desk: PaperDesk) -> None:
    scheduler = desk.scheduler(poll=3600.0)
    thread = threading.Thread(target=scheduler.run)
    thread.start()
    try:
        eventually(lambda: desk.ours("polled") is not None)
        token = desk.want()
        desk.broker.hint(desk.network, "jobs")
        eventually(lambda: desk.job(token, "status") == "PENDING")
    finally:
        scheduler.stop()
        thread.join(20)
    assert desk.ours("lease_until") is None, "it lets another process lead at once"


def test_a_lease_is_renewed_by_every_pass(desk: PaperDesk) -> None:
    leader = desk.leading()
    before: datetime.datetime = desk.ours("lease_until")
    leader.turn(look=False)
    assert desk.ours("lease_until") > before


def test_the_files_of_jobs_that_have_ended_go(desk: PaperDesk) -> None:
    ended, live = desk.want(status="ENDED"), desk.want(retry_at=datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC))
    for name in (f"{ended}.ini", f"{live}.ini", f"{uuid.uuid4().hex}.ini", "notes"):
        (desk.folder / name).write_text("")
    desk.leading().turn(look=True)
    left = {path.name for path in desk.folder.iterdir()}
    assert f"{ended}.ini" not in left
    assert {f"{live}.ini", "notes"} < left
    assert len(left) == 3, "a file of a job that this database does not know is none of ours to remove"
