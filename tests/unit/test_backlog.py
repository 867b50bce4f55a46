"""Whose turn it is among units of several priorities."""

from __future__ import annotations

from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from pyfi_hpc.agent.backlog import Backlog, Turns, Unit
from pyfi_hpc.model.priority import WEIGHTS, Priority, keys, level_key, of_key

HIGH, NORMAL, LOW = Priority


def backlog(**sizes: int) -> Backlog:
    """So many units of one member of each priority."""
    made = Backlog()
    for name, size in sizes.items():
        for number in range(size):
            made.append(Unit(number, "task", deque([0]), priority=Priority(name)))
    return made


def taken(waiting: Backlog, count: int) -> list[tuple[Priority, int]]:
    """Hand out so many units: their priorities and tokens."""
    found = []
    for _ in range(count):
        unit = waiting.first()
        unit.indexes.popleft()
        waiting.took(unit)
        found.append((unit.priority, unit.token))
    return found


def test_while_all_wait_each_has_its_share_of_the_turns() -> None:
    found = taken(backlog(high=100, normal=100, low=100), 110)

    assert Counter(priority for priority, _ in found) == {HIGH: 80, NORMAL: 20, LOW: 10}
    assert found[0][0] is HIGH


def test_within_a_priority_the_order_is_kept() -> None:
    found = taken(backlog(high=20, low=20), 40)

    for priority in (HIGH, LOW):
        assert [token for each, token in found if each is priority] == list(range(20))


def test_what_waits_alone_has_every_turn_and_saves_up_none() -> None:
    waiting = backlog(low=50)
    assert {priority for priority, _ in taken(waiting, 40)} == {LOW}

    waiting.append(Unit(7, "task", deque([0]), priority=HIGH))

    assert taken(waiting, 1) == [(HIGH, 7)]


def test_a_unit_with_members_left_keeps_its_place_and_spends_a_turn_for_each_hand() -> None:
    waiting = Backlog()
    waiting.append(Unit(1, "task", deque(range(100)), priority=HIGH))
    waiting.append(Unit(2, "task", deque(range(100)), priority=NORMAL))

    assert Counter(token for _, token in taken(waiting, 50)) == {1: 40, 2: 10}


@given(st.lists(st.sets(st.sampled_from(list(Priority)), min_size=1), min_size=1, max_size=60))
def test_whoever_goes_on_waiting_is_served_before_all_others_had_twice_their_share(rounds: list[set[Priority]]) -> None:
    turns, waited = Turns(), Counter[Priority]()
    for waiting in rounds:
        chosen = turns.next_of(waiting)
        assert chosen in waiting
        turns.took(chosen, waiting)
        for each in Priority:
            waited[each] = 0 if each is chosen or each not in waiting else waited[each] + 1
        assert max(waited.values()) <= 2 * sum(WEIGHTS.values())


def test_the_usual_priority_has_the_tasks_own_key_and_the_others_one_of_their_own() -> None:
    assert keys("work-0123") == ["work-0123.high", "work-0123", "work-0123.low"]
    assert [of_key(key) for key in keys("work-0123")] == list(Priority)
    assert level_key("work-0123", NORMAL) == "work-0123"
