"""What becomes of a finished attempt, on a real Postgres: the first commit wins, and everybody else adopts it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from types import MappingProxyType
from typing import Any

import psycopg2
import pytest

from pyfi_hpc.agent.commit import verdicts
from pyfi_hpc.agent.commit.verdicts import Verdict
from pyfi_hpc.agent.lots import Finished, Lot, Served
from pyfi_hpc.db import record
from pyfi_hpc.db.record import NewAttempt, NewHold
from pyfi_hpc.model.status import AttemptStatus, Cause, HoldState
from pyfi_hpc.wire import messages, values
from pyfi_hpc.wire.frames import Item
from pyfi_hpc.wire.ids import call_digest, new_id
from pyfi_hpc.wire.messages import WIRE_VERSION, Answer, Call, ErrorRecord, Kind, Message, Route

OWNER = "pyfi"
AGENT, OTHER = new_id(), new_id()
SOCKET, PROCESSOR = new_id(), new_id()


class Handed:
    """A delivery that remembers nothing: these tests are about rows."""

    queue, body = "", b""
    content_type: str | None = None
    content_encoding: str | None = None
    headers: Mapping[str, object] = MappingProxyType({})
    redelivered, delivery_count, received = False, 0, 0.0

    def ack(self) -> None:
        """Settled."""

    def held(self) -> bool:
        """It is in hands."""
        return True


@pytest.fixture
def cursor(database_uri: str) -> Iterator[Any]:
    """A cursor; each `with` of its connection is a transaction."""
    with closing(psycopg2.connect(database_uri)) as connection, connection.cursor() as made:
        connection.autocommit = True
        made.execute("DELETE FROM pyfi.hold")
        yield made


def served(max_attempts: int = 2, routes: tuple[Route, ...] = ()) -> Served:
    """A socket with that budget, whose results go along `routes`."""
    return Served(
        SOCKET, "p.work", OWNER, PROCESSOR, "work", "q.d.w.k.g1", "q.d.w", "k", 1, None, max_attempts, 60.0, routes
    )


def route() -> Route:
    """Some way to another task."""
    return Route(new_id(), new_id(), new_id(), 1, "q.d.next", "n")


def call(x: int = 1, serial: int = 1, identity: bytes | None = None) -> Call:
    """A call with that argument."""
    args = values.encode_arguments((x,), {})
    return Call(identity or new_id(), args, call_digest(SOCKET, args), serial)


def lot_of(*calls: Call, socket: Served | None = None, careful: bool = False) -> Lot:
    """A delivery of these calls."""
    message = Message(WIRE_VERSION, new_id(), OWNER, SOCKET, 1, calls)
    return Lot(1, Handed(), message, socket or served(), PROCESSOR, careful)


def worked(lot: Lot, value: object = 2, index: int = 0) -> Finished:
    """The attempt gave that value."""
    return Finished(lot, index, Item(index, values.encode(value), None, 1.0, 2.0), None)


def failed(lot: Lot, cause: Cause = Cause.USER_ERROR, index: int = 0) -> Finished:
    """The attempt failed for that cause."""
    error = ErrorRecord("builtins.ValueError", "no", "", "E_REMOTE", cause)
    return Finished(lot, index, Item(index, None, error, 1.0, 2.0), None, cause)


def commit(cursor: Any, *finished: Finished, agent: bytes = AGENT) -> list[Verdict]:
    """Commit these attempts together."""
    return verdicts.commit(cursor, finished, agent)


def outcome(cursor: Any, lot: Lot, index: int = 0) -> Any:
    """What is decided of a member; None for nothing."""
    return record.outcomes(cursor, [lot.key(index)]).get(lot.key(index))


def held(cursor: Any, lot: Lot, index: int = 0) -> tuple[str, int, int, int] | None:
    """State, serial, used and returns of a member's hold row."""
    found = record.holds(cursor, [lot.key(index)]).get(lot.key(index))
    return (found.state, found.serial, found.used, found.returns) if found else None


def attempts(cursor: Any, lot: Lot, index: int = 0) -> list[tuple[int, str, str | None]]:
    """Serial, status and cause of the attempts on record."""
    cursor.execute(
        "SELECT serial, status, cause FROM pyfi.attempt WHERE id = %s::uuid ORDER BY serial",
        (lot.call(index).id.hex(),),
    )
    return list(cursor.fetchall())


# the quick way of those that simply succeeded


def test_plain_values_are_committed_in_one_statement_with_all_that_the_long_way_writes(cursor: Any) -> None:
    way, worker = route(), new_id()
    quick = lot_of(call(1), call(2), socket=served(routes=(way,)))
    slow = lot_of(call(1), call(2), socket=served(routes=(way,)))
    other = lot_of(call(3))
    done = [Finished(quick, index, worked(quick, index, index).item, worker) for index in (0, 1)]

    found = verdicts.commit_plain(cursor, [*done, worked(other, "alone")])
    expected = commit(cursor, *[Finished(slow, each.index, each.item, worker) for each in done])

    def told(verdict: Verdict) -> tuple[Any, ...]:
        assert verdict.answer is not None
        return verdict.index, verdict.value, verdict.routes, verdict.answer.kind, verdict.answer.value

    def row(lot: Lot, index: int) -> Any:
        columns = "owner, status, value, error, digest, socket_id, serial, worker_id, started, ended, routes, cleared"
        cursor.execute(f"SELECT {columns} FROM pyfi.outcome WHERE id = %s::uuid", (lot.call(index).id.hex(),))
        return [bytes(each) if isinstance(each, memoryview) else each for each in cursor.fetchone()]

    assert list(map(told, found[:2])) == list(map(told, expected))
    assert [row(quick, index) for index in (0, 1)] == [row(slow, index) for index in (0, 1)]
    assert (outcome(cursor, other).value, outcome(cursor, other).routes) == (values.encode("alone"), None)


def test_where_one_of_many_is_decided_nothing_is_written_the_quick_way(cursor: Any) -> None:
    same = call()
    commit(cursor, worked(lot_of(same), "first"), agent=OTHER)
    lot = lot_of(same, call(2))

    with pytest.raises(psycopg2.errors.UniqueViolation):
        verdicts.commit_plain(cursor, [worked(lot, "second"), worked(lot, "new", 1)])

    assert outcome(cursor, lot).value == values.encode("first")
    assert outcome(cursor, lot, 1) is None


def test_only_what_asks_for_nothing_but_its_row_goes_the_quick_way() -> None:
    plain = worked(lot_of(call()))
    leased = lot_of(call())
    leased.leased[0] = 1
    printed = Finished(plain.lot, 0, Item(0, b"\x01", None, 1.0, 2.0, b"out"), None)
    others = [printed, failed(plain.lot), worked(leased), worked(lot_of(call(), careful=True))]

    assert [verdicts.is_plain(each) for each in (plain, *others)] == [True, False, False, False, False]


# the first commit wins


def test_the_first_commit_decides_and_the_second_adopts_its_value_and_its_routes(cursor: Any) -> None:
    same, way = call(), route()
    first, second = lot_of(same, socket=served(routes=(way,))), lot_of(same, socket=served(routes=(route(),)))

    (won,) = commit(cursor, worked(first, "first"))
    (lost,) = commit(cursor, worked(second, "second"), agent=OTHER)

    value = values.encode("first")
    for verdict in (won, lost):
        assert (verdict.value, verdict.routes, verdict.conflict) == (value, (way,), False)
        assert verdict.answer == Answer(same.id, Kind.VALUE, value, None)
    assert outcome(cursor, first).value == value


def test_a_failure_that_comes_after_a_value_adopts_the_value_and_plans_nothing(cursor: Any) -> None:
    same = call()
    commit(cursor, worked(lot_of(same), "kept"))
    lot = lot_of(same)

    (late,) = commit(cursor, failed(lot), agent=OTHER)

    assert late.answer == Answer(same.id, Kind.VALUE, values.encode("kept"), None)
    assert held(cursor, lot) is None


def test_the_same_member_twice_in_one_flush_is_one_attempt(cursor: Any) -> None:
    same = call()
    first, again = lot_of(same), lot_of(same)

    told = commit(cursor, worked(first, 1), worked(again, 2))

    assert [verdict.value for verdict in told] == [values.encode(1)] * 2


def test_another_call_under_a_used_id_is_a_conflict_and_changes_nothing(cursor: Any) -> None:
    first = call(1)
    lot = lot_of(first)
    commit(cursor, worked(lot, "first"))

    (verdict,) = commit(cursor, worked(lot_of(call(2, identity=first.id)), "other"))

    assert (verdict.conflict, verdict.value, verdict.answer) == (True, None, None)
    assert outcome(cursor, lot).value == values.encode("first")


def test_the_same_id_of_two_owners_is_two_calls(cursor: Any) -> None:
    same = call()
    mine = lot_of(same)
    message = Message(WIRE_VERSION, new_id(), "somebody", SOCKET, 1, (same,))
    theirs = Lot(2, Handed(), message, served(), PROCESSOR, False)
    assert mine.key(0) != theirs.key(0)

    assert [each.value for each in commit(cursor, worked(mine, 1), worked(theirs, 2))] == [
        values.encode(1),
        values.encode(2),
    ]


# failures


def test_a_failure_within_the_budget_is_planned_again_in_the_same_transaction(cursor: Any) -> None:
    lot = lot_of(call(0), call(1))

    good, bad = commit(cursor, worked(lot, 5, 0), failed(lot, index=1))

    assert good.answer is not None
    assert (bad.answer, bad.value) == (None, None)
    assert bad.retry_seconds is not None
    assert 60.0 <= bad.retry_seconds <= 75.0
    assert (outcome(cursor, lot, 1), held(cursor, lot, 1)) == (None, ("DUE", 2, 1, 0))
    assert (attempts(cursor, lot, 0), attempts(cursor, lot, 1)) == ([], [(1, "FAILED", "user_error")])


def test_a_spent_budget_is_dead_and_its_payload_is_kept(cursor: Any) -> None:
    one = call()
    commit(cursor, failed(lot_of(one)))
    last = lot_of(call(identity=one.id, serial=2), careful=True)

    (verdict,) = commit(cursor, failed(last, Cause.SIGNAL))

    assert verdict.answer is not None
    assert (verdict.answer.kind, verdict.routes) == (Kind.DEAD, ())
    assert outcome(cursor, last).status == "DEAD"
    assert held(cursor, last) == ("DEAD", 3, 2, 0)
    assert attempts(cursor, last) == [(1, "FAILED", "user_error"), (2, "FAILED", "signal")]


def test_what_no_retry_can_mend_fails_at_once(cursor: Any) -> None:
    lot = lot_of(call(), socket=served(max_attempts=9))

    (verdict,) = commit(cursor, failed(lot, Cause.REFUSED))

    assert verdict.answer is not None
    assert verdict.answer.kind is Kind.ERROR
    assert (outcome(cursor, lot).status, held(cursor, lot)) == ("FAILED", None)


def test_a_drained_attempt_costs_nothing_until_it_happens_too_often(cursor: Any) -> None:
    one = call()
    for serial in range(1, verdicts.MAX_RETURNS):
        commit(cursor, failed(lot := lot_of(call(identity=one.id, serial=serial)), Cause.DRAINED))
    assert held(cursor, lot) == ("DUE", verdicts.MAX_RETURNS, 0, verdicts.MAX_RETURNS - 1)

    (last,) = commit(cursor, failed(lot_of(call(identity=one.id, serial=verdicts.MAX_RETURNS)), Cause.DRAINED))

    assert last.answer is not None
    assert last.answer.kind is Kind.DEAD


def test_two_failures_of_one_attempt_are_charged_once(cursor: Any) -> None:
    same = call()
    commit(cursor, failed(lot_of(same)))
    lot = lot_of(same)

    (late,) = commit(cursor, failed(lot), agent=OTHER)

    assert (late.answer, late.retry_seconds) == (None, None)
    assert (outcome(cursor, lot), held(cursor, lot)) == (None, ("DUE", 2, 1, 0))
    assert attempts(cursor, lot) == [(1, "FAILED", "user_error")]


def test_a_late_failure_does_not_take_a_later_attempt_back(cursor: Any) -> None:
    one, socket = call(), served(max_attempts=9)
    commit(cursor, failed(lot_of(one, socket=socket)))
    commit(cursor, failed(lot_of(call(identity=one.id, serial=2), socket=socket)))
    lot = lot_of(one, socket=socket)

    commit(cursor, failed(lot), agent=OTHER)

    assert held(cursor, lot) == ("DUE", 3, 2, 0)


def test_a_late_value_of_an_earlier_attempt_still_wins_over_a_retry(cursor: Any) -> None:
    same = call()
    commit(cursor, failed(lot_of(same)))
    again = lot_of(call(identity=same.id, serial=2), careful=True)

    commit(cursor, worked(lot_of(same), "late"), agent=OTHER)
    (verdict,) = commit(cursor, worked(again, "retried"))

    assert verdict.value == values.encode("late")
    assert held(cursor, again) is None


# reopened


def reopened(cursor: Any) -> bytes:
    """The id of a dead call that was given a new budget: its next attempt is number 3."""
    one = call()
    for serial in (1, 2):
        commit(cursor, failed(lot := lot_of(call(identity=one.id, serial=serial))))
    assert outcome(cursor, lot).status == "DEAD"
    cursor.execute("UPDATE pyfi.outcome SET status = 'REOPENED', serial = 3 WHERE id = %s::uuid", (one.id.hex(),))
    cursor.execute("UPDATE pyfi.hold SET state = 'DUE', used = 0 WHERE id = %s::uuid", (one.id.hex(),))
    return one.id


@pytest.mark.parametrize(("serial", "status"), [(1, "REOPENED"), (2, "REOPENED"), (3, "SUCCEEDED")])
def test_a_reopened_call_takes_only_the_attempt_that_was_named(cursor: Any, serial: int, status: str) -> None:
    lot = lot_of(call(identity=reopened(cursor), serial=serial), careful=True)

    (verdict,) = commit(cursor, worked(lot, "mended"))

    assert outcome(cursor, lot).status == status
    assert (verdict.answer is not None) is (status == "SUCCEEDED")


def test_a_reopened_call_that_fails_is_planned_again_with_its_new_budget(cursor: Any) -> None:
    lot = lot_of(call(identity=reopened(cursor), serial=3), careful=True)

    (verdict,) = commit(cursor, failed(lot))

    assert (verdict.answer, held(cursor, lot)) == (None, ("DUE", 4, 1, 0))


# looking before running


def test_a_look_finds_what_is_decided_and_what_may_run(cursor: Any) -> None:
    done, fresh = call(1), call(2)
    commit(cursor, worked(lot_of(done, socket=served(routes=(way := route(),))), "value"))
    lot = lot_of(done, fresh, careful=True)

    found = verdicts.look_up(cursor, lot, AGENT)

    assert (found.runnable, found.abandoned) == ([1], [])
    (verdict,) = found.verdicts
    assert (verdict.index, verdict.value, verdict.routes) == (0, values.encode("value"), (way,))


def test_a_look_settles_what_a_later_attempt_or_a_live_lease_has(cursor: Any) -> None:
    stale, leased, dead, lapsed = call(1), call(2), call(3), call(4)
    commit(cursor, failed(lot_of(stale)))
    taken = [NewHold(lot_of(each).message, "q.d.w", "k", HoldState.LEASED, 30.0, holder=OTHER) for each in (leased,)]
    taken += [NewHold(lot_of(lapsed).message, "q.d.w", "k", HoldState.LEASED, -1.0, holder=OTHER)]
    assert len(record.lease(cursor, taken)) == 2
    record.put_holds(cursor, [NewHold(lot_of(dead).message, "q.d.w", "k", HoldState.DEAD)])

    found = verdicts.look_up(cursor, lot_of(stale, leased, dead, lapsed, careful=True), AGENT)

    assert found.runnable == [3]
    assert [(each.index, each.answer) for each in found.verdicts] == [(0, None), (1, None), (2, None)]


def test_a_look_charges_what_another_agent_started_and_never_ended(cursor: Any) -> None:
    theirs, mine = call(1), call(2)
    lot = lot_of(theirs, mine, careful=True)
    for each, agent in ((theirs, OTHER), (mine, AGENT)):
        record.insert_attempts(cursor, [NewAttempt(OWNER, each.id, 1, AttemptStatus.STARTED, agent=agent, started=1.0)])

    found = verdicts.look_up(cursor, lot, AGENT)

    assert found.runnable == [1]
    assert [(each.index, each.cause) for each in found.abandoned] == [(0, Cause.AGENT_LOST)]
    commit(cursor, *found.abandoned)
    assert attempts(cursor, lot, 0) == [(1, "FAILED", "agent_lost")]
    assert held(cursor, lot, 0) == ("DUE", 2, 1, 0)


def test_an_end_replaces_the_announcement_and_nothing_else(cursor: Any) -> None:
    lot = lot_of(call(), careful=True)
    started = NewAttempt(OWNER, lot.call(0).id, 1, AttemptStatus.STARTED, agent=AGENT, started=1.0)
    record.insert_attempts(cursor, [started])
    commit(cursor, failed(lot, Cause.TIMEOUT))
    commit(cursor, failed(lot, Cause.SIGNAL), agent=OTHER)
    record.insert_attempts(cursor, [started])
    assert attempts(cursor, lot) == [(1, "FAILED", "timeout")]


# leases


def lease(cursor: Any, lot: Lot, seconds: float = 30.0, agent: bytes = AGENT) -> int | None:
    """Lease the only member of a lot; its epoch."""
    hold = NewHold(lot.message, "q.d.w", "k", HoldState.LEASED, seconds, holder=agent)
    return record.lease(cursor, [hold]).get(lot.key(0))


def test_a_leased_commit_counts_only_while_the_lease_is_its_own(cursor: Any) -> None:
    lot = lot_of(call())
    epoch = lease(cursor, lot, seconds=-1.0)
    assert epoch is not None
    lot.leased[0] = epoch
    (due,) = record.take_due(cursor, 10)
    assert due.message.calls[0].serial == 2

    (fenced,) = commit(cursor, worked(lot, "late"))

    assert (fenced.answer, outcome(cursor, lot), held(cursor, lot)) == (None, None, ("DUE", 2, 0, 0))
    again = lot_of(due.message.calls[0], careful=True)
    (verdict,) = commit(cursor, worked(again, "second"))
    assert (verdict.value, verdict.drop_hold, held(cursor, again)) == (values.encode("second"), True, None)


def test_a_lease_of_ones_own_commits_and_is_kept_until_the_forwards_are_confirmed(cursor: Any) -> None:
    lot = lot_of(call(), socket=served(routes=(route(),)))
    lot.leased[0] = lease(cursor, lot) or 0

    (verdict,) = commit(cursor, worked(lot))

    assert verdict.drop_hold
    assert outcome(cursor, lot) is not None
    # the lease row is the outbox now: whoever forwards drops it afterwards
    assert held(cursor, lot) == ("LEASED", 1, 0, 0)


def test_nobody_leases_what_is_decided_or_planned(cursor: Any) -> None:
    decided, planned = lot_of(call(1)), lot_of(call(2))
    commit(cursor, worked(decided))
    commit(cursor, failed(planned))
    assert (lease(cursor, decided), lease(cursor, planned)) == (None, None)


def test_a_split_attempt_leases_the_row_of_the_one_before_it(cursor: Any) -> None:
    (lot,) = due_now(cursor, 1)
    (taken,) = record.take_due(cursor, 10)
    record.mark_out(cursor, [taken.message])
    # it came back too often: published alone, as the next attempt, which no row knows
    later = lot_of(call(serial=3, identity=lot.call(0).id), careful=True)

    epoch = lease(cursor, later)

    assert epoch is not None
    assert held(cursor, later) == ("LEASED", 3, 1, 0)
    later.leased[0] = epoch
    (verdict,) = commit(cursor, worked(later))
    assert (verdict.value, held(cursor, later)) == (values.encode(2), None)


def test_an_attempt_is_leased_before_its_publisher_marked_it_out(cursor: Any) -> None:
    (lot,) = due_now(cursor, 1)
    (taken,) = record.take_due(cursor, 10)

    assert lease(cursor, lot)

    record.mark_out(cursor, [taken.message])
    assert held(cursor, lot) == ("LEASED", 2, 1, 0)


def test_a_lease_whose_commit_was_uncertain_is_taken_again_by_its_holder_alone(cursor: Any) -> None:
    lot = lot_of(call())
    first = lease(cursor, lot)
    assert lease(cursor, lot, agent=OTHER) is None
    again = lease(cursor, lot)
    assert first is not None
    assert again is not None
    assert again > first


def test_a_lease_given_back_is_due_and_no_other_is(cursor: Any) -> None:
    mine, theirs = lot_of(call(1)), lot_of(call(2))
    epoch, other = lease(cursor, mine), lease(cursor, theirs, agent=OTHER)
    assert epoch is not None
    assert other is not None

    record.give_leases_back(cursor, {mine.key(0): epoch, theirs.key(0): other + 1})

    assert (held(cursor, mine), held(cursor, theirs)) == (("DUE", 2, 0, 0), ("LEASED", 1, 0, 0))
    (due,) = record.take_due(cursor, 10)
    assert due.message.calls[0] == call(1, serial=2, identity=mine.call(0).id)


def test_a_failure_takes_nobodys_lease_away(cursor: Any) -> None:
    running = lot_of(call())
    assert lease(cursor, running, agent=OTHER)

    (verdict,) = commit(cursor, failed(lot_of(running.call(0))))

    assert verdict.retry_seconds is None
    assert held(cursor, running) == ("LEASED", 1, 0, 0)


def test_what_is_parked_before_its_publisher_marked_it_out_is_not_marked_out(cursor: Any) -> None:
    (lot,) = due_now(cursor, 1)
    (taken,) = record.take_due(cursor, 10)
    parked = record.with_serial(lot.message, 3)

    record.park_holds(cursor, [NewHold(parked, "q.d.w", "k", HoldState.DUE)])
    record.mark_out(cursor, [taken.message])

    assert held(cursor, lot) == ("DUE", 3, 1, 0)


def test_leases_are_renewed_for_their_holder_alone(cursor: Any) -> None:
    mine, theirs = lot_of(call(1)), lot_of(call(2))
    assert lease(cursor, mine, -1.0)
    assert lease(cursor, theirs, -1.0, OTHER)
    record.renew_leases(cursor, AGENT, 30.0)
    assert [due.message.calls[0].id for due in record.take_due(cursor, 10)] == [theirs.call(0).id]


# what is due


def due_now(cursor: Any, count: int) -> list[Lot]:
    """Lots of one call each whose hold rows are due."""
    lots = [lot_of(call(number, serial=2)) for number in range(count)]
    record.put_holds(cursor, [NewHold(lot.message, "q.d.w", "k", HoldState.DUE, -1.0, used=1) for lot in lots])
    return lots


def test_what_is_due_is_taken_once_and_is_out_when_it_is_published(cursor: Any) -> None:
    (lot,) = due_now(cursor, 1)
    (taken,) = record.take_due(cursor, 10)
    assert (taken.message, taken.exchange, taken.key) == (lot.message, "q.d.w", "k")
    assert record.take_due(cursor, 10) == []
    # nobody confirmed it: it stays due, later
    assert held(cursor, lot) == ("DUE", 2, 1, 0)

    record.mark_out(cursor, [taken.message])

    assert held(cursor, lot) == ("OUT", 2, 1, 0)
    assert record.next_due(cursor) is None


def test_a_publish_of_an_earlier_attempt_marks_nothing_out(cursor: Any) -> None:
    (lot,) = due_now(cursor, 1)
    record.mark_out(cursor, [record.with_serial(lot.message, 1)])
    assert held(cursor, lot) == ("DUE", 2, 1, 0)


def test_two_agents_take_different_rows_and_neither_waits(cursor: Any, database_uri: str) -> None:
    lots = due_now(cursor, 6)
    with closing(psycopg2.connect(database_uri)) as one, closing(psycopg2.connect(database_uri)) as two:
        first, second = one.cursor(), two.cursor()
        second.execute("SET lock_timeout = '1s'")
        taken = [record.take_due(first, 4), record.take_due(second, 4)]
        one.commit()
        two.commit()
    assert [len(each) for each in taken] == [4, 2]
    assert {due.message.calls[0].id for each in taken for due in each} == {lot.call(0).id for lot in lots}


def test_a_message_of_many_calls_is_published_again_call_by_call(cursor: Any) -> None:
    lot = lot_of(call(1), call(2))
    alone = verdicts.single(lot, 1, 7)
    assert [(each.id, each.serial) for each in alone.calls] == [(lot.call(1).id, 7)]
    assert messages.decode_message(messages.encode(alone)) == alone


def test_outcomes_are_found_by_their_keys_without_reading_all_of_a_young_table(cursor: Any) -> None:
    # so many and so fast that no statistics of the table are made meanwhile
    cursor.execute(
        "INSERT INTO pyfi.outcome (owner, id, status, serial)"
        " SELECT %s, gen_random_uuid(), 'SUCCEEDED', 1 FROM generate_series(1, 20000) RETURNING uuid_send(id)",
        (OWNER,),
    )
    ids = [bytes(row[0]) for row in cursor.fetchall()][:1000]
    keys = [OWNER] * len(ids), [identity.hex() for identity in ids]

    cursor.execute(f"EXPLAIN SELECT o.id FROM {record.by_key('outcome')} AS o WHERE o.status = 'SUCCEEDED'", keys)
    plan = "\n".join(row[0] for row in cursor.fetchall())

    assert "pk_outcome" in plan and "Seq Scan" not in plan
    assert record.outcomes(cursor, {(OWNER, identity) for identity in ids}).keys() == {(OWNER, each) for each in ids}
