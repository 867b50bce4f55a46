"""`submit`: one pilot on record, then in Slurm, by whoever leads; nothing secret travels with it."""

from __future__ import annotations

import stat
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pyfi_hpc.brokers.base import Broker
from pyfi_hpc.brokers.connect import connect as connect_broker
from pyfi_hpc.client.link import Link
from pyfi_hpc.config import Settings
from pyfi_hpc.config.sections import Agent, Database, Paths
from pyfi_hpc.control import credentials, submitting
from pyfi_hpc.control.submitting import Control
from pyfi_hpc.db.jobs import Wish, withdraw
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.errors import BadInput, Unavailable
from pyfi_hpc.model.request import ResourceRequest
from tests.services.paper_slurm import PaperSlurm

REQUEST = ResourceRequest(partition="main", nodes=2, ntasks=8, time_minutes=10)


class Person:
    """Somebody who submits, with a network of their own."""

    def __init__(self, uri: str, broker: Broker, home: Path) -> None:
        self.uri, self.network, self.slurm = uri, f"n{uuid.uuid4().hex[:8]}", PaperSlurm()
        self.settings = Settings(
            database=Database(uri=uri), agent=Agent(network=self.network), paths=Paths(state=home / "state")
        )
        self.link = Link(uri, "test", 10.0)
        self.control = Control(self.link, broker, self.slurm, self.settings)
        self.rows("INSERT INTO pyfi.network (name) VALUES (%s)", self.network)
        self.rows(
            "INSERT INTO pyfi.processor (network_id, name, repository, commit, module, requested_status)"
            " SELECT id, 'proc1', 'file:///r', %s, 'm', 'STOPPED' FROM pyfi.network WHERE name = %s",
            "a" * 40, self.network,
        )  # fmt: skip

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Do one statement; what it gives."""
        with closing(psycopg2.connect(self.uri)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def submit(self, **given: Any) -> dict[str, Any]:
        return submitting.submit(self.control, **{"processor": "proc1", "request": REQUEST, "workers": 8, **given})

    def processor(self, column: str) -> Any:
        ((value,),) = self.rows(
            f"SELECT p.{column} FROM pyfi.processor p JOIN pyfi.network n ON n.id = p.network_id WHERE n.name = %s",
            self.network,
        )
        return value


@pytest.fixture(scope="module")
def broker(database_uri: str) -> Iterator[Broker]:
    """The embedded broker on the same database."""
    broker = connect_broker(None, database_uri=database_uri)
    yield broker
    broker.close()


@pytest.fixture
def person(database_uri: str, broker: Broker, tmp_path: Path) -> Iterator[Person]:
    """With processor `proc1`, which is stopped."""
    made = Person(database_uri, broker, tmp_path)
    yield made
    made.link.close()


def test_where_nobody_leads_the_submitter_makes_the_pass_itself(person: Person) -> None:
    job = person.submit()
    assert (job["job"], job["status"], job["workers"], job["processor"]) == ("88", "PENDING", 8, "proc1")
    assert (job["scheduler"], job["request"]) == ("default", REQUEST.to_json())
    assert job["output"] == f"{person.settings.state_dir}/jobs/%j.out"
    assert len(person.slurm.jobs) == 1
    assert person.rows("SELECT lease_until FROM pyfi.scheduler s JOIN pyfi.network n ON n.id = s.network_id"
                       " WHERE n.name = %s", person.network) == [(None,)], "others may lead at once"  # fmt: skip


def test_the_processor_is_wanted_running_with_that_shape_and_gets_no_second_pilot(person: Person) -> None:
    person.submit(request=replace(REQUEST, begin="now+1hour", dependency="afterok:7"))
    assert person.processor("requested_status") == "RUNNING"
    assert person.processor("shape") == REQUEST.to_json(), "further pilots do not wait for what this one waited for"
    assert person.control.scheduler("default").once()
    assert len(person.slurm.jobs) == 1
    assert person.submit()["job"] == "89"


def test_where_somebody_leads_the_submitter_waits_for_it(person: Person) -> None:
    person.submit()
    leader = person.control.scheduler("default")
    thread = threading.Thread(target=leader.run)
    thread.start()
    try:
        assert person.submit()["job"] == "89"
    finally:
        leader.stop()
        thread.join(20)
    assert not thread.is_alive()


def test_a_refusal_has_slurms_own_words_and_leaves_no_job(person: Person) -> None:
    person.slurm.refuses = "Slurm refuses the job: invalid account"
    with pytest.raises(BadInput) as refused:
        person.submit()
    assert (refused.value.code, refused.value.what) == ("E_SUBMIT", "Slurm refuses the job: invalid account")
    assert person.slurm.jobs == {}
    assert list((person.settings.state_dir / "jobs").glob("*.ini")) == []


def test_a_refused_submission_leaves_the_processor_as_it_was(person: Person) -> None:
    person.submit()
    wished = [person.processor(name) for name in ("requested_status", "wanted_since", "shape")]
    person.slurm.refuses = "Slurm refuses the job: invalid account"
    for _ in range(4):
        with pytest.raises(BadInput):
            person.submit(request=replace(REQUEST, account="labb"))
    person.slurm.refuses = None
    assert [person.processor(name) for name in ("requested_status", "wanted_since", "shape")] == wished
    assert person.rows(
        "SELECT slurm_id FROM pyfi.job j JOIN pyfi.network n ON n.id = j.network_id WHERE n.name = %s", person.network
    ) == [("88",)]
    person.control.scheduler("default").once()
    assert (person.processor("reason"), list(person.slurm.jobs)) == (None, ["88"])


def test_what_was_asked_for_meanwhile_is_not_taken_back(person: Person) -> None:
    before = Wish("STOPPED", person.processor("wanted_since"), None)
    person.slurm.refuses = "Slurm refuses the job: invalid account"

    def submitted(cursor: Cursor) -> None:
        submitting._record(cursor, person.network, None, "a" * 32, "proc1", REQUEST, 8)

    person.control.database.run(submitted)
    person.control.scheduler("default").once()
    person.rows("UPDATE pyfi.processor SET wanted_since = now() WHERE network_id ="
                " (SELECT id FROM pyfi.network WHERE name = %s)", person.network)  # fmt: skip
    assert person.control.database.run(lambda cursor: withdraw(cursor, "a" * 32, before))
    assert person.processor("requested_status") == "RUNNING"


def test_an_uncertain_submission_is_told_and_never_made_twice(person: Person) -> None:
    person.slurm.swallows = True
    with pytest.raises(Unavailable) as uncertain:
        person.submit()
    assert "on record" in uncertain.value.what
    person.slurm.swallows = False
    person.control.scheduler("default").once()
    assert len(person.slurm.jobs) == 1
    assert person.rows("SELECT status, slurm_id FROM pyfi.job j JOIN pyfi.network n ON n.id = j.network_id"
                       " WHERE n.name = %s", person.network) == [("PENDING", "88")]  # fmt: skip


def test_bad_names_are_refused_before_anything_is_on_record(person: Person) -> None:
    for given, code in (
        ({"processor": "proc2"}, "E_NOT_FOUND"),
        ({"scheduler": "sched9"}, "E_NOT_FOUND"),
    ):
        with pytest.raises(BadInput) as refused:
            person.submit(**given)
        assert refused.value.code == code
    for name in ("sched1", "sched2"):
        person.rows("INSERT INTO pyfi.scheduler (network_id, name) SELECT id, %s FROM pyfi.network WHERE name = %s",
                    name, person.network)  # fmt: skip
    with pytest.raises(BadInput) as several:
        person.submit()
    assert (several.value.code, several.value.cure) == ("E_MISSING", "--scheduler sched1")
    assert person.slurm.asked == {}
    assert person.submit(scheduler="sched2")["scheduler"] == "sched2"


def test_a_jobs_settings_are_in_a_file_for_its_owner_alone_and_only_its_path_travels(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYFI_HOME")
    job = person.submit()
    folder = person.settings.state_dir / "jobs"
    file = credentials.path(folder, job["token"])
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, file)] == [0o700, 0o600]
    ((script, command),) = person.rows("SELECT script, command FROM pyfi.job WHERE token = %s", job["token"])
    assert str(file) in script
    assert person.uri not in script and person.uri not in " ".join(command)

    read = Settings.load(file)
    assert read.database.uri == person.uri
    assert read.agent.network == person.network
    assert read.state_dir == person.settings.state_dir


def test_the_file_goes_when_the_job_has_ended(person: Person) -> None:
    job = person.submit()
    file = credentials.path(person.settings.state_dir / "jobs", job["token"])
    del person.slurm.jobs["88"]
    person.rows("UPDATE pyfi.job SET status = 'ENDED' WHERE token = %s", job["token"])
    assert person.control.scheduler("default").once()
    assert not file.exists()
