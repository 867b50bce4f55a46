"""What of a message that comes back is still to be sent on, on a real Postgres: what nobody has, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from pyfi_hpc.agent.commit import followers, verdicts
from pyfi_hpc.agent.commit.forwarding import _parcels
from pyfi_hpc.agent.commit.verdicts import Verdict
from pyfi_hpc.agent.lots import Finished, Lot, child_call
from pyfi_hpc.db import record
from pyfi_hpc.db.record import NewHold, NewOutcome
from pyfi_hpc.model.status import HoldState, OutcomeStatus
from pyfi_hpc.wire import messages, values
from pyfi_hpc.wire.ids import child_id, new_id
from pyfi_hpc.wire.messages import WIRE_VERSION, Call, Message, Route
from tests.services.test_chains import (
    AGENT,
    OWNER,
    TO_B,
    TO_C,
    TO_X,
    A,
    B,
    C,
    Handed,
    commit,
    cursor,
    failed,
    head,
    item,
    key,
    pending,
    route,
    segment,
)

__all__ = ["cursor"]

#: Another agent, to which the message comes back.
OTHER = new_id()


def back(cursor: Any, of: Finished) -> tuple[Lot, list[Verdict]]:
    """The head's message comes back to another agent: that is what it has to do."""
    lot = Lot(1, Handed(), of.lot.message, A, A.processor, careful=True)
    found = verdicts.look_up(cursor, lot, OTHER)
    assert found.runnable == [] and found.abandoned == []
    return lot, followers.left_to_forward(cursor, found.verdicts)


def ways(left: list[Verdict]) -> list[list[str]]:
    """Where each call's value is to go."""
    return [[each.key for each in verdict.routes] for verdict in left]


def sent(left: list[Verdict]) -> list[tuple[bytes, bytes]]:
    """(id, arguments) of each call that the broker gets."""
    return sorted((call.id, call.args) for parcel in _parcels(left) for call in parcel.message.calls)


def settled(lot: Lot) -> bool:
    assert isinstance(lot.delivery, Handed)
    return lot.delivery.acks == 1


def decide(cursor: Any, of: Finished, *edges: str, status: OutcomeStatus = OutcomeStatus.CANCELLED) -> None:
    """Somebody decides what follows from the head along these edges."""
    record.insert_outcomes(cursor, [NewOutcome(OWNER, key(of, *edges)[1], status, None, None, None, B.id, 1)])


def held_as(cursor: Any, of: Finished, state: str) -> None:
    """The child at `b` has a hold row."""
    call = child_call(key(of, "b")[1], of.item.value or b"", TO_B)
    message = Message(WIRE_VERSION, new_id(), OWNER, B.id, 1, (call,))
    record.put_holds(cursor, [NewHold(message, B.exchange, B.key, state)])


def test_where_all_that_followed_is_decided_nothing_is_sent_again(cursor: Any) -> None:
    of = head()
    commit(cursor, segment(of, item("b"), item("c"), item("x")))

    lot, left = back(cursor, of)

    assert ways(left) == [[]]
    left[0].settle()
    assert settled(lot)


def test_where_nothing_that_followed_is_decided_all_of_it_is_sent(cursor: Any) -> None:
    of = head()
    commit(cursor, segment(of))

    lot, left = back(cursor, of)

    assert ways(left) == [["b", "x"]]
    left[0].settle()
    assert settled(lot)


def test_what_follows_from_a_decided_child_is_sent_with_that_child_s_value(cursor: Any) -> None:
    of = head()
    commit(cursor, segment(of, item("b")))

    left = back(cursor, of)[1]

    assert ways(left) == [["x"], ["c"]]
    (to_x,), (to_c,) = (parcel.message.calls for parcel in _parcels(left))
    assert to_x == child_call(key(of, "x")[1], values.encode("a"), TO_X)
    assert to_c == child_call(key(of, "b", "c")[1], values.encode("b"), TO_C)


def test_it_is_settled_once_all_that_followed_is_sent(cursor: Any) -> None:
    of = head()
    commit(cursor, segment(of, item("b")))
    lot, left = back(cursor, of)

    left[0].settle()
    assert not settled(lot)
    left[1].settle()

    assert settled(lot)


@pytest.mark.parametrize("state", [HoldState.LEASED, HoldState.DUE, HoldState.OUT])
def test_a_child_with_a_hold_row_is_in_hands(cursor: Any, state: str) -> None:
    of = head()
    commit(cursor, segment(of))
    held_as(cursor, of, state)

    assert ways(back(cursor, of)[1]) == [["x"]]


def test_a_child_that_a_worker_still_had_or_that_failed_is_in_hands(cursor: Any) -> None:
    of, other = head(), head()
    commit(cursor, pending(of)[0])
    commit(cursor, segment(other, failed()))

    assert ways(back(cursor, of)[1]) == [["x"]]
    assert ways(back(cursor, other)[1]) == [["x"]]


def test_what_follows_from_a_child_under_a_lease_is_left_to_the_lease(cursor: Any) -> None:
    of = head()
    closed, late = pending(of)
    commit(cursor, closed)
    with cursor.connection:
        verdicts.commit(cursor, [Finished(late, 0, item("b"), AGENT)], AGENT)

    # its agent dies before it sends that on: the row is there, and lapses
    assert ways(back(cursor, of)[1]) == [["x"]]


@pytest.mark.parametrize("status", [OutcomeStatus.CANCELLED, OutcomeStatus.FAILED, OutcomeStatus.DEAD])
def test_from_a_child_that_ended_without_a_value_nothing_follows(cursor: Any, status: OutcomeStatus) -> None:
    of = head()
    commit(cursor, segment(of))
    decide(cursor, of, "b", status=status)

    assert ways(back(cursor, of)[1]) == [["x"]]


def test_a_child_that_is_to_be_decided_anew_is_in_hands_only_with_its_hold_row(cursor: Any) -> None:
    of = head()
    commit(cursor, segment(of))
    decide(cursor, of, "b", status=OutcomeStatus.REOPENED)
    assert ways(back(cursor, of)[1]) == [["b", "x"]]

    held_as(cursor, of, HoldState.DUE)
    assert ways(back(cursor, of)[1]) == [["x"]]


def test_an_outcome_of_another_call_with_a_child_s_id_is_not_that_child(cursor: Any) -> None:
    of = head()
    commit(cursor, segment(of))
    other = NewOutcome(OWNER, key(of, "b")[1], OutcomeStatus.SUCCEEDED, values.encode(1), None, b"other", B.id, 1)
    record.insert_outcomes(cursor, [other])

    assert ways(back(cursor, of)[1]) == [["b", "x"]]


def test_what_is_not_looked_up_is_sent(cursor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    of = head()
    commit(cursor, segment(of, item("b"), item("c"), item("x")))

    monkeypatch.setattr(followers, "MOST_CALLS", 1)
    assert ways(back(cursor, of)[1]) == [["x"], ["c"]]

    monkeypatch.setattr(followers, "MOST_CALLS", 0)
    assert ways(back(cursor, of)[1]) == [["b", "x"]]


# at random


@dataclass
class Node:
    """A call of a tree, what is known of it, and those that follow from it."""

    call: Call
    routes: tuple[Route, ...]
    state: str
    value: bytes
    children: list[Node] = field(default_factory=list)


ROUTES = (route("b", B.id), route("c", C.id), route("b2", B.id))
STATES = ("nothing", "nothing", "decided", "decided", "decided", "cancelled", "LEASED", "DUE", "OUT", "decided and OUT")


def grown(dice: random.Random, call: Call, depth: int, state: str) -> Node:
    routes = ROUTES[: dice.randint(0, 3)] if depth else ()
    node = Node(call, routes, state, values.encode(dice.randint(0, 9)))
    if state in ("decided", "decided and OUT"):
        for way in routes:
            below = child_call(child_id(call.id, way.edge), node.value, way)
            node.children.append(grown(dice, below, depth - 1, dice.choice(STATES)))
    return node


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from nodes(child)


def write(cursor: Any, root: Node) -> None:
    for node in nodes(root):
        if node.state.startswith("decided"):
            routes = messages.encode(node.routes) if node.routes else None
            row = NewOutcome(
                OWNER, node.call.id, OutcomeStatus.SUCCEEDED, node.value, None, node.call.digest, B.id, 1, routes=routes
            )
            record.insert_outcomes(cursor, [row])
        if node.state == "cancelled":
            row = NewOutcome(OWNER, node.call.id, OutcomeStatus.CANCELLED, None, None, node.call.digest, B.id, 1)
            record.insert_outcomes(cursor, [row])
        if (held := node.state.split()[-1]) in ("LEASED", "DUE", "OUT"):
            message = Message(WIRE_VERSION, new_id(), OWNER, B.id, 1, (node.call,))
            record.put_holds(cursor, [NewHold(message, B.exchange, B.key, held)])


def wanted(root: Node) -> set[tuple[bytes, bytes]]:
    """(id, arguments) of the calls that nobody has and that follow from what is decided and in nobody else's hands."""
    found: set[tuple[bytes, bytes]] = set()
    for child in root.children:
        if child.state == "nothing":
            found.add((child.call.id, child.call.args))
        elif child.state == "decided":
            found |= wanted(child)
    return found


def test_members_of_one_message_are_told_apart(cursor: Any) -> None:
    dice = random.Random(7)
    calls = tuple(Call(new_id(), values.encode_arguments((n,), {}), b"digest") for n in range(30))
    message = Message(WIRE_VERSION, new_id(), OWNER, A.id, 1, calls)
    roots = [grown(dice, call, 2, "decided") for call in calls]
    for root in roots:
        write(cursor, root)

    lot = Lot(2, Handed(), message, A, A.processor, careful=True)
    left = followers.left_to_forward(cursor, verdicts.look_up(cursor, lot, OTHER).verdicts)

    assert sent(left) == sorted(each for root in roots for each in wanted(root))
    assert [each.index for each in left[:30]] == list(range(30))
    for verdict in left[:30]:
        verdict.settle()
    # what is open yet are those from whose children something follows
    assert lot.open == {
        n for n, root in enumerate(roots) if any(wanted(c) for c in root.children if c.state == "decided")
    }
    assert lot.open
    for verdict in left[30:]:
        verdict.settle()
    assert settled(lot)


@pytest.mark.parametrize("seed", range(40))
def test_every_child_that_nobody_has_is_sent_and_no_other(cursor: Any, seed: int) -> None:
    dice = random.Random(seed)
    of = head()
    root = grown(dice, of.lot.call(0), 3, "decided")
    write(cursor, root)

    lot, left = back(cursor, of)

    assert sent(left) == sorted(wanted(root))
    for verdict in left:
        assert not settled(lot)
        verdict.settle()
    assert settled(lot)
