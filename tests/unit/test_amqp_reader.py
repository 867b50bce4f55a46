"""What is taken out of the bytes that a connection reads, however they are cut, and that pika gets all the rest."""

from __future__ import annotations

import socket
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter

from pyfi_hpc.brokers.rabbitmq.frames import Writer
from pyfi_hpc.brokers.rabbitmq.reader import READ_BYTES, Delivered, Reader

TASKS, CONFIRMS, OTHER = 1, 2, 3


def method(channel: int, what: Any) -> bytes:
    return bytes(frame.Method(channel, what).marshal())


def content(channel: int, body: bytes, properties: pika.BasicProperties, most: int) -> list[bytes]:
    bodies = [frame.Body(channel, body[at : at + most]).marshal() for at in range(0, len(body), most)]
    return [frame.Header(channel, len(body), properties).marshal(), *bodies]


BACK = pika.BasicProperties("text/x", message_id="m", headers={"x-delivery-count": 2})
FRESH = pika.BasicProperties("text/x", delivery_mode=2, correlation_id="5", message_id="m")


def delivery(
    channel: int, tag: int, body: bytes, *, redelivered: bool = False, most: int = 100, properties: Any = BACK
) -> list[bytes]:
    deliver = spec.Basic.Deliver("consumer", tag, redelivered, exchange="q.d.w", routing_key="k")
    return [method(channel, deliver), *content(channel, body, properties, most)]


class Wire:
    """A connection's transport, and each write to it."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)


class Read:
    """A reader, and what came out of it on either side."""

    def __init__(self) -> None:
        self.passed, self.confirms, self.deliveries = b"", list[tuple[int, bool, bool]](), list[Delivered]()
        self.together: list[int] = []
        self.wire = Wire()
        self.connection = SimpleNamespace(_on_data_available=self._pass, bytes_received=0, _transport=self.wire)
        self.writer = Writer(self.connection)
        self.reader = Reader(self.connection, self.writer)
        self.reader.confirms[CONFIRMS] = lambda *confirm: self.confirms.append(confirm)
        self.reader.deliveries[TASKS] = self._take

    def _take(self, deliveries: list[Delivered]) -> None:
        self.deliveries += deliveries
        self.together.append(len(deliveries))

    def _pass(self, data: bytes) -> None:
        self.passed += data
        self.wire.write(b"pika")


OURS = [
    *delivery(TASKS, 1, b"a" * 250),
    method(CONFIRMS, spec.Basic.Ack(5, True)),
    *delivery(TASKS, 2, b"", redelivered=True, properties=FRESH),
    method(CONFIRMS, spec.Basic.Nack(6, False)),
]
PIKAS = [
    method(0, spec.Connection.Tune(10, 131072, 5)),
    *delivery(OTHER, 1, b"not ours"),
    method(CONFIRMS, spec.Basic.Return(312, "NO_ROUTE", "q.d.w", "k")),
    *content(CONFIRMS, b"it came back", pika.BasicProperties(correlation_id="5"), 100),
    method(OTHER, spec.Basic.Ack(1, False)),
    frame.Heartbeat().marshal(),
    method(TASKS, spec.Basic.CancelOk("consumer")),
]


@given(order=st.permutations([*["ours"] * len(OURS), *["pika"] * len(PIKAS)]), cuts=st.lists(st.integers(0, 900)))
def test_confirms_and_deliveries_are_taken_and_the_rest_is_passed_on(order: list[str], cuts: list[int]) -> None:
    sides = {"ours": iter(OURS), "pika": iter(PIKAS)}
    data = b"".join(next(sides[side]) for side in order)
    read = Read()

    at = 0
    for end in (*sorted(cuts), len(data)):
        read.connection._on_data_available(data[at:end])
        at = max(at, end)

    assert read.passed == b"".join(PIKAS)
    assert read.confirms == [(5, True, False), (6, False, True)]
    assert [(each.tag, each.redelivered, each.body) for each in read.deliveries] == [
        (1, False, b"a" * 250),
        (2, True, b""),
    ]
    assert {each.consumer for each in read.deliveries} == {"consumer"}
    assert [each.properties for each in read.deliveries] == [
        ("text/x", None, {"x-delivery-count": 2}),
        ("text/x", None, {}),
    ]
    assert read.connection.bytes_received == len(data)


def test_a_channel_that_is_forgotten_is_pikas() -> None:
    read = Read()
    first, *rest = delivery(TASKS, 1, b"late")
    read.reader.feed(first)

    read.reader.forget(TASKS)
    read.reader.feed(b"".join([*rest, *delivery(TASKS, 2, b"later")]))

    assert read.deliveries == []
    assert read.passed == b"".join([*rest, *delivery(TASKS, 2, b"later")])


@pytest.mark.parametrize("said", [b"AMQP\x00\x00\x09\x01"])
def test_what_is_no_frame_is_pikas(said: bytes) -> None:
    read = Read()
    read.reader.feed(said)
    assert read.passed == said


def test_what_came_together_is_handed_on_together_before_what_is_pikas() -> None:
    read = Read()
    first, second = ([*delivery(TASKS, tag, b"x")] for tag in (1, 2))

    read.reader.feed(b"".join([*first, *second, frame.Heartbeat().marshal(), *delivery(TASKS, 3, b"x")]))

    assert read.together == [2, 1]


def test_what_is_written_while_frames_are_taken_leaves_together_and_in_order_with_pikas() -> None:
    read = Read()
    read.reader.confirms[CONFIRMS] = lambda tag, *_: read.writer.write(str(tag).encode())
    confirms = [method(CONFIRMS, spec.Basic.Ack(tag, False)) for tag in (1, 2, 3)]

    read.reader.feed(b"".join([confirms[0], confirms[1], frame.Heartbeat().marshal(), confirms[2]]))
    read.writer.write(b"later")

    assert read.wire.writes == [b"12", b"pika", b"3", b"later"]


def test_what_is_large_leaves_at_once_and_in_its_turn() -> None:
    read, large = Read(), bytes(100_000)
    assert read.writer.hold()
    assert not read.writer.hold()

    for data in (b"1", b"2", large, b"3", large, large):
        read.writer.write(data)
    assert read.wire.writes == [b"12", large, b"3", large, large]

    read.writer.write(b"4")
    read.writer.release()
    assert read.wire.writes[5:] == [b"4"]


@pytest.mark.parametrize("encoding", [None, "gzip"])
@pytest.mark.parametrize("kind", [None, "text/x"])
def test_properties_are_read_as_they_were_written(kind: str | None, encoding: str | None) -> None:
    sent = pika.BasicProperties(kind, encoding, delivery_mode=2, priority=3, reply_to="r", message_id="m", timestamp=7)
    read = Read()

    read.reader.feed(b"".join(delivery(TASKS, 1, b"x", properties=sent)))

    assert read.deliveries[0].properties == (kind, encoding, {})


class Pieces:
    """Takes what a transport of pika's reads."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def data_received(self, data: bytes) -> None:
        self.sizes.append(len(data))


def test_a_large_message_is_read_in_few_pieces() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        pieces, read = Pieces(), Read()
        read.connection._transport = transport = _AsyncPlaintextTransport(
            ours, pieces, SelectorIOServicesAdapter(IOLoop())
        )

        read.reader.read_much()
        theirs.sendall(bytes(READ_BYTES + 1))
        with suppress(BlockingIOError):
            transport._consume()

    assert pieces.sizes == [READ_BYTES, 1]
