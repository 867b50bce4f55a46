"""What a connection reads: confirms and deliveries are taken out here, all else goes on to pika, frame by frame.

What came together is handed on together, and what is written meanwhile leaves together.

pika needs 50 µs and more for each of them. Source: AMQP 0-9-1 specification, 2.3.5, 4.2, and 1.8 (basic).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pika.exceptions import InvalidFrameError
from pika.spec import BasicProperties

from pyfi_hpc.brokers.rabbitmq.frames import Writer

#: What is read at once. With pika's own 4 KiB a large message comes in many pieces, and as nothing is done with half a
#: frame, each is joined to all those before it.
READ_BYTES = 64 * 1024
_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_DELIVER, _ACK, _NACK = b"\x00\x3c\x00\x3c", b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x78"
_FRAME = struct.Struct(">BHI")
_CONFIRM = struct.Struct(">QB")
_SIZE = struct.Struct(">Q")
#: A frame ends with this mark, and none is larger: ours are negotiated down to 128 KiB.
_END, _MOST = 0xCE, 2**20
#: A frame's payload begins after its type, channel and size; its end's mark follows. A content header's properties
#: begin after class, weight and size of the body.
_BEFORE, _PROPERTIES = 7, 12
#: Which properties there are, in the order in which they follow.
_FLAGS = struct.Struct(">H")
_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS = 1 << 15, 1 << 14, 1 << 13


class Properties(NamedTuple):
    """What of a message's properties is of use here."""

    content_type: str | None
    content_encoding: str | None
    headers: Mapping[str, object]


class Delivered(NamedTuple):
    """A message that came to the consumer so called; `header` holds its properties as they travel."""

    consumer: str
    tag: int
    redelivered: bool
    header: bytes
    body: bytes

    @property
    def properties(self) -> Properties:
        """What was sent with it."""
        (flags,) = _FLAGS.unpack_from(self.header, _PROPERTIES)
        if flags & _HEADERS:
            return _as_pika_reads(self.header)
        # the first two of all that there may be
        kind, at = _short(self.header, _PROPERTIES + 2, flags & _CONTENT_TYPE)
        encoding, _ = _short(self.header, at, flags & _CONTENT_ENCODING)
        return Properties(kind, encoding, {})


def _short(data: bytes, at: int, there: int) -> tuple[str | None, int]:
    """A short string, where there is one, and what follows it."""
    if not there:
        return None, at
    end = at + 1 + data[at]
    return data[at + 1 : end].decode(), end


def _as_pika_reads(header: bytes) -> Properties:
    found = BasicProperties()
    found.decode(header[_PROPERTIES:])
    return Properties(found.content_type, found.content_encoding, found.headers or {})


@dataclass(slots=True)
class _Coming:
    """A delivery whose content is still on its way."""

    consumer: str
    tag: int
    redelivered: bool
    header: bytes = b""
    missing: int = 0
    parts: list[bytes | memoryview] = field(default_factory=list)


class Reader:
    """Stands before pika's own; belongs to the connection's thread, as all that it calls."""

    def __init__(self, connection: Any, writer: Writer) -> None:
        self._connection, self._pika, self._rest = connection, connection._on_data_available, b""
        self._writer = writer
        #: channel -> hears a confirm: tag, whether it speaks of all up to that, and whether it is a refusal
        self.confirms: dict[int, Callable[[int, bool, bool], None]] = {}
        #: channel -> takes deliveries
        self.deliveries: dict[int, Callable[[list[Delivered]], None]] = {}
        self._coming: dict[int, _Coming] = {}
        #: deliveries that are here and were not handed on
        self._here: dict[int, list[Delivered]] = {}
        connection._on_data_available = self.feed

    def read_much(self) -> None:
        """The connection is open: from now on it reads `READ_BYTES` at once."""
        self._connection._transport._MAX_RECV_BYTES = READ_BYTES

    def forget(self, channel: int) -> None:
        """The channel is gone; its number may be given to another."""
        for known in (self.confirms, self.deliveries, self._coming, self._here):
            known.pop(channel, None)

    def feed(self, data: bytes) -> None:
        """Bytes came; what is no whole frame yet waits."""
        try:
            self._writer.hold()
            self._feed(data)
            self._hand_on()
        finally:
            self._writer.release()

    def _feed(self, data: bytes) -> None:
        # a connection that reads nothing for long is given up
        self._connection.bytes_received += len(data)
        if self._rest:
            data = self._rest + data
        at, length = 0, len(data)
        while length - at > _BEFORE:
            kind, channel, size = _FRAME.unpack_from(data, at)
            if not 0 < kind <= _HEARTBEAT:
                self._rest = b""
                self._leave_to_pika(data[at:])  # no frame: another version of the protocol
                return
            end = at + _BEFORE + size + 1
            if size > _MOST or (end <= length and data[end - 1] != _END):
                raise InvalidFrameError("what came is no frame: nothing of it can be trusted")
            if end > length:
                break
            payload = memoryview(data) if kind == _BODY else data  # the large ones are copied when they are joined
            if not self._taken(kind, channel, payload[at + _BEFORE : end - 1]):
                self._leave_to_pika(data[at:end])
            at = end
        self._rest = data[at:]

    def _leave_to_pika(self, data: bytes) -> None:
        """In its order with all that came, and is written, before and after."""
        self._hand_on()
        self._writer.release()
        self._pika(data)
        self._writer.hold()

    def _hand_on(self) -> None:
        while self._here:
            channel, deliveries = self._here.popitem()
            if take := self.deliveries.get(channel):
                take(deliveries)

    def _taken(self, kind: int, channel: int, payload: Any) -> bool:
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
        body = b"".join(coming.parts)
        delivered = Delivered(coming.consumer, coming.tag, coming.redelivered, coming.header, body)
        self._here.setdefault(channel, []).append(delivered)
