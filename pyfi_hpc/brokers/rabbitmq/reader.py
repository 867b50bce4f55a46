"""What a connection reads: confirms and deliveries are taken out here, all else goes on to pika, frame by frame.

pika needs 50 µs and more for each of them. Source: AMQP 0-9-1 specification, 2.3.5, 4.2, and 1.8 (basic).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pika.spec import BasicProperties

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_DELIVER, _ACK, _NACK = b"\x00\x3c\x00\x3c", b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x78"
_FRAME = struct.Struct(">BHI")
_CONFIRM = struct.Struct(">QB")
_SIZE = struct.Struct(">Q")
#: A frame's payload begins after its type, channel and size; its end's mark follows. A content header's properties
#: begin after class, weight and size of the body.
_BEFORE, _PROPERTIES = 7, 12


class Delivered(NamedTuple):
    """A message that came to the consumer so called; `header` holds its properties as they travel."""

    consumer: str
    tag: int
    redelivered: bool
    header: bytes
    body: bytes

    @property
    def properties(self) -> Any:
        """What was sent with it, as pika reads it."""
        properties = BasicProperties()
        properties.decode(self.header[_PROPERTIES:])
        return properties


@dataclass(slots=True)
class _Coming:
    """A delivery whose content is still on its way."""

    consumer: str
    tag: int
    redelivered: bool
    header: bytes = b""
    missing: int = 0
    parts: list[bytes] = field(default_factory=list)


class Reader:
    """Stands before pika's own; belongs to the connection's thread, as all that it calls."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._pika, self._rest = connection, connection._on_data_available, b""
        #: channel -> hears a confirm: tag, whether it speaks of all up to that, and whether it is a refusal
        self.confirms: dict[int, Callable[[int, bool, bool], None]] = {}
        #: channel -> takes a delivery
        self.deliveries: dict[int, Callable[[Delivered], None]] = {}
        self._coming: dict[int, _Coming] = {}
        connection._on_data_available = self.feed

    def forget(self, channel: int) -> None:
        """The channel is gone; its number may be given to another."""
        for known in (self.confirms, self.deliveries, self._coming):
            known.pop(channel, None)

    def feed(self, data: bytes) -> None:
        """Bytes came; what is no whole frame yet waits."""
        # a connection that reads nothing for long is given up
        self._connection.bytes_received += len(data)
        if self._rest:
            data = self._rest + data
        at, length = 0, len(data)
        while length - at > _BEFORE:
            kind, channel, size = _FRAME.unpack_from(data, at)
            if not 0 < kind <= _HEARTBEAT:
                self._rest = b""
                self._pika(data[at:])  # no frame: another version of the protocol
                return
            end = at + _BEFORE + size + 1
            if end > length:
                break
            if not self._taken(kind, channel, data[at + _BEFORE : end - 1]):
                self._pika(data[at:end])
            at = end
        self._rest = data[at:]

    def _taken(self, kind: int, channel: int, payload: bytes) -> bool:
        if kind == _METHOD:
            return self._method(channel, payload)
        coming = self._coming.get(channel)
        if coming is None:
            return False
        if kind == _HEADER:
            coming.header, coming.missing = payload, _SIZE.unpack_from(payload, 4)[0]
        else:
            coming.parts.append(payload)
            coming.missing -= len(payload)
        if coming.missing == 0:
            del self._coming[channel]
            self._deliver(channel, coming)
        return True

    def _method(self, channel: int, payload: bytes) -> bool:
        method = payload[:4]
        if method == _DELIVER and channel in self.deliveries:
            at = 5 + payload[4]  # after the consumer's tag
            tag, redelivered = _SIZE.unpack_from(payload, at)[0], payload[at + 8] & 1 == 1
            self._coming[channel] = _Coming(payload[5:at].decode(), tag, redelivered)
            return True
        if method in (_ACK, _NACK) and channel in self.confirms:
            tag, bits = _CONFIRM.unpack_from(payload, 4)
            self.confirms[channel](tag, bits & 1 == 1, method == _NACK)
            return True
        return False

    def _deliver(self, channel: int, coming: _Coming) -> None:
        if take := self.deliveries.get(channel):
            body = coming.parts[0] if len(coming.parts) == 1 else b"".join(coming.parts)
            take(Delivered(coming.consumer, coming.tag, coming.redelivered, coming.header, body))
