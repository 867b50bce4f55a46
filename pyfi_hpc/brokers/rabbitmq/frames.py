"""The two AMQP methods that the data plane sends all the time, as bytes, and their way into the socket at once.

pika makes an object of each frame, waits for its loop's next turn and then writes frame by frame: 60 µs and three
packets for what is one here. All else is left to it. Source: AMQP 0-9-1 specification, 2.3.5, 4.2, and 1.8 (basic).
"""

from __future__ import annotations

import struct
from contextlib import suppress
from functools import lru_cache
from typing import Any

from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport

_METHOD, _HEADER, _BODY, _END = 1, 2, 3, b"\xce"
_BASIC, _PUBLISH, _ACK = 60, 40, 80
#: Of each frame: type, channel and size before, the end's mark after.
_AROUND = 8
_CONTENT_TYPE, _DELIVERY_MODE, _CORRELATION_ID, _MESSAGE_ID = 1 << 15, 1 << 12, 1 << 10, 1 << 7
_FRAME = struct.Struct(">BHI")
_PUBLISH_METHOD, _ACK_METHOD = struct.Struct(">HHH"), struct.Struct(">BHIHHQBB")
#: A frame's beginning, and that of what is in a content header: class, weight, size of the body.
_HEADER_FRAME, _CONTENT_BYTES = struct.Struct(">BHIHHQ"), 12


def short(text: str) -> bytes:
    """A short string.

    Raises:
        ValueError: it has more than 255 bytes.
    """
    data = text.encode()
    if len(data) > 255:
        raise ValueError(f"AMQP takes names of at most 255 bytes, this one has {len(data)}: {text[:40]}…")
    return bytes((len(data),)) + data


def ack(channel: int, tag: int, multiple: bool) -> bytes:
    """`basic.ack`."""
    return _ACK_METHOD.pack(_METHOD, channel, 13, _BASIC, _ACK, tag, multiple, 0xCE)


def durable(content_type: str, correlation_id: str, message_id: str) -> bytes:
    """Properties of a persistent message without headers."""
    return _durable(content_type) + short(correlation_id) + short(message_id)


@lru_cache(16)
def _durable(content_type: str) -> bytes:
    flags = _CONTENT_TYPE | _DELIVERY_MODE | _CORRELATION_ID | _MESSAGE_ID
    return flags.to_bytes(2, "big") + short(content_type) + b"\x02"


#: Properties of a hint: transient.
TRANSIENT = _DELIVERY_MODE.to_bytes(2, "big") + b"\x01"


def publish(
    channel: int, exchange: str, key: str, body: bytes, properties: bytes, *, mandatory: bool, frame_max: int
) -> bytes:
    """`basic.publish` with its content.

    Raises:
        ValueError: a name is too long.
    """
    header, size, most = _HEADER_FRAME, len(body), frame_max - _AROUND
    before = (
        _method(channel, exchange, key, mandatory)
        + header.pack(_HEADER, channel, _CONTENT_BYTES + len(properties), _BASIC, 0, size)
        + properties
        + _END
    )
    if 0 < size <= most:
        return b"".join((before, _FRAME.pack(_BODY, channel, size), body, _END))
    whole = memoryview(body)
    parts = [whole[at : at + most] for at in range(0, size, most)]
    bodies = [piece for part in parts for piece in (_FRAME.pack(_BODY, channel, len(part)), part, _END)]
    return b"".join((before, *bodies))


@lru_cache(1024)
def _method(channel: int, exchange: str, key: str, mandatory: bool) -> bytes:
    data = _PUBLISH_METHOD.pack(_BASIC, _PUBLISH, 0) + short(exchange) + short(key) + (b"\x01" if mandatory else b"\0")
    return _FRAME.pack(_METHOD, channel, len(data)) + data + _END


#: What is so many bytes is not held.
_LARGE = 32 * 1024


class Writer:
    """The way into the socket of one connection, for its thread, or whoever has its baton."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        #: what waits to leave with what follows it; None where nothing follows
        self._held: list[bytes] | None = None

    def hold(self) -> bool:
        """What is written from now on leaves together, with the next `release`: one packet for many frames.

        False where that is so already, and somebody else's to end.
        """
        if self._held is not None:
            return False
        self._held = []
        return True

    def release(self) -> None:
        """Send what was held; what is written from now on leaves at once."""
        held, self._held = self._held, None
        if held:
            self._send(b"".join(held))

    def write(self, data: bytes) -> None:
        """Send `data` after what pika has to send; what the socket does not take now follows."""
        if self._held is None:
            self._send(data)
        elif len(data) < _LARGE:
            self._held.append(data)
        else:
            # it fills packets of its own, and would be copied once more
            before, self._held = self._held, []
            self._send(b"".join(before))
            self._send(data)

    def _send(self, data: bytes) -> None:
        transport = self._connection._transport
        # anything else, TLS above all, is buffered and sent in the loop's next turn
        at_once = type(transport) is _AsyncPlaintextTransport and transport._state == transport._STATE_ACTIVE
        if data and at_once and transport.get_write_buffer_size() == 0:
            with suppress(OSError):  # full, or broken: the loop's own try will find out
                data = data[transport._sock.send(data) :]
        if data:
            transport.write(data)


def write(channel: Any, data: bytes) -> None:
    """See `Writer.write`."""
    channel.connection.writer.write(data)
