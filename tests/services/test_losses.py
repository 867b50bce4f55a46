"""Agents that were lost, on a real database: the cause stands on the attempts of what they ran, at no cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from structlog.testing import capture_logs

from pyfi_hpc.agent import keeper
from pyfi_hpc.agent.commit import verdicts
from pyfi_hpc.agent.keeper import LongCall
from pyfi_hpc.agent.lots import Lot, Served
from pyfi_hpc.brokers.base import Broker
from pyfi_hpc.brokers.connect import connect as connect_broker
from pyfi_hpc.client.listing import attempt_rows
from pyfi_hpc.control.scheduler import Scheduler
from pyfi_hpc.db import record
from pyfi_hpc.db.record import Cursor, NewAttempt, NewOutcome
from pyfi_hpc.model.status import AttemptStatus, Cause, JobStatus, OutcomeStatus
from pyfi_hpc.wire import values
from pyfi_hpc.wire.ids import call_digest, new_id
from pyfi_hpc.wire.messages import WIRE_VERSION, Call, Message
from tests.services.paper_slurm import PaperSlurm
from tests.services.scheduler_support import Desk
from tests.services.test_verdicts import Handed

OTHER = new_id()


class Ward(Desk):
    """A job of two nodes that runs, an agent on the first of them, and a worker of it that calls come to."""

    def __init__(self, uri: str, broker: Broker, folder: Path) -> None:
        self.slurm = PaperSlurm()
        super().__init__(uri, broker, self.slurm, folder)
        self.connection = psycopg2.connect(uri)
        self.connection.autocommit = True
        self.cursor: Cursor = self.connection.cursor()
        self.program = self.processor(shape=None)
        self.token, self.leader = self.want(self.program), self.leading()
        self.leader.turn(look=True)
        self.agent = bytes.fromhex(self.agent_in(self.token).replace("-", ""))
        ((self.host,),) = self.rows(
            "SELECT n.host FROM pyfi.agent a JOIN pyfi.node n ON n.id = a.node_id WHERE a.id = %s::uuid",
            self.agent.hex(),
        )
        self.slurm.becomes("88", "RUNNING", JobStatus.RUNNING, nodes=f"{self.host},other")
        self.leader.turn(look=True)
        self.socket = self._socket()
        self.worker = self._worker()

    def _socket(self) -> bytes:
        ((queue,),) = self.rows(
            "INSERT INTO pyfi.queue (network_id, name) VALUES (%s, 'q') RETURNING id", self.network_id
        )
        ((socket,),) = self.rows(
            "INSERT INTO pyfi.socket (network_id, name, processor_id, queue_id, task, task_key)"
            " VALUES (%s, 'p.work', %s, %s, 'work', 'k') RETURNING uuid_send(id)",
            self.network_id, self.program, queue,
        )  # fmt: skip
        return bytes(socket)

    def _worker(self) -> bytes:
        ((worker,),) = self.rows(
            "INSERT INTO pyfi.worker (processor_id, node_id, agent_id, cores, commit, status)"
            " SELECT %s, node_id, id, '{0}', %s, 'READY' FROM pyfi.agent WHERE id = %s::uuid"
            " RETURNING uuid_send(id)",
            self.program, "a" * 40, self.agent.hex(),
        )  # fmt: skip
        return bytes(worker)

    # what agents do

    @property
    def owner(self) -> str:
        self.cursor.execute("SELECT owner FROM pyfi.socket WHERE id = %s::uuid", (self.socket.hex(),))
        return str(self.cursor.fetchone()[0])

    def lot(self, serial: int = 1, identity: bytes | None = None, max_attempts: int = 3) -> Lot:
        """A delivery of one call that may have been in other hands."""
        args = values.encode_arguments((1,), {})
        call = Call(identity or new_id(), args, call_digest(self.socket, args), serial)
        processor = bytes.fromhex(self.program.replace("-", ""))
        served = Served(
            self.socket, "p.work", self.owner, processor, "work", "q.d.w.k.g1", "q.d.w", "k", 1, None, max_attempts,
            60.0, (),
        )  # fmt: skip
        message = Message(WIRE_VERSION, new_id(), self.owner, self.socket, 1, (call,))
        return Lot(1, Handed(), message, served, processor, careful=True)

    def runs(self, lot: Lot) -> None:
        """The worker has been running the call for a while, and nothing else is on record of it."""
        keeper.note_long_calls(self.cursor, [LongCall(self.worker, lot.call(0).id, 1.5)])

    def announces(self, lot: Lot) -> None:
        """The agent starts the call, and says so first."""
        call = lot.call(0)
        started = NewAttempt(
            self.owner, call.id, call.serial, AttemptStatus.STARTED, socket=self.socket, worker=self.worker,
            agent=self.agent, started=1.0,
        )  # fmt: skip
        record.insert_attempts(self.cursor, [started])

    def comes_to_another(self, lot: Lot) -> None:
        """The broker gives the call to another agent, which charges what it finds."""
        found = verdicts.look_up(self.cursor, lot, OTHER)
        verdicts.commit(self.cursor, found.abandoned, OTHER)

    def succeeds(self, lot: Lot, worker: bytes | None = None) -> None:
        """Somebody commits a value."""
        call = lot.call(0)
        outcome = NewOutcome(
            self.owner, call.id, OutcomeStatus.SUCCEEDED, values.encode(2), None, call.digest, self.socket, call.serial,
            worker,
        )  # fmt: skip
        assert record.insert_outcomes(self.cursor, [outcome])

    # what happens to the node

    def falls_silent(self) -> None:
        """Nobody hears of the agent any more."""
        self.rows(
            "UPDATE pyfi.agent SET lease_until = now() - interval '1 second' WHERE id = %s::uuid", self.agent.hex()
        )
        self.leader.turn(look=False)

    def slurm_says(self, state: str, status: JobStatus, **more: Any) -> Scheduler:
        """Slurm's word for the job from now on, which the scheduler hears."""
        self.slurm.becomes("88", state, status, **more)
        self.leader.turn(look=True)
        return self.leader

    def is_requeued(self) -> None:
        """As Slurm does it with the job of a node that failed."""
        self.slurm_says("PENDING", JobStatus.PENDING, reason="BeginTime", restarts=1, nodes=None)

    # looking

    def attempts(self, lot: Lot) -> list[tuple[int, str, str | None]]:
        """Serial, status and cause of each attempt, as people are shown them."""
        shown = attempt_rows(self.cursor, self.owner, lot.call(0).id)
        return [(row["serial"], row["status"], row["cause"]) for row in shown]

    def budget(self, lot: Lot) -> tuple[str, int, int, int] | None:
        """State, serial, used and returns of the call's hold row."""
        held = record.holds(self.cursor, [lot.key(0)]).get(lot.key(0))
        return (held.state, held.serial, held.used, held.returns) if held else None

    def lost(self) -> str | None:
        """What is said to have taken the agent."""
        ((cause,),) = self.rows("SELECT lost FROM pyfi.agent WHERE id = %s::uuid", self.agent.hex())
        return None if cause is None else str(cause)

    def close(self) -> None:
        self.connection.close()
        super().close()


@pytest.fixture(scope="module")
def broker(database_uri: str) -> Iterator[Broker]:
    """The embedded broker on the same database."""
    with closing(connect_broker(None, database_uri=database_uri)) as broker:
        yield broker


@pytest.fixture
def ward(database_uri: str, broker: Broker, tmp_path: Path) -> Iterator[Ward]:
    """A job that runs."""
    with closing(Ward(database_uri, broker, tmp_path)) as made:
        yield made


# what nobody had announced


def test_a_call_that_ran_on_a_node_that_failed_has_an_attempt_that_says_so(ward: Ward) -> None:
    lot = ward.lot()
    ward.runs(lot)

    ward.falls_silent()

    assert (ward.lost(), ward.attempts(lot)) == ("agent_lost", []), "nobody knows yet, and nothing is charged"
    ward.is_requeued()
    assert (ward.lost(), ward.attempts(lot)) == ("node_failed", [(0, "FAILED", "node_failed")])
    (row,) = attempt_rows(ward.cursor, ward.owner, lot.call(0).id)
    ((node,),) = ward.rows("SELECT name FROM pyfi.node WHERE host = %s", ward.host)
    assert (row["node"], row["job"]) == (node, "88")
    assert row["started"] < row["ended"]
    assert "node failed" in row["error"]


def test_it_says_so_beside_the_attempt_that_succeeded_meanwhile(ward: Ward) -> None:
    lot = ward.lot()
    ward.runs(lot)
    ward.falls_silent()
    # the broker has given it to another agent, as it was
    record.insert_attempts(
        ward.cursor, [NewAttempt(ward.owner, lot.call(0).id, 1, AttemptStatus.SUCCEEDED, agent=OTHER, ended=9.0)]
    )
    ward.succeeds(lot)

    ward.is_requeued()

    assert ward.attempts(lot) == [(0, "FAILED", "node_failed"), (1, "SUCCEEDED", None)]
    assert ward.budget(lot) is None


def test_what_a_lost_agent_had_committed_itself_has_not_failed(ward: Ward) -> None:
    before, after = ward.lot(), ward.lot()
    ward.runs(before)
    ward.succeeds(before, ward.worker)
    ward.falls_silent()
    ward.is_requeued()
    assert ward.attempts(before) == []

    # the node was alive after all, and its commit is the first
    ward.rows("UPDATE pyfi.worker SET running = %s::uuid WHERE id = %s::uuid", after.call(0).id.hex(),
              ward.worker.hex())  # fmt: skip
    ward.rows("UPDATE pyfi.agent SET lost = 'agent_lost' WHERE id = %s::uuid", ward.agent.hex())
    ward.leader.turn(look=False)
    assert ward.attempts(after) == [(0, "FAILED", "node_failed")]
    ward.succeeds(after, ward.worker)
    assert ward.attempts(after) == []


def test_a_job_that_goes_on_without_one_of_its_nodes_tells_as_well(ward: Ward) -> None:
    lot = ward.lot()
    ward.runs(lot)
    ward.falls_silent()

    ward.slurm_says("RUNNING", JobStatus.RUNNING, nodes="other")

    assert ward.attempts(lot) == [(0, "FAILED", "node_failed")]


def test_an_agent_that_crashes_and_is_started_again_is_no_failure_of_its_node(ward: Ward) -> None:
    lot, charged = ward.lot(), ward.lot()
    ward.runs(lot)
    ward.announces(charged)
    ward.comes_to_another(charged)
    ward.falls_silent()
    ward.rows(
        "INSERT INTO pyfi.agent (node_id, pid, cores, version, lease_until, job_id)"
        " SELECT node_id, 2, '{0}', '0', now() + interval '1 hour', job_id FROM pyfi.agent WHERE id = %s::uuid",
        ward.agent.hex(),
    )

    ward.is_requeued()

    assert (ward.lost(), ward.attempts(lot)) == ("agent_lost", [])
    assert (ward.attempts(charged), ward.budget(charged)) == ([(1, "FAILED", "agent_lost")], ("DUE", 2, 1, 0))


# what had been announced


def test_a_charge_is_taken_back_once_slurm_says_that_the_node_failed(ward: Ward) -> None:
    lot = ward.lot()
    ward.runs(lot)
    ward.announces(lot)
    ward.comes_to_another(lot)
    assert (ward.attempts(lot), ward.budget(lot)) == ([(1, "FAILED", "agent_lost")], ("DUE", 2, 1, 0))
    ward.falls_silent()

    ward.is_requeued()

    assert (ward.attempts(lot), ward.budget(lot)) == ([(1, "FAILED", "node_failed")], ("DUE", 2, 0, 1))
    for _ in range(2):
        ward.leader.turn(look=True)
    assert ward.budget(lot) == ("DUE", 2, 0, 1), "once"


def test_a_start_that_is_found_after_slurm_has_said_so_costs_nothing(ward: Ward) -> None:
    lot = ward.lot()
    ward.announces(lot)
    ward.falls_silent()
    ward.is_requeued()
    assert ward.attempts(lot) == [(1, "STARTED", None)], "whoever gets its delivery ends it"

    ward.comes_to_another(lot)

    assert (ward.attempts(lot), ward.budget(lot)) == ([(1, "FAILED", "node_failed")], ("DUE", 2, 0, 1))


def test_a_charge_that_was_made_while_slurm_said_so_is_taken_back_by_the_next_pass(ward: Ward) -> None:
    lot = ward.lot()
    ward.announces(lot)
    ward.falls_silent()
    ward.is_requeued()
    # as by an agent that had read the row before
    ward.rows("UPDATE pyfi.agent SET lost = NULL WHERE id = %s::uuid", ward.agent.hex())
    ward.comes_to_another(lot)
    ward.rows("UPDATE pyfi.agent SET lost = 'node_failed' WHERE id = %s::uuid", ward.agent.hex())
    assert ward.budget(lot) == ("DUE", 2, 1, 0)

    ward.leader.turn(look=False)

    assert (ward.attempts(lot), ward.budget(lot)) == ([(1, "FAILED", "node_failed")], ("DUE", 2, 0, 1))


def test_a_start_of_a_call_that_is_decided_meanwhile_is_ended(ward: Ward) -> None:
    decided, planned = ward.lot(), ward.lot()
    for lot in (decided, planned):
        ward.announces(lot)
    ward.succeeds(decided)
    hold = record.NewHold(verdicts.single(planned, 0, 2), "q.d.w", "k", "DUE", 60.0)
    record.put_holds(ward.cursor, [hold])
    ward.falls_silent()

    ward.is_requeued()

    assert ward.attempts(decided) == ward.attempts(planned) == [(1, "FAILED", "node_failed")]
    assert ward.budget(planned) == ("DUE", 2, 0, 0)


def test_a_call_that_died_of_such_a_charge_stays_dead_and_a_person_is_told(ward: Ward) -> None:
    lot = ward.lot(max_attempts=1)
    ward.announces(lot)
    ward.comes_to_another(lot)
    assert ward.budget(lot) == ("DEAD", 2, 1, 0)
    ward.falls_silent()

    with capture_logs() as logs:
        ward.is_requeued()

    assert ward.attempts(lot) == [(1, "FAILED", "node_failed")]
    assert ward.budget(lot) == ("DEAD", 2, 1, 0)
    (told,) = [entry for entry in logs if "dead" in entry["event"]]
    assert told["cure"].startswith("pyfi dead requeue ")


def test_a_budget_that_a_person_has_given_since_is_left_as_it_is(ward: Ward) -> None:
    lot = ward.lot(max_attempts=1)
    ward.announces(lot)
    ward.comes_to_another(lot)
    # as `pyfi dead requeue` does it, and a failure since
    ward.rows("UPDATE pyfi.outcome SET status = 'REOPENED', serial = 2 WHERE id = %s::uuid", lot.call(0).id.hex())
    ward.rows("UPDATE pyfi.hold SET state = 'DUE', used = 1, serial = 3 WHERE id = %s::uuid", lot.call(0).id.hex())
    ward.falls_silent()

    ward.is_requeued()

    assert (ward.attempts(lot), ward.budget(lot)) == ([(1, "FAILED", "node_failed")], ("DUE", 3, 1, 0))


# what Slurm ended before its agent had given it back


@pytest.mark.parametrize(
    ("state", "cause"), [("TIMEOUT", Cause.WALLTIME), ("PREEMPTED", Cause.PREEMPTED), ("CANCELLED", Cause.PREEMPTED)]
)
def test_an_agent_that_was_killed_while_it_drained_costs_its_calls_nothing(
    ward: Ward, state: str, cause: Cause
) -> None:
    first, second = ward.lot(), ward.lot()
    ward.runs(first)
    ward.announces(second)
    keeper.stopping(ward.cursor, ward.agent)
    ward.comes_to_another(second)
    ward.falls_silent()

    ward.slurm_says(state, JobStatus.ENDED)

    assert ward.attempts(first) == [(0, "FAILED", cause.value)]
    assert (ward.attempts(second), ward.budget(second)) == ([(1, "FAILED", cause.value)], ("DUE", 2, 0, 1))


def test_an_agent_that_ended_by_itself_was_not_lost(ward: Ward) -> None:
    lot = ward.lot()
    ward.runs(lot)
    keeper.deregister(ward.cursor, ward.agent)
    ward.is_requeued()
    assert (ward.lost(), ward.attempts(lot)) == (None, [])
