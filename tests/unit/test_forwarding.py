"""Results on their way along plugs: what is refused comes again, and none overtakes another to a fifo socket."""

from __future__ import annotations

import pytest

from pyfi_hpc.agent.commit import forwarding
from pyfi_hpc.agent.commit.forwarding import MAX_CALLS, Forwarder, Parcel
from pyfi_hpc.agent.commit.verdicts import Verdict
from pyfi_hpc.agent.lots import Lot, Served, Undelivered
from pyfi_hpc.brokers.base import Confirm, Publication
from pyfi_hpc.errors import BrokerUnavailable
from pyfi_hpc.wire import messages, values
from pyfi_hpc.wire.ids import child_id, new_id
from pyfi_hpc.wire.messages import WIRE_VERSION, Call, Message, Route
from tests.support import eventually

FULL = BrokerUnavailable("E_BACKPRESSURE", "the queue is full")
EDGE = b"edge"


class Target:
    """What a forwarder publishes to; whoever tests gives the broker's word."""

    def __init__(self, key: str) -> None:
        self.route = Route(new_id(), EDGE, new_id(), 1, "q.net.next", key)
        self.sent: list[Publication] = []
        self.told: list[tuple[Parcel, BaseException | None]] = []
        self._confirms: list[Confirm] = []
        self.forwarder = Forwarder(self._publish, lambda parcel, error: self.told.append((parcel, error)))
        self.parents = [verdict(self.route, number) for number in range(2 * MAX_CALLS + 1)]

    def _publish(self, publication: Publication) -> Confirm:
        self.sent.append(publication)
        self._confirms.append(Confirm())
        return self._confirms[-1]

    def word(self, number: int, error: BaseException | None = None) -> tuple[list[Verdict], Parcel | None]:
        """The broker's word on the `number`th publication, and what the forwarder makes of it."""
        self._confirms[number].set_exception(error) if error else self._confirms[number].set_result(None)
        return self.forwarder.resolve(*self.told.pop())

    def order(self) -> list[int]:
        """Which parents' children were published, in order."""
        by_child = {child_id(each.lot.call(0).id, EDGE): number for number, each in enumerate(self.parents)}
        return [by_child[call.id] for each in self.sent for call in messages.decode_message(each.body).calls]


def verdict(route: Route, number: int) -> Verdict:
    message = Message(WIRE_VERSION, new_id(), "ann", new_id(), 1, (Call(new_id(), b"", b""),))
    socket = Served(
        message.socket, "p.task", "ann", new_id(), "task", "queue", "q.net.work", "key", 1, None, 3, 1.0, (route,)
    )
    lot = Lot(number, Undelivered(), message, socket, socket.processor, careful=False)
    return Verdict(lot, 0, values.encode(number), (route,))


def test_to_a_fifo_socket_one_parcel_goes_at_a_time_and_none_overtakes_a_refused_one() -> None:
    target = Target("key.g1.fifo")
    target.forwarder.send(target.parents[:-1])
    target.forwarder.send(target.parents[-1:])
    assert len(target.sent) == 1

    assert target.word(0, FULL) == ([], None)
    assert len(target.sent) == 1

    def sent_again() -> bool:
        target.forwarder.try_again()
        return len(target.sent) == 2

    eventually(sent_again)
    assert target.sent[1] == target.sent[0]
    free, _ = target.word(1)
    assert free == target.parents[:MAX_CALLS]
    assert (target.word(2), target.word(3)) == ((target.parents[MAX_CALLS:-1], None), (target.parents[-1:], None))

    assert target.order() == [*range(MAX_CALLS), *range(len(target.parents))]
    assert not target.forwarder.busy


def test_what_a_fifo_socket_does_not_take_for_long_is_given_back_and_the_next_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forwarding, "SPILL_SECONDS", 0.0)
    target = Target("key.g1.fifo")
    target.forwarder.send(target.parents)
    for number in range(3):
        free, parked = target.word(number, FULL)
        assert free == []
        assert parked is not None
        target.forwarder.release(parked)
    assert target.order() == list(range(len(target.parents)))
    assert not target.forwarder.busy


def test_to_others_all_go_at_once() -> None:
    target = Target("key.g1")
    target.forwarder.send(target.parents)
    assert len(target.sent) == 3
    assert target.word(1, FULL) == ([], None)
    assert len(target.sent) == 3
