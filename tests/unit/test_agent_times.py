"""When an agent's loop does what: pure, with times given."""

from __future__ import annotations

import pytest

from pyfi_hpc.agent.times import SOONEST_SECONDS, STRANGER_SECONDS, Every, Looks, Once


def looks() -> Looks:
    """Of an agent that arrived at 100 and polls every 10 seconds."""
    made = Looks(10.0)
    made.arrived(100.0)
    made.end(None, None, 100.0)
    return made


def test_something_that_recurs_is_due_at_once_and_then_every_so_often() -> None:
    every = Every(2.0)
    assert [now for now in range(100, 110) if every.due(now)] == [100, 102, 104, 106, 108]


def test_something_that_is_planned_is_done_once_unless_it_is_cancelled() -> None:
    once, done = Once(), list[str]()
    once.plan(5.0, lambda: done.append("first"))
    for now in (4.9, 5.0, 6.0):
        once.turn(now)
    once.plan(7.0, lambda: done.append("second"))
    once.cancel()
    once.turn(8.0)

    assert done == ["first"]


def test_what_is_planned_may_plan_the_next() -> None:
    once, done = Once(), list[str]()
    once.plan(1.0, lambda: once.plan(2.0, lambda: done.append("next")))
    once.turn(1.0)
    once.turn(2.0)

    assert done == ["next"]


def test_nobody_looks_before_the_agent_has_arrived() -> None:
    made = Looks(10.0)
    made.wish(1.0)
    assert not made.due(1e9)


def test_a_look_is_due_every_poll_and_never_while_one_is_under_way() -> None:
    made = looks()
    assert not made.due(109.9)
    assert made.due(110.0)

    made.begin(110.0)
    assert not made.due(130.0)

    made.end(None, None, 111.0)
    assert not made.due(119.9)
    assert made.due(120.0)


def test_a_wish_is_due_at_once_and_goes_with_one_look() -> None:
    made = looks()
    made.wish(101.0)
    assert made.due(101.0)
    assert made.begin(101.5) == 101.0
    made.end(101.0, None, 101.6)
    assert made.begin(111.5) is None


def test_a_wish_that_was_not_fulfilled_goes_with_the_next_look_unless_a_newer_one_does() -> None:
    made = looks()
    made.wish(101.0)
    wished = made.begin(101.0)
    made.end(wished, 0.5, 102.0)
    assert not made.due(102.4)
    assert made.due(102.5)
    assert made.begin(102.5) == 101.0

    made.wish(103.0)
    made.end(101.0, 0.5, 104.0)
    assert made.begin(104.0) == 103.0


def test_what_is_due_soon_brings_the_next_look_nearer_and_never_puts_it_off() -> None:
    made = looks()
    made.expect(3.0, None, 101.0)
    made.expect(8.0, None, 101.0)
    assert not made.due(103.9)
    assert made.due(104.0)

    made.begin(104.0)
    made.end(None, None, 104.0)
    made.within(-1.0, 105.0)
    assert not made.due(105.0)
    assert made.due(105.0 + SOONEST_SECONDS)


def test_a_processor_that_may_start_again_by_then_is_a_wish_once() -> None:
    made = looks()
    made.expect(None, 2.0, 101.0)
    assert made.due(103.0)
    assert made.begin(103.0) == 103.0
    made.end(103.0, None, 103.1)
    assert made.begin(113.1) is None


@pytest.mark.parametrize(("after", "due"), [(STRANGER_SECONDS / 2, False), (STRANGER_SECONDS + 0.1, True)])
def test_strangers_are_looked_up_soon_but_not_again_and_again(after: float, due: bool) -> None:
    made = looks()
    made.begin(110.0)
    made.end(None, None, 110.0)
    made.for_a_stranger(110.0 + after)
    assert made.due(110.0 + after) is due
