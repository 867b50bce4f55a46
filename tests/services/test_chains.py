"""What becomes of a segment, on a real Postgres: what follows from a head counts only where the head itself does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import psycopg2
import pytest

from pyfi_hpc.agent.commit import chains, verdicts
from pyfi_hpc.agent.commit.chains import Committed
from pyfi_hpc.agent.commit.verdicts import Verdict
from pyfi_hpc.agent.lots import Finished, Lot, Served, child_call, lot_of
from pyfi_hpc.agent.pipes.segments import Hop, Pending, Segment
from pyfi_hpc.db import record
from pyfi_hpc.db.record import Key, NewHold, NewOutcome
from pyfi_hpc.model.status import Cause, HoldState, OutcomeStatus
from pyfi_hpc.wire import messages, values
from pyfi_hpc.wire.frames import Item
from pyfi_hpc.wire.ids import child_id, new_id
from pyfi_hpc.wire.messages import WIRE_VERSION, Call, ErrorRecord, Message, Route

OWNER = "pyfi"
AGENT, WORKER = new_id(), new_id()


class Handed:
    """A delivery that counts its acks."""

    queue, body = "", b""
    content_type: str | None = None
    content_encoding: str | None = None
    headers: Mapping[str, object] = MappingProxyType({})
    redelivered, delivery_count, received = False, 0, 0.0

    def __init__(self) -> None:
        self.acks = 0

    def ack(self) -> None:
        """Settled."""
        self.acks += 1

    def held(self) -> bool:
        """It is in hands."""
        return True


def route(name: str, to: bytes) -> Route:
    return Route(new_id(), name.encode(), to, 1, f"q.d.{name}", name)


def served(name: str, identity: bytes, *routes: Route) -> Served:
    return Served(identity, name, OWNER, new_id(), name, f"q.{name}", f"q.d.{name}", name, 1, None, 2, 60.0, routes)


#: a flows to b and to x, b to c
B_ID, C_ID, X_ID = new_id(), new_id(), new_id()
TO_B, TO_X, TO_C = route("b", B_ID), route("x", X_ID), route("c", C_ID)
A, B, C, X = served("a", new_id(), TO_B, TO_X), served("b", B_ID, TO_C), served("c", C_ID), served("x", X_ID)


@pytest.fixture
def cursor(database_uri: str) -> Iterator[Any]:
    """A cursor; each `with` of its connection is a transaction."""
    with closing(psycopg2.connect(database_uri)) as connection, connection.cursor() as made:
        connection.autocommit = True
        made.execute("DELETE FROM pyfi.hold")
        yield made


def head(value: str = "a", *, careful: bool = False) -> Finished:
    """A call of `a` that gave `value`."""
    args = values.encode_arguments((new_id(),), {})
    message = Message(WIRE_VERSION, new_id(), OWNER, A.id, 1, (Call(new_id(), args, b"digest"),))
    lot = Lot(1, Handed(), message, A, A.processor, careful)
    return Finished(lot, 0, item(value), WORKER)


def item(value: str, *, started: float = 10.0) -> Item:
    return Item(0, values.encode(value), None, started, started + 1)


def failed(cause: Cause = Cause.USER_ERROR) -> Item:
    return Item(0, None, ErrorRecord("builtins.ValueError", "no", cause=cause), 10.0, 11.0)


def segment(of: Finished, b: Item | None = None, c: Item | None = None, x: Item | None = None) -> Segment:
    """The head `of`, with what came of these by pipes."""
    identity = of.lot.call(0).id
    hops = []
    if b is not None:
        hops.append(Hop(0, TO_B, B, child_id(identity, TO_B.edge), b, WORKER))
    if x is not None:
        hops.append(Hop(0, TO_X, X, child_id(identity, TO_X.edge), x, WORKER))
    if c is not None:
        hops.append(Hop(1, TO_C, C, child_id(child_id(identity, TO_B.edge), TO_C.edge), c, WORKER))
    return Segment(of, tuple(hops))


def key(of: Finished, *edges: str) -> Key:
    """The outcome of the call that follows from the head along these edges."""
    identity = of.lot.call(0).id
    for edge in edges:
        identity = child_id(identity, edge.encode())
    return OWNER, identity


def commit_plain(cursor: Any, *segments: Segment) -> Committed:
    """As one statement."""
    assert all(map(chains.is_plain, segments))
    verdicts.commit_plain(cursor, (), [row for each in segments for row in chains.plain_values(each)])
    return chains.plainly_committed(segments)


def commit(cursor: Any, *segments: Segment) -> Committed:
    with cursor.connection:
        found = chains.commit(cursor, segments, AGENT, 30.0)
    found.take_leases()
    return found


def stored(cursor: Any, of: Finished, *edges: str) -> object:
    """The value on record, or the status where there is none; None where there is no row."""
    wanted = key(of, *edges)
    found = record.outcomes(cursor, [wanted]).get(wanted)
    if found is None:
        return None
    return values.decode(found.value) if found.value is not None else found.status.value


def held(cursor: Any, of: Finished, *edges: str) -> tuple[str, int, int] | None:
    wanted = key(of, *edges)
    found = record.holds(cursor, [wanted]).get(wanted)
    return None if found is None else (found.state, found.serial, found.used)


def ways(found: Committed) -> list[list[str]]:
    """Where each call's value still has to go, heads first."""
    return [[each.key for each in verdict.routes] for verdict in found.verdicts]


def acks(of: Finished) -> int:
    delivery = of.lot.delivery
    assert isinstance(delivery, Handed)
    return delivery.acks


def settle(found: Committed) -> None:
    for verdict in found.verdicts:
        verdict.settle()


def test_a_chain_is_written_whole_and_only_what_no_pipe_carried_is_left_to_forward(cursor: Any) -> None:
    of = head()

    found = commit(cursor, segment(of, item("b"), item("c")))

    assert [stored(cursor, of, *edges) for edges in ((), ("b",), ("b", "c"))] == ["a", "b", "c"]
    assert ways(found) == [["x"], [], []]
    assert found.carried == {TO_B.plug: 1, TO_C.plug: 1}
    decided = record.outcomes(cursor, [key(of)])[key(of)]
    assert decided.routes is not None and decided.routes.count(b"q.d.") == 2


def test_children_are_what_the_brokers_way_would_have_made_of_them(cursor: Any) -> None:
    of = head()
    commit(cursor, segment(of, item("b")))

    by_broker = child_call(child_id(of.lot.call(0).id, TO_B.edge), of.item.value or b"", TO_B)

    assert record.outcomes(cursor, [key(of, "b")])[key(of, "b")].digest == by_broker.digest


def test_a_delivery_is_acked_when_every_call_of_its_segment_is_settled(cursor: Any) -> None:
    of = head()
    found = commit(cursor, segment(of, item("b"), item("c")))

    for verdict in found.verdicts[:-1]:
        verdict.settle()
    assert acks(of) == 0
    found.verdicts[-1].settle()

    assert acks(of) == 1


def test_many_chains_are_written_at_once(cursor: Any) -> None:
    heads = [head(f"a{number}") for number in range(20)]

    found = commit(cursor, *(segment(of, item(f"b{n}"), item(f"c{n}"), item(f"x{n}")) for n, of in enumerate(heads)))

    assert [stored(cursor, of, "b", "c") for of in heads] == [f"c{number}" for number in range(20)]
    assert ways(found) == [[]] * 80
    settle(found)
    assert [acks(of) for of in heads] == [1] * 20


def test_where_the_head_has_lost_nothing_that_followed_from_it_counts(cursor: Any) -> None:
    of = head("mine")
    other = Finished(of.lot, 0, item("theirs", started=9.0), new_id())
    with cursor.connection:
        verdicts.commit(cursor, [other], AGENT)

    found = commit(cursor, segment(of, item("b of mine"), item("c of mine")))

    assert stored(cursor, of) == "theirs"
    assert (stored(cursor, of, "b"), stored(cursor, of, "b", "c")) == (None, None)
    (verdict,) = found.verdicts
    assert verdict.value == values.encode("theirs")
    assert [each.key for each in verdict.routes] == ["b", "x"]
    assert found.carried == {}
    ids = [key(of, *edges)[1].hex() for edges in ((), ("b",), ("b", "c"))]
    cursor.execute(
        "SELECT count(*) FROM pyfi.event WHERE what = 'second result dropped' AND object_id = ANY(%s::uuid[])", (ids,)
    )
    assert cursor.fetchone()[0] == 3


def test_where_a_later_call_has_lost_the_winners_value_goes_on_and_what_follows_is_left_out(cursor: Any) -> None:
    of = head()
    winner = NewOutcome(
        OWNER, key(of, "b")[1], OutcomeStatus.SUCCEEDED, values.encode("other b"), None, None, B.id, 1,
        routes=messages.encode((TO_C,)),
    )  # fmt: skip
    record.insert_outcomes(cursor, [winner])

    found = commit(cursor, segment(of, item("b"), item("c"), item("x")))

    assert (stored(cursor, of), stored(cursor, of, "b"), stored(cursor, of, "x")) == ("a", "other b", "x")
    assert stored(cursor, of, "b", "c") is None
    assert ways(found) == [[], ["c"], []]
    assert found.verdicts[1].value == values.encode("other b")
    settle(found)
    assert acks(of) == 1


def test_a_child_that_was_cancelled_ends_its_branch(cursor: Any) -> None:
    of = head()
    record.insert_outcomes(
        cursor, [NewOutcome(OWNER, key(of, "b")[1], OutcomeStatus.CANCELLED, None, None, None, B.id, 1)]
    )

    found = commit(cursor, segment(of, item("b"), item("c")))

    assert (stored(cursor, of, "b"), stored(cursor, of, "b", "c")) == ("CANCELLED", None)
    assert ways(found) == [["x"], []]


def test_a_failed_call_waits_in_a_hold_row_for_its_next_attempt(cursor: Any) -> None:
    of = head()

    found = commit(cursor, segment(of, failed()))

    assert (stored(cursor, of), stored(cursor, of, "b")) == ("a", None)
    assert held(cursor, of, "b") == ("DUE", 2, 1)
    assert ways(found) == [["x"], []]
    settle(found)
    assert acks(of) == 1
    cursor.execute("SELECT cause, socket_id = %s::uuid FROM pyfi.attempt WHERE id = %s::uuid",
                   (B.id.hex(), key(of, "b")[1].hex()))  # fmt: skip
    assert cursor.fetchall() == [("user_error", True)]
    cursor.execute("UPDATE pyfi.hold SET due = now()")
    (due,) = record.take_due(cursor, 10)
    assert (due.exchange, due.key) == (B.exchange, B.key)
    (call,) = due.message.calls
    assert (call.args, call.serial) == (child_call(b"", of.item.value or b"", TO_B).args, 2)


def test_a_call_whose_own_socket_has_no_budget_left_is_dead(cursor: Any) -> None:
    of = head()
    once = replace(B, max_attempts=1)
    hop = Hop(0, TO_B, once, key(of, "b")[1], failed(), WORKER)

    commit(cursor, Segment(of, (hop,)))

    assert stored(cursor, of, "b") == "DEAD"
    assert held(cursor, of, "b") == ("DEAD", 2, 1)


def test_a_failed_head_has_nothing_that_follows(cursor: Any) -> None:
    of = head()
    failing = Finished(of.lot, 0, failed(), WORKER)

    found = commit(cursor, Segment(failing, ()))

    assert stored(cursor, of) is None
    assert held(cursor, of) == ("DUE", 2, 1)
    settle(found)
    assert acks(of) == 1


def pending(of: Finished) -> tuple[Segment, Lot]:
    """A segment that was closed while a worker still had the call of b."""
    lot = lot_of(B, (child_call(key(of, "b")[1], of.item.value or b"", TO_B),))
    return Segment(of, (), (Pending(0, TO_B, lot),)), lot


def test_what_a_worker_still_has_is_leased_and_commits_under_its_lease(cursor: Any) -> None:
    of = head()
    closed, lot = pending(of)

    found = commit(cursor, closed)

    assert held(cursor, of, "b") == ("LEASED", 1, 0)
    assert ways(found) == [["x"]]
    assert 0 in lot.leased
    with cursor.connection:
        (late,) = verdicts.commit(cursor, [Finished(lot, 0, item("b"), WORKER)], AGENT)
    assert (stored(cursor, of, "b"), [each.key for each in late.routes], late.drop_hold) == ("b", ["c"], True)


def test_a_lease_that_has_lapsed_takes_nothing(cursor: Any) -> None:
    of = head()
    closed, lot = pending(of)
    commit(cursor, closed)
    cursor.execute("UPDATE pyfi.hold SET due = now() - interval '1 second'")
    record.take_due(cursor, 10)

    with cursor.connection:
        verdicts.commit(cursor, [Finished(lot, 0, item("b"), WORKER)], AGENT)

    assert stored(cursor, of, "b") is None


def test_nothing_is_leased_for_a_head_that_has_lost(cursor: Any) -> None:
    of = head()
    with cursor.connection:
        verdicts.commit(cursor, [Finished(of.lot, 0, item("theirs", started=9.0), new_id())], AGENT)
    closed, lot = pending(of)

    found = commit(cursor, closed)

    assert (held(cursor, of, "b"), lot.leased) == (None, {})
    assert ways(found) == [["b", "x"]]


def test_what_cannot_be_leased_is_left_to_the_broker(cursor: Any) -> None:
    of = head()
    closed, lot = pending(of)
    theirs = NewHold(lot.message, B.exchange, B.key, HoldState.LEASED, 30.0, holder=new_id())
    record.lease(cursor, [theirs])

    found = commit(cursor, closed)

    assert lot.leased == {}
    assert ways(found) == [["b", "x"]]


def test_a_transaction_whose_answer_was_lost_says_the_same_when_it_is_repeated(cursor: Any) -> None:
    of = head()
    closed = segment(of, item("b"), item("c"))
    first = commit(cursor, closed)

    again = commit(cursor, closed)

    assert ways(again) == ways(first) == [["x"], [], []]
    assert [verdict.value for verdict in again.verdicts] == [verdict.value for verdict in first.verdicts]


def test_a_repeated_transaction_keeps_the_hold_rows_of_the_first(cursor: Any) -> None:
    of = head()
    closed = segment(of, failed(), x=item("x"))
    commit(cursor, closed)

    again = commit(cursor, closed)

    assert held(cursor, of, "b") == ("DUE", 2, 1)
    assert ways(again) == [[], [], []]


def test_a_head_under_a_lease_lets_its_row_go_once_nothing_is_left_to_forward(cursor: Any) -> None:
    of = head()
    row = NewHold(of.lot.message, A.exchange, A.key, HoldState.LEASED, 30.0, holder=AGENT)
    of.lot.leased[0] = record.lease(cursor, [row])[key(of)]

    found = commit(cursor, segment(of, item("b"), x=item("x")))

    assert ways(found) == [[], ["c"], []]
    assert held(cursor, of) is None


def test_a_head_under_a_lapsed_lease_counts_for_nothing(cursor: Any) -> None:
    of = head()
    of.lot.leased[0] = 7

    found = commit(cursor, segment(of, item("b")))

    assert (stored(cursor, of), stored(cursor, of, "b")) == (None, None)
    assert isinstance(found.verdicts[0], Verdict) and found.verdicts[0].value is None


def test_a_plain_segment_goes_in_by_one_statement_and_means_the_same(cursor: Any) -> None:
    whole, part, alone = head("a1"), head("a2"), head("a3")

    found = commit_plain(
        cursor,
        segment(whole, item("b1"), item("c1"), item("x1")),
        segment(part, item("b2")),
        segment(alone, item("b3"), item("c3")),
    )

    assert [stored(cursor, whole, *edges) for edges in ((), ("b",), ("b", "c"), ("x",))] == ["a1", "b1", "c1", "x1"]
    assert ways(found) == [[], ["x"], ["c"], ["x"]]
    assert found.carried == {TO_B.plug: 3, TO_C.plug: 2, TO_X.plug: 1}
    assert [acks(of) for of in (whole, part, alone)] == [0, 0, 0]
    found.verdicts[0].settle()
    found.verdicts[1].settle()
    assert [acks(of) for of in (whole, part, alone)] == [1, 0, 0]
    settle(Committed(found.verdicts[2:], [], {}))
    assert [acks(of) for of in (whole, part, alone)] == [1, 1, 1]
    child = found.verdicts[2]
    assert (child.value, child.lot.call(0).id) == (values.encode("b2"), key(part, "b")[1])
    again = commit(cursor, segment(part, item("b2")))
    assert ways(again) == [["x"], ["c"]]


@pytest.mark.parametrize(
    "closed",
    [
        lambda of: segment(of, failed()),
        lambda of: segment(of, replace_item(out=b"said")),
        lambda of: pending(of)[0],
        lambda of: segment(Finished(of.lot, 0, failed(), WORKER)),
    ],
    ids=["a call failed", "a call printed", "a call is out", "the head failed"],
)
def test_what_is_no_plain_segment_is_taken_for_none(closed: Callable[[Finished], Segment]) -> None:
    assert not chains.is_plain(closed(head()))


def replace_item(out: bytes) -> Item:
    return Item(0, values.encode("b"), None, 10.0, 11.0, out)
