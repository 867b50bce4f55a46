"""The frames that we write ourselves are those that pika would write."""

from __future__ import annotations

import pika
import pytest
from pika import frame, spec

from pyfi_hpc.brokers.rabbitmq import frames

FRAME_MAX = 4096


@pytest.mark.parametrize("size", [0, 1, FRAME_MAX - 8, FRAME_MAX - 7, 20_000])
@pytest.mark.parametrize("mandatory", [True, False])
def test_a_publication_is_written_as_pika_writes_it(size: int, mandatory: bool) -> None:
    body, properties = bytes(size), _properties("7", "ähnlich")

    written = frames.publish(
        3, "q.d.w", "k", body, b"".join(properties.encode()), mandatory=mandatory, frame_max=FRAME_MAX
    )

    most = FRAME_MAX - 8
    assert written == b"".join(
        [
            frame.Method(3, spec.Basic.Publish(exchange="q.d.w", routing_key="k", mandatory=mandatory)).marshal(),
            frame.Header(3, size, properties).marshal(),
            *(frame.Body(3, body[at : at + most]).marshal() for at in range(0, size, most)),
        ]
    )


def _properties(correlation_id: str, message_id: str) -> pika.BasicProperties:
    return pika.BasicProperties("text/x", delivery_mode=2, correlation_id=correlation_id, message_id=message_id)


def test_properties_are_written_as_pika_writes_them() -> None:
    assert frames.durable("text/x", "12", "äb") == b"".join(_properties("12", "äb").encode())
    assert b"".join(pika.BasicProperties(delivery_mode=1).encode()) == frames.TRANSIENT


@pytest.mark.parametrize("multiple", [True, False])
def test_an_ack_is_written_as_pika_writes_it(multiple: bool) -> None:
    assert frames.ack(2, 2**40, multiple) == frame.Method(2, spec.Basic.Ack(2**40, multiple)).marshal()


def test_a_name_that_amqp_cannot_carry_is_refused() -> None:
    assert frames.short("ä" * 127)[0] == 254
    with pytest.raises(ValueError, match="at most 255 bytes"):
        frames.short("ä" * 128)
