"""What is taken out of the bytes that a connection reads, however they are cut, and that pika gets all the rest."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec

from pyfi_hpc.brokers.rabbitmq.reader import Delivered, Reader

TASKS, CONFIRMS, OTHER = 1, 2, 3


def method(channel: int, what: Any) -> bytes:
    return bytes(frame.Method(channel, what).marshal())


def content(channel: int, body: bytes, properties: pika.BasicProperties, most: int) -> list[bytes]:
    bodies = [frame.Body(channel, body[at : at + most]).marshal() for at in range(0, len(body), most)]
    return [frame.Header(channel, len(body), properties).marshal(), *bodies]


def delivery(channel: int, tag: int, body: bytes, *, redelivered: bool = False, most: int = 100) -> list[bytes]:
    properties = pika.BasicProperties("text/x", message_id=f"m{tag}", headers={"x-delivery-count": 2})
    deliver = spec.Basic.Deliver("consumer", tag, redelivered, exchange="q.d.w", routing_key="k")
    return [method(channel, deliver), *content(channel, body, properties, most)]


class Read:
    """A reader, and what came out of it on either side."""

    def __init__(self) -> None:
        self.passed, self.confirms, self.deliveries = b"", list[tuple[int, bool, bool]](), list[Delivered]()
        self.connection = SimpleNamespace(_on_data_available=self._pass, bytes_received=0)
        self.reader = Reader(self.connection)
        self.reader.confirms[CONFIRMS] = lambda *confirm: self.confirms.append(confirm)
        self.reader.deliveries[TASKS] = self.deliveries.append

    def _pass(self, data: bytes) -> None:
        self.passed += data


OURS = [
    *delivery(TASKS, 1, b"a" * 250),
    method(CONFIRMS, spec.Basic.Ack(5, True)),
    *delivery(TASKS, 2, b"", redelivered=True),
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
    assert [each.properties.message_id for each in read.deliveries] == ["m1", "m2"]
    assert read.deliveries[0].properties.headers == {"x-delivery-count": 2}
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
