"""What the dispatcher promises, whatever order things happen in."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from pyfi_hpc.agent.dispatch import Dispatcher, Hand
from pyfi_hpc.model.priority import Priority

P, Q = b"p" * 16, b"q" * 16


def handed(hands: list[Hand]) -> list[tuple[int, int, tuple[int, ...]]]:
    return [(hand.worker, hand.token, hand.indexes) for hand in hands]


def test_calls_of_unknown_length_go_one_by_one_to_idle_workers() -> None:
    dispatcher = Dispatcher()
    dispatcher.add_worker(1, P)
    dispatcher.add_worker(2, P)
    dispatcher.offer(10, P, "task", range(4))

    assert handed(dispatcher.hand_out()) == [(1, 10, (0,)), (2, 10, (1,))]
    assert dispatcher.hand_out() == []


def test_short_calls_travel_together_and_one_unit_ahead() -> None:
    dispatcher = Dispatcher()
    dispatcher.add_worker(1, P)
    dispatcher.offer(10, P, "task", [0])
    dispatcher.hand_out()
    dispatcher.done(1, 10, [(0, 0.0001)])
    dispatcher.offer(11, P, "task", range(64))
    dispatcher.offer(12, P, "task", range(64))

    first = handed(dispatcher.hand_out())

    assert first == [(1, 11, tuple(range(40))), (1, 11, tuple(range(40, 64)))]
    assert dispatcher.hand_out() == []


def many_lots(workers: int, seconds: float, sizes: list[int]) -> list[list[tuple[int, int, tuple[int, ...]]]]:
    """What of such lots is handed out at first and, where nothing comes back, then; calls are known to take so long."""
    dispatcher = Dispatcher()
    dispatcher.add_worker(0, P)
    dispatcher.offer(10, P, "task", [0])
    dispatcher.hand_out()
    dispatcher.done(0, 10, [(0, seconds)])
    dispatcher.remove_worker(0, None)
    for worker in range(1, workers + 1):
        dispatcher.add_worker(worker, P)
    for token, size in enumerate(sizes, start=11):
        dispatcher.offer(token, P, "task", range(size))
    return [handed(dispatcher.hand_out()), handed(dispatcher.hand_out())]


def test_short_calls_of_many_lots_travel_together_and_are_shared() -> None:
    first, then = many_lots(workers=2, seconds=1e-5, sizes=[1] * 5)
    assert first == [(1, 11, (0,)), (1, 12, (0,)), (1, 13, (0,)), (2, 14, (0,)), (2, 15, (0,))]
    assert then == []


def test_not_more_than_some_milliseconds_of_work_travel_together_twice() -> None:
    first, then = many_lots(workers=1, seconds=0.001, sizes=[1] * 20)
    assert [token for _, token, _ in first] == list(range(11, 19))
    assert then == []


def test_not_more_than_so_many_calls_travel_together() -> None:
    first, _ = many_lots(workers=1, seconds=1e-6, sizes=[30, 30, 30, 256, 1])
    assert [(token, len(indexes)) for _, token, indexes in first] == [(11, 30), (12, 30), (13, 30)]


def test_large_messages_do_not_travel_together_beyond_some_bytes() -> None:
    dispatcher = Dispatcher()
    dispatcher.add_worker(1, P)
    dispatcher.learn(P, "task", [1e-5])
    for token in range(11, 20):
        dispatcher.offer(token, P, "task", [0], size=100 * 1024)
    assert handed(dispatcher.hand_out()) == [(1, 11, (0,)), (1, 12, (0,)), (1, 13, (0,)), (1, 14, (0,))]
    assert handed(dispatcher.hand_out()) == []


def test_long_calls_of_many_lots_go_one_by_one() -> None:
    first, then = many_lots(workers=2, seconds=0.5, sizes=[1] * 5)
    assert first == [(1, 11, (0,)), (2, 12, (0,))]
    assert then == []


def test_a_worker_that_has_finished_some_of_what_travelled_together_gets_no_more_before_the_rest() -> None:
    dispatcher = Dispatcher()
    dispatcher.add_worker(1, P)
    dispatcher.offer(10, P, "task", [0])
    dispatcher.hand_out()
    dispatcher.done(1, 10, [(0, 0.001)])
    for token in range(11, 31):
        dispatcher.offer(token, P, "task", [0])
    assert len(dispatcher.hand_out()) == 8

    assert dispatcher.all_done(1, [(token, [(0, 0.001)]) for token in (11, 12, 13, 99)]) == [[0], [0], [0], []]
    assert dispatcher.hand_out() == []
    dispatcher.done(1, 14, [(0, 0.001)])
    assert [hand.token for hand in dispatcher.hand_out()] == [19, 20, 21, 22]


def test_a_long_call_never_waits_behind_another() -> None:
    dispatcher = Dispatcher()
    dispatcher.add_worker(1, P)
    dispatcher.offer(10, P, "task", range(3))
    dispatcher.hand_out()
    dispatcher.done(1, 10, [(0, 2.0)])

    assert handed(dispatcher.hand_out()) == [(1, 10, (1,))]


def test_a_task_of_the_same_name_of_another_processor_tells_nothing() -> None:
    dispatcher = Dispatcher()
    for worker, processor in ((1, P), (2, Q)):
        dispatcher.add_worker(worker, processor)
        dispatcher.offer(worker, processor, "task", [0])
    dispatcher.hand_out()
    dispatcher.done(1, 1, [(0, 0.0001)])
    dispatcher.done(2, 2, [(0, 2.0)])
    dispatcher.offer(11, P, "task", range(40))
    dispatcher.offer(12, Q, "task", range(40))

    assert handed(dispatcher.hand_out()) == [(1, 11, tuple(range(40))), (2, 12, (0,))]
    assert (dispatcher.short(P, "task"), dispatcher.long(P, "task")) == (False, False)
    assert (dispatcher.short(Q, "task"), dispatcher.long(Q, "task")) == (False, True)
    assert (dispatcher.seconds(P, "task"), dispatcher.seconds(Q, "task")) == (0.0001, 2.0)


def test_a_call_whose_worker_lost_its_core_for_a_moment_makes_the_others_no_longer() -> None:
    dispatcher = Dispatcher()
    dispatcher.add_worker(1, P)
    dispatcher.offer(10, P, "task", [0])
    dispatcher.hand_out()
    dispatcher.done(1, 10, [(0, 0.0001)])
    dispatcher.offer(11, P, "task", range(40))
    dispatcher.hand_out()

    dispatcher.done(1, 11, [(index, 0.5 if index in (3, 30) else 0.0001) for index in range(40)])

    dispatcher.offer(12, P, "task", range(64))
    assert handed(dispatcher.hand_out()) == [(1, 12, tuple(range(40))), (1, 12, tuple(range(40, 64)))]


def test_work_goes_only_to_workers_of_its_processor() -> None:
    dispatcher = Dispatcher()
    dispatcher.add_worker(1, Q)
    dispatcher.offer(10, P, "task", [0])

    assert dispatcher.hand_out() == []


def test_a_dead_worker_is_blamed_for_the_member_it_ran_and_the_rest_waits_first() -> None:
    dispatcher = Dispatcher()
    dispatcher.add_worker(1, P)
    dispatcher.offer(9, P, "task", [0])
    dispatcher.hand_out()
    dispatcher.done(1, 9, [(0, 0.0001)])
    dispatcher.offer(10, P, "task", range(5))
    dispatcher.offer(11, P, "task", range(5))
    dispatcher.hand_out()
    dispatcher.done(1, 10, [(0, 0.0001), (1, 0.0001)])

    assert dispatcher.remove_worker(1, (10, 2)) == (10, 2)

    dispatcher.add_worker(2, P)
    assert handed(dispatcher.hand_out()) == [(2, 10, (3, 4)), (2, 11, (0, 1, 2, 3, 4))]


def test_a_worker_that_died_after_finishing_is_not_blamed_for_it() -> None:
    dispatcher = Dispatcher()
    dispatcher.add_worker(1, P)
    dispatcher.offer(10, P, "task", [0])
    dispatcher.hand_out()
    dispatcher.done(1, 10, [(0, 0.0001)])

    assert dispatcher.remove_worker(1, (10, 0)) is None


def test_members_of_a_careful_lot_go_alone_and_announced() -> None:
    dispatcher = Dispatcher()
    dispatcher.add_worker(1, P)
    dispatcher.offer(9, P, "task", [0])
    dispatcher.hand_out()
    dispatcher.done(1, 9, [(0, 0.0001)])
    dispatcher.offer(10, P, "task", range(3), careful=True)

    (hand,) = dispatcher.hand_out()

    assert (hand.indexes, hand.announce) == ((0,), True)


def test_a_draining_worker_gets_nothing_more() -> None:
    dispatcher = Dispatcher()
    dispatcher.add_worker(1, P)
    dispatcher.drain_worker(1)
    dispatcher.offer(10, P, "task", [0])

    assert dispatcher.hand_out() == []
    assert dispatcher.idle(1)


def test_what_waits_can_be_withdrawn_and_what_runs_cannot() -> None:
    dispatcher = Dispatcher()
    dispatcher.add_worker(1, P)
    dispatcher.offer(10, P, "task", range(3))
    dispatcher.hand_out()

    assert dispatcher.withdraw(10, [0, 1]) == [1]
    assert dispatcher.withdraw_processor(P) == {10: [2]}
    assert (dispatcher.held(10), dispatcher.waiting(P)) == ([0], 0)


class EveryMemberIsSomewhere(RuleBasedStateMachine):
    """A member waits, is with exactly one worker, or is over; nothing is lost or handed out twice."""

    workers = Bundle("workers")

    def __init__(self) -> None:
        super().__init__()
        self.dispatcher = Dispatcher()
        self.members: set[tuple[int, int]] = set()
        self.with_worker: dict[int, list[tuple[int, int]]] = {}
        self.next = 1

    @rule(target=workers, processor=st.sampled_from([P, Q]))
    def add_worker(self, processor: bytes) -> int:
        self.next += 1
        self.dispatcher.add_worker(self.next, processor)
        self.with_worker[self.next] = []
        return self.next

    @rule(
        processor=st.sampled_from([P, Q]),
        size=st.integers(1, 70),
        careful=st.booleans(),
        priority=st.sampled_from(list(Priority)),
    )
    def offer(self, processor: bytes, size: int, careful: bool, priority: Priority) -> None:
        self.next += 1
        self.dispatcher.offer(self.next, processor, "task", range(size), careful=careful, priority=priority)
        self.members |= {(self.next, index) for index in range(size)}

    @rule()
    def hand_out(self) -> None:
        for hand in self.dispatcher.hand_out():
            for index in hand.indexes:
                assert all((hand.token, index) not in held for held in self.with_worker.values())
                self.with_worker[hand.worker].append((hand.token, index))

    @rule(worker=workers, seconds=st.sampled_from([1e-6, 1e-3, 1.0]))
    def finish_one(self, worker: int, seconds: float) -> None:
        held = self.with_worker.get(worker)
        if held:
            token, index = held.pop(0)
            assert self.dispatcher.done(worker, token, [(index, seconds)]) == [index]
            assert self.dispatcher.done(worker, token, [(index, seconds)]) == []
            self.members.discard((token, index))

    @rule(worker=workers, running=st.booleans())
    def lose(self, worker: int, running: bool) -> None:
        held = self.with_worker.pop(worker, None)
        if held is not None:
            blamed = self.dispatcher.remove_worker(worker, held[0] if held and running else None)
            assert blamed == (held[0] if held and running else None)
            self.members.discard(blamed or (0, 0))

    @invariant()
    def nothing_is_lost(self) -> None:
        waiting = self.dispatcher.waiting(P) + self.dispatcher.waiting(Q)
        assert waiting + sum(map(len, self.with_worker.values())) == len(self.members)


TestEveryMemberIsSomewhere = EveryMemberIsSomewhere.TestCase
TestEveryMemberIsSomewhere.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
