"""How an agent takes the messages of a fifo socket: one in hands, one member at a time, given back in its place."""

from __future__ import annotations

import dataclasses
import queue
import time
from collections.abc import Iterator

import pytest

from pyfi_hpc.agent.commit.jobs import Job, Look
from pyfi_hpc.agent.dispatch import Dispatcher
from pyfi_hpc.agent.intake import Intake
from pyfi_hpc.agent.lots import Looked, Lot
from pyfi_hpc.brokers.base import Delivery, Publication, TaskQueue
from pyfi_hpc.brokers.memory import Hub, MemoryBroker
from pyfi_hpc.model.names import FIFO
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.ids import new_id
from pyfi_hpc.wire.messages import WIRE_VERSION, Call, Message
from tests.unit.test_intake import VIEW, P, S

QUEUE = TaskQueue("default", "q", f"task{FIFO}")
SOCKET = dataclasses.replace(VIEW.sockets[S], queue=QUEUE.name, key=QUEUE.key)
FIFO_VIEW = dataclasses.replace(VIEW, sockets={S: SOCKET})


class Agent:
    """An intake with its dispatcher and one worker, and what it asked of its committer."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.jobs: list[Job] = []
        self.dispatcher = Dispatcher()
        self._came: queue.SimpleQueue[tuple[bytes, Delivery]] = queue.SimpleQueue()
        deliver = lambda processor, it: self._came.put((processor, it))  # noqa: E731
        self.intake = Intake(broker, self.dispatcher, self.jobs.append, deliver)
        self.dispatcher.add_worker(1, P)
        self.serve()

    def serve(self) -> None:
        """It has a worker for the socket."""
        self.intake.follow(FIFO_VIEW, {P: 1}, open_for_work=True)

    def leave(self) -> None:
        """Its processor is paused."""
        self.intake.follow(FIFO_VIEW, {}, open_for_work=True)

    def take(self) -> Lot:
        """The next message."""
        self.intake.take(*self._came.get(timeout=5))
        return list(self.intake.lots.values())[-1]

    def handed(self) -> list[int]:
        """The members that the worker is handed now; it finishes them at once."""
        hands = self.dispatcher.hand_out()
        for hand in hands:
            self.dispatcher.done(hand.worker, hand.token, [(index, 0.0) for index in hand.indexes])
        return [index for hand in hands for index in hand.indexes]


@pytest.fixture
def hub() -> Hub:
    """A service with the queue, and a message of three calls in it."""
    return Hub()


@pytest.fixture
def broker(hub: Hub) -> Iterator[MemoryBroker]:
    """A connection to it."""
    made = MemoryBroker(hub)
    made.declare(QUEUE)
    calls = tuple(Call(new_id(), b"", b"d" * 16) for _ in range(3))
    body = messages.encode(Message(WIRE_VERSION, new_id(), "me", S, 1, calls))
    for _ in range(2):
        made.publish(Publication(QUEUE.exchange, QUEUE.key, body, "id")).result(5)
    yield made
    made.close()


def test_a_member_is_handed_out_once_the_one_before_it_is_settled(broker: MemoryBroker) -> None:
    agent = Agent(broker)
    lot = agent.take()

    assert agent.handed() == [0]
    assert agent.handed() == []
    lot.settle(0)
    assert agent.handed() == [1]
    assert broker.depth(QUEUE.name).unacked == 1
    lot.settle(1)
    assert agent.handed() == [2]
    lot.settle(2)

    assert agent.take() is not lot


def test_a_failed_member_is_tried_again_before_the_next_one_starts(broker: MemoryBroker) -> None:
    agent = Agent(broker)
    lot = agent.take()
    agent.handed()

    lot.again(0, serial=2, seconds=0.05)

    assert agent.handed() == []
    time.sleep(0.06)
    agent.intake.step()
    assert agent.handed() == [0]
    assert [call.serial for call in lot.message.calls] == [2, 1, 1]
    lot.settle(0)
    assert agent.handed() == [1]


def test_who_stops_gives_the_message_back_between_two_members(broker: MemoryBroker, hub: Hub) -> None:
    agent = Agent(broker)
    lot = agent.take()
    agent.handed()
    neighbour = Agent(MemoryBroker(hub))

    agent.leave()
    assert lot.delivery.held()
    lot.settle(0)

    assert not lot.delivery.held()
    assert agent.handed() == []
    again = neighbour.take()
    assert again.message.batch == lot.message.batch
    assert neighbour.jobs == [Look(again)]
    neighbour.intake.looked(Looked(again, (1, 2)))
    again.settle(0)
    assert neighbour.handed() == [1]


def test_who_has_not_begun_gives_the_message_back_at_once_and_may_have_it_again(broker: MemoryBroker) -> None:
    agent = Agent(broker)
    agent.dispatcher.drain_worker(1)
    lot = agent.take()

    agent.leave()
    assert not lot.delivery.held()
    agent.serve()

    assert agent.take().message.batch == lot.message.batch


def test_a_message_that_grows_old_goes_back_before_the_broker_takes_it(broker: MemoryBroker) -> None:
    broker.ack_timeout_seconds = 60.0
    agent = Agent(broker)
    lot = agent.take()
    agent.handed()

    lot.delivery.received -= 31.0
    agent.intake.step()
    assert lot.delivery.held()  # the one that runs may end
    lot.settle(0)

    again = agent.take()
    assert (again.message.batch, again.careful) == (lot.message.batch, True)


def test_a_message_that_the_broker_took_back_is_not_gone_on_with(broker: MemoryBroker) -> None:
    agent = Agent(broker)
    lot = agent.take()
    agent.handed()

    broker.sever()
    lot.settle(0)

    assert agent.handed() == []
    again = agent.take()
    assert agent.jobs == [Look(again)]


def test_a_member_that_is_cancelled_while_it_waits_is_skipped(broker: MemoryBroker) -> None:
    agent = Agent(broker)
    lot = agent.take()
    agent.handed()

    assert agent.intake.skip(lot, {0, 1}) == [1]
    lot.settle(0)
    assert agent.handed() == []
    lot.settle(1)

    assert agent.handed() == [2]
