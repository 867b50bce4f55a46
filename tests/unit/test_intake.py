"""How much an agent takes in at once."""

from __future__ import annotations

import dataclasses
import queue
from functools import partial

import pytest

from pyfi_hpc.agent import intake as module
from pyfi_hpc.agent.commit.jobs import GiveBack, Job, SetAside
from pyfi_hpc.agent.dispatch import Dispatcher
from pyfi_hpc.agent.intake import Intake
from pyfi_hpc.agent.keeper import Program, View
from pyfi_hpc.agent.lots import Served
from pyfi_hpc.brokers.base import Delivery, Publication, TaskQueue
from pyfi_hpc.brokers.memory import Hub, MemoryBroker
from pyfi_hpc.model.status import Requested
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.ids import new_id
from pyfi_hpc.wire.messages import WIRE_VERSION, Call, Message

P, S = b"p" * 16, b"s" * 16
QUEUE = TaskQueue("default", "q", "task")
VIEW = View(
    superseded=False,
    stop_requested=False,
    workers=(),
    programs={P: Program(P, "p", "file:///r", "c", "m", None, None, None, None, Requested.RUNNING)},
    sockets={
        S: Served(
            S, "p.task", "me", P, "task", QUEUE.name, QUEUE.exchange, QUEUE.key, 1,
            timeout_seconds=None, max_attempts=3, retry_delay_seconds=1.0,
        )
    },
    due=(),
)  # fmt: skip


def publish(broker: MemoryBroker, count: int, size: int = 0) -> None:
    for _ in range(count):
        message = Message(WIRE_VERSION, new_id(), "me", S, 1, (Call(new_id(), bytes(size), b"d" * 16),))
        broker.publish(Publication(QUEUE.exchange, QUEUE.key, messages.encode(message), "id")).result(5)


def run_once(dispatcher: Dispatcher, seconds: float) -> None:
    """Let the dispatcher see a call of the task that took so long."""
    dispatcher.add_worker(1, P)
    dispatcher.offer(99, P, "task", [0])
    (hand,) = dispatcher.hand_out()
    dispatcher.done(1, hand.token, [(0, seconds)])


def held(seconds: float, size: int) -> int:
    """How many of 140 messages an agent with one worker holds unacked, once it has seen a call take so long."""
    came: queue.SimpleQueue[tuple[bytes, Delivery]] = queue.SimpleQueue()
    broker, dispatcher = MemoryBroker(Hub()), Dispatcher()
    try:
        broker.declare(QUEUE)
        publish(broker, 140, size)
        intake = Intake(broker, dispatcher, lambda job: None, lambda processor, it: came.put((processor, it)))
        intake.follow(VIEW, {P: 1}, open_for_work=True)
        run_once(dispatcher, seconds)
        return _taken(broker, intake, came)
    finally:
        broker.close()


def _taken(broker: MemoryBroker, intake: Intake, came: queue.SimpleQueue[tuple[bytes, Delivery]]) -> int:
    take = partial(came.get, timeout=5)
    while len(intake.lots) != broker.depth(QUEUE.name).unacked:
        intake.take(*take())
    return len(intake.lots)


def test_two_messages_wait_for_each_worker_where_calls_take_their_time() -> None:
    assert held(seconds=0.5, size=0) == 2


def test_more_messages_are_in_hand_where_calls_are_short() -> None:
    assert held(seconds=1e-5, size=4000) == 8


def test_many_messages_are_in_hand_where_they_are_small_besides() -> None:
    assert held(seconds=1e-5, size=0) == 128


@pytest.mark.parametrize(("size", "left"), [(15_000, 128), (40_000, 8)])
def test_fewer_are_in_hand_once_messages_are_large(size: int, left: int) -> None:
    came: queue.SimpleQueue[tuple[bytes, Delivery]] = queue.SimpleQueue()
    broker, dispatcher = MemoryBroker(Hub()), Dispatcher()
    try:
        broker.declare(QUEUE)
        intake = Intake(broker, dispatcher, lambda job: None, lambda processor, it: came.put((processor, it)))
        intake.follow(VIEW, {P: 1}, open_for_work=True)
        run_once(dispatcher, 1e-5)
        for count, each in ((40, 0), (80, size)):
            publish(broker, count, each)
            for _ in range(count):
                intake.take(*came.get(timeout=5))

        intake.follow(VIEW, {P: 1}, open_for_work=True)

        assert intake._prefetch[P, QUEUE.name] == left
    finally:
        broker.close()


def test_many_stay_in_hand_while_calls_are_a_little_longer_and_fewer_once_they_are_far_longer() -> None:
    broker, dispatcher = MemoryBroker(Hub()), Dispatcher()
    sizes: list[int] = []
    try:
        broker.declare(QUEUE)
        intake = Intake(broker, dispatcher, lambda job: None, lambda processor, it: None)
        for seconds in (1e-5, 3e-4, 0.5):
            run_once(dispatcher, seconds)
            intake.follow(VIEW, {P: 1}, open_for_work=True)
            sizes.append(intake._prefetch[P, QUEUE.name])
    finally:
        broker.close()
    assert sizes == [8, 8, 2]


def test_a_socket_is_unknown_only_by_a_view_that_is_newer_than_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_UNKNOWN_SECONDS", 0.0)
    jobs: list[Job] = []
    came: queue.SimpleQueue[tuple[bytes, Delivery]] = queue.SimpleQueue()
    broker = MemoryBroker(Hub())
    try:
        broker.declare(QUEUE)
        intake = Intake(broker, Dispatcher(), jobs.append, lambda processor, it: came.put((processor, it)))
        intake.follow(VIEW, {P: 1}, open_for_work=True)
        message = Message(WIRE_VERSION, new_id(), "me", b"new" + bytes(13), 1, (Call(new_id(), b"", b"d" * 16),))
        broker.publish(Publication(QUEUE.exchange, QUEUE.key, messages.encode(message), "id")).result(5)
        intake.take(*came.get(timeout=5))

        # the database went away and came back: the same view, looked at again
        intake.follow(VIEW, {P: 1}, open_for_work=False)
        assert jobs == []

        intake.follow(dataclasses.replace(VIEW, sockets=dict(VIEW.sockets)), {P: 1}, open_for_work=True)
        assert [type(job) for job in jobs] == [SetAside]
    finally:
        broker.close()


def test_what_waits_for_a_processor_that_is_gone_is_given_back() -> None:
    jobs: list[Job] = []
    came: queue.SimpleQueue[tuple[bytes, Delivery]] = queue.SimpleQueue()
    broker, dispatcher = MemoryBroker(Hub()), Dispatcher()
    try:
        broker.declare(QUEUE)
        intake = Intake(broker, dispatcher, jobs.append, lambda processor, it: came.put((processor, it)))
        intake.follow(VIEW, {P: 1}, open_for_work=True)
        publish(broker, 1)
        intake.take(*came.get(timeout=5))

        intake.follow(dataclasses.replace(VIEW, programs={}, sockets={}), {}, open_for_work=True)
        intake.give_back(each for each in dispatcher.processors() if not intake.consumes(each))

        (lot,) = intake.lots.values()
        assert jobs == [GiveBack(lot, (0,))]
        assert dispatcher.processors() == []
    finally:
        broker.close()
