"""A scheduler on a real database: what is on record reaches Slurm once, whoever leads and whatever fails."""

from __future__ import annotations

import datetime
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extras import Json

from pyfi_hpc.brokers.base import Broker
from pyfi_hpc.brokers.connect import connect as connect_broker
from pyfi_hpc.client.link import Link
from pyfi_hpc.control.pilots import LOST, Patience
from pyfi_hpc.control.scheduler import Scheduler
from pyfi_hpc.db.jobs import Wanted
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.model.status import JobStatus
from pyfi_hpc.slurm.launcher import Submission
from tests.services.paper_slurm import PaperSlurm
from tests.support import eventually

SHAPE = ResourceRequest(ntasks=4)


def prepare(wanted: Wanted) -> tuple[Submission, str | None]:
    """A script that says what it is."""
    return Submission(wanted.token, f"#!/bin/sh\n# {wanted.token}\n", ("--comment", wanted.token)), "/tmp/%j.out"


def slots(request: ResourceRequest) -> int:
    """One a task."""
    return request.ntasks or 1


class Desk:
    """One network with its scheduler, and its Slurm on paper."""

    def __init__(self, uri: str, broker: Broker, folder: Path) -> None:
        self.uri, self.broker, self.folder = uri, broker, folder
        self.network = f"n{uuid.uuid4().hex[:8]}"
        self.slurm = PaperSlurm()
        self.links: list[Link] = []
        self.prepare: Callable[[Wanted], tuple[Submission, str | None]] = prepare
        ((self.network_id,),) = self.rows("INSERT INTO pyfi.network (name) VALUES (%s) RETURNING id", self.network)
        ((self.scheduler_id,),) = self.rows(
            "INSERT INTO pyfi.scheduler (network_id, name) VALUES (%s, 'sched1') RETURNING id", self.network_id
        )

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Do one statement; what it gives."""
        with closing(psycopg2.connect(self.uri)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def scheduler(self, **patience: float) -> Scheduler:
        """Another process that may lead."""
        link = Link(self.uri, "test", 10.0)
        self.links.append(link)
        return Scheduler(
            link, self.broker, self.slurm, lambda wanted: self.prepare(wanted), slots,
            network=self.network, name="sched1", folder=self.folder, patience=Patience(**patience),
        )  # fmt: skip

    def leading(self, **patience: float) -> Scheduler:
        """One that leads."""
        scheduler = self.scheduler(**patience)
        assert scheduler.leader.lead()
        return scheduler

    def processor(self, workers: int | None = None, shape: ResourceRequest | None = SHAPE) -> str:
        """A processor that a person asks to run; its id."""
        ((identity,),) = self.rows(
            "INSERT INTO pyfi.processor (network_id, name, repository, commit, module, workers, shape)"
            " VALUES (%s, 'p', 'file:///r', %s, 'm', %s, %s) RETURNING id",
            self.network_id, "a" * 40, workers, Json(shape.to_json()) if shape else None,
        )  # fmt: skip
        return str(identity)

    def want(self, processor: str | None = None, **columns: object) -> str:
        """A job on record; its token."""
        token = uuid.uuid4().hex
        given = {"token": token, "request": Json(SHAPE.to_json()), "workers": 4, "processor_id": processor, **columns}
        names, marks = ", ".join(given), ", ".join(["%s"] * len(given))
        self.rows(
            f"INSERT INTO pyfi.job (network_id, scheduler_id, {names}) VALUES (%s, %s, {marks})",
            self.network_id, self.scheduler_id, *given.values(),
        )  # fmt: skip
        return token

    def job(self, token: str, column: str) -> Any:
        """One column of the job's row."""
        ((value,),) = self.rows(f"SELECT {column} FROM pyfi.job WHERE token = %s", token)
        return value

    def jobs(self) -> list[tuple[str, str | None]]:
        """(status, Slurm's id) of every job on record, oldest first."""
        return [
            (status, job)
            for status, job in self.rows(
                "SELECT status, slurm_id FROM pyfi.job WHERE network_id = %s ORDER BY created, slurm_id",
                self.network_id,
            )
        ]

    def ours(self, column: str) -> Any:
        """One column of the scheduler's row."""
        ((value,),) = self.rows(f"SELECT {column} FROM pyfi.scheduler WHERE id = %s", self.scheduler_id)
        return value

    def lapse(self) -> None:
        """The leader's lease is over."""
        self.rows(
            "UPDATE pyfi.scheduler SET lease_until = now() - interval '1 second' WHERE id = %s", self.scheduler_id
        )

    def agent_in(self, token: str) -> str:
        """An agent in that job, with its lease; its id."""
        ((node,),) = self.rows(
            "INSERT INTO pyfi.node (network_id, name, host) VALUES (%s, %s, %s) RETURNING id",
            self.network_id, f"n{uuid.uuid4().hex[:6]}", uuid.uuid4().hex,
        )  # fmt: skip
        ((agent,),) = self.rows(
            "INSERT INTO pyfi.agent (node_id, pid, cores, version, lease_until, job_id)"
            " SELECT %s, 1, '{0}', '0', now() + interval '1 hour', id FROM pyfi.job WHERE token = %s RETURNING id",
            node, token,
        )  # fmt: skip
        return str(agent)


@pytest.fixture(scope="module")
def broker(database_uri: str) -> Iterator[Broker]:
    """The embedded broker on the same database."""
    broker = connect_broker(None, database_uri=database_uri)
    yield broker
    broker.close()


@pytest.fixture
def desk(database_uri: str, broker: Broker, tmp_path: Path) -> Iterator[Desk]:
    """A network with scheduler `sched1`."""
    made = Desk(database_uri, broker, tmp_path)
    yield made
    for link in made.links:
        link.close()


# one leader


def test_a_job_on_record_is_submitted_and_followed_to_its_end(desk: Desk) -> None:
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


def test_a_requeued_job_is_another_incarnation(desk: Desk) -> None:
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


def test_a_processor_with_a_shape_gets_the_pilots_that_it_lacks(desk: Desk) -> None:
    desk.processor(workers=10)
    assert desk.scheduler().once()
    assert desk.jobs() == [("PENDING", "88"), ("PENDING", "89"), ("PENDING", "90")]
    assert desk.scheduler().once()
    assert len(desk.jobs()) == 3


def test_a_processor_without_a_shape_gets_none(desk: Desk) -> None:
    desk.processor(workers=10, shape=None)
    desk.scheduler().once()
    assert desk.jobs() == []


def test_without_a_number_of_workers_each_asking_gets_one_pilot(desk: Desk) -> None:
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


def test_slurms_refusal_is_the_jobs_reason_and_three_alike_are_the_processors(desk: Desk) -> None:
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


def test_a_job_that_cannot_be_prepared_holds_up_no_other(desk: Desk) -> None:
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


def test_slurm_is_asked_once_a_look_however_many_jobs_there_are(desk: Desk) -> None:
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


def test_an_uncertain_submission_is_adopted_by_its_token(desk: Desk) -> None:
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


def test_a_submission_that_slurm_never_heard_of_is_made_again(desk: Desk) -> None:
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


def test_while_slurm_is_silent_every_job_stays_as_it_was_and_the_scheduler_says_so(desk: Desk) -> None:
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


def test_a_job_that_slurm_has_lost_is_sent_again_once_its_agents_are_gone(desk: Desk) -> None:
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


def test_many_jobs_gone_at_once_are_not_believed(desk: Desk) -> None:
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


def test_a_waiting_job_is_cancelled_at_once(desk: Desk) -> None:
    token, leader = desk.want(), desk.leading()
    leader.turn(look=True)
    desk.rows("UPDATE pyfi.job SET cancel_requested = true WHERE token = %s", token)
    leader.turn(look=False)
    assert desk.slurm.cancelled == ["88"]
    assert desk.job(token, "status") == "ENDING"


def test_a_running_jobs_agents_are_asked_to_end_before_it_is_cancelled(desk: Desk) -> None:
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


# two processes


def test_one_process_leads_and_another_takes_over_when_its_lease_lapses(desk: Desk) -> None:
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


def test_a_leader_whose_lease_lapsed_unnoticed_leads_on_while_nobody_took_it(desk: Desk) -> None:
    leader, token = desk.leading(), desk.want()
    desk.lapse()
    leader.turn(look=True)
    assert desk.job(token, "status") == "PENDING"
    assert not desk.scheduler().leader.lead()


def test_a_leader_that_is_deposed_while_sbatch_runs_writes_nothing_and_its_job_is_adopted(desk: Desk) -> None:
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


def test_two_that_both_want_to_lead_submit_each_job_once(desk: Desk) -> None:
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


def test_a_hint_is_acted_on_without_waiting_for_the_next_look(desk: Desk) -> None:
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


def test_a_lease_is_renewed_by_every_pass(desk: Desk) -> None:
    leader = desk.leading()
    before: datetime.datetime = desk.ours("lease_until")
    leader.turn(look=False)
    assert desk.ours("lease_until") > before


def test_the_files_of_jobs_that_have_ended_go(desk: Desk) -> None:
    ended, live = desk.want(status="ENDED"), desk.want(retry_at=datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC))
    for name in (f"{ended}.ini", f"{live}.ini", f"{uuid.uuid4().hex}.ini", "notes"):
        (desk.folder / name).write_text("")
    desk.leading().turn(look=True)
    left = {path.name for path in desk.folder.iterdir()}
    assert f"{ended}.ini" not in left
    assert {f"{live}.ini", "notes"} < left
    assert len(left) == 3, "a file of a job that this database does not know is none of ours to remove"
