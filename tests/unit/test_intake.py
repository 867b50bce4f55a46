"""How much an agent takes in at once."""

from __future__ import annotations

import queue
from functools import partial

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


def publish(broker: MemoryBroker, count: int) -> None:
    for _ in range(count):
        message = Message(WIRE_VERSION, new_id(), "me", S, 1, (Call(new_id(), b"", b"d" * 16),))
        broker.publish(Publication(QUEUE.exchange, QUEUE.key, messages.encode(message), "id")).result(5)


def run_once(dispatcher: Dispatcher, seconds: float) -> None:
    """Let the dispatcher see a call of the task that took so long."""
    dispatcher.add_worker(1, P)
    dispatcher.offer(99, P, "task", [0])
    (hand,) = dispatcher.hand_out()
    dispatcher.done(1, hand.token, [(0, seconds)])


def held(seconds: float) -> int:
    """How many of 40 messages an agent with one worker holds unacked, once it has seen a call take so long."""
    came: queue.SimpleQueue[tuple[bytes, Delivery]] = queue.SimpleQueue()
    broker, dispatcher = MemoryBroker(Hub()), Dispatcher()
    try:
        broker.declare(QUEUE)
        publish(broker, 40)
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
    assert held(seconds=0.5) == 2


def test_more_messages_are_in_hand_where_calls_are_short() -> None:
    assert held(seconds=1e-5) == 8
