"""Members of a message that keeps its order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyfi_hpc.agent.line import Line


def test_a_member_starts_once_the_one_before_it_is_settled() -> None:
    line = Line.fresh(3)

    assert line.next(0.0) == 0
    assert (line.next(0.0), line.current) == (None, 0)
    line.settled(0)
    assert (line.next(0.0), line.current) == (1, 1)


def test_what_is_tried_again_is_waited_for_and_overtaken_by_none() -> None:
    line = Line.fresh(2)
    line.next(0.0)

    line.again(0, at=5.0)

    assert line.next(4.9) is None
    assert line.next(5.0) == 0
    line.settled(0)
    assert line.next(5.0) == 1


def test_of_a_message_that_came_back_only_what_is_undecided_runs_and_the_rest_is_waited_for() -> None:
    line = Line([0, 1, 2])
    assert line.next(0.0) is None

    line.allow([1, 2])
    assert line.next(0.0) is None  # the first is decided and not forwarded yet
    line.settled(0)

    assert line.next(0.0) == 1


def test_what_was_cancelled_while_it_waited_is_not_run() -> None:
    line = Line.fresh(3)
    line.next(0.0)

    assert line.skip([0, 1]) == [1]  # the first runs already
    line.settled(0)
    assert line.next(0.0) is None
    line.settled(1)

    assert line.next(0.0) == 2


def test_a_member_that_no_worker_took_is_the_next_again() -> None:
    line = Line.fresh(2)
    line.next(0.0)

    line.put_back()

    assert line.next(0.0) == 0


@given(st.integers(1, 6), st.lists(st.tuples(st.sampled_from(["settle", "again", "back", "skip"]), st.integers(0, 5))))
def test_runs_are_in_order_and_never_two_at_a_time(members: int, events: list[tuple[str, int]]) -> None:
    line, runs, running = Line.fresh(members), list[int](), None
    for what, which in events:
        if what == "settle" and line.current is not None:
            line.settled(line.current)
        elif what == "again" and line.current is not None:
            line.again(line.current, at=0.0)
        elif what == "back":
            line.put_back()
        elif what == "skip":
            for each in line.skip([which]):
                line.settled(each)
        running = line.next(0.0)
        if running is not None and (not runs or runs[-1] != running):
            runs.append(running)
    assert runs == sorted(runs)
