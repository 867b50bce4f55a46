"""What travels: messages to workers, outcomes and replies back.

All are msgpack arrays (`array_like` structs) with the version first; values inside are opaque bytes made by
`wire.values`, so a broker, an agent or a database never opens them.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from pyfi_hpc.errors import BadInput
from pyfi_hpc.wire.ids import ID_BYTES
from pyfi_hpc.wire.limits import FRAME_BYTES, inflate

WIRE_VERSION = 1
CONTENT_TYPE = "application/vnd.pyfi+msgpack"
#: An attempt's number is a Postgres integer, and some follow it.
MOST_SERIAL = 2**30


class Call(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """One invocation inside a message.

    `args` is `values.encode_arguments(...)`; `digest` is `ids.call_digest(socket, args)`; `serial` numbers the attempt
    that this message may make, from 1; `deadline` is UTC seconds since 1970 after which it need not start; `timeout`
    is seconds of run time, None for the socket's own.
    """

    id: bytes
    args: bytes
    digest: bytes
    serial: int = 1
    deadline: float | None = None
    timeout: float | None = None


class Message(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A micro-batch of calls for one socket: what one broker message carries.

    `owner` is the database role that sent it; `reply` is the broker's address for replies, empty for none; `workflow`
    is the id of the workflow it belongs to.
    """

    version: int
    batch: bytes
    owner: str
    socket: bytes
    generation: int
    calls: tuple[Call, ...]
    reply: str = ""
    workflow: bytes | None = None


class Kind(StrEnum):
    """What came of an invocation."""

    VALUE = "value"
    ERROR = "error"
    CANCELLED = "cancelled"
    DEAD = "dead"


class ErrorRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Why there is no value: the exception's dotted type, its message, the traceback as text, our code and cause."""

    type: str
    message: str
    traceback: str = ""
    code: str = "E_REMOTE"
    cause: str = "user_error"


class Answer(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One outcome in a reply; `value` is None where the reader must read the row."""

    id: bytes
    kind: Kind
    value: bytes | None = None
    error: ErrorRecord | None = None


class Reply(msgspec.Struct, array_like=True, frozen=True):
    """A hint to a waiting client: some of its outcomes. It may be lost; the rows are the truth."""

    version: int
    answers: tuple[Answer, ...]


class Route(msgspec.Struct, array_like=True, frozen=True):
    """Where one result flows next, exactly as chosen when the outcome was committed.

    `plug` and `edge` name the way (`edge` is what the child's id is derived from), `socket` the next task's socket,
    `exchange` and `key` how the broker reaches it.
    """

    plug: bytes
    edge: bytes
    socket: bytes
    generation: int
    exchange: str
    key: str


_message_encoder = msgspec.msgpack.Encoder()
_message_decoder = msgspec.msgpack.Decoder(Message)
_reply_decoder = msgspec.msgpack.Decoder(Reply)
_routes_decoder = msgspec.msgpack.Decoder(tuple[Route, ...])
_error_decoder = msgspec.msgpack.Decoder(ErrorRecord)


def encode(struct: msgspec.Struct | tuple[Route, ...]) -> bytes:
    """The struct's bytes."""
    return _message_encoder.encode(struct)


def version_of(body: bytes) -> int:
    """The version a message says it has, read without opening the rest; -1 where there is none to read."""
    if len(body) < 2 or not 0x90 <= body[0] <= 0x9F or body[1] > 0x7F:
        return -1
    return body[1]


def decode_message(body: bytes, content_type: str | None = CONTENT_TYPE, encoding: str | None = None) -> Message:
    """The message in `body`, every field checked.

    Raises:
        BadInput: E_CONTENT_TYPE, E_LIMIT, E_WIRE_VERSION, E_DECODE, E_FIELD or E_ID.
    """
    if content_type != CONTENT_TYPE:
        raise BadInput.of("E_CONTENT_TYPE", "content_type", content_type, f"only {CONTENT_TYPE} is read")
    if encoding:
        body = inflate(body)
    if len(body) > FRAME_BYTES:
        raise BadInput.of("E_LIMIT", "body", f"{len(body)} bytes", f"a message has at most {FRAME_BYTES} bytes")
    if (version := version_of(body)) > WIRE_VERSION:
        raise BadInput.of("E_WIRE_VERSION", "version", version, f"this program reads versions up to {WIRE_VERSION}")
    return _checked(_decoded(body))


def _decoded(body: bytes) -> Message:
    try:
        return _message_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BadInput.of("E_FIELD", "message", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput.of("E_DECODE", "message", str(error) or "empty") from None
    except RecursionError:
        raise BadInput.of("E_LIMIT", "message", "nested too deep") from None


def _checked(message: Message) -> Message:
    if message.version < 1:
        raise BadInput.of("E_FIELD", "version", message.version)
    if not message.owner or "\0" in message.owner:
        raise BadInput.of("E_FIELD", "owner", message.owner)
    for name in ("batch", "socket"):
        if len(getattr(message, name)) != ID_BYTES:
            raise BadInput.of("E_FIELD", name, getattr(message, name).hex(), f"an id has {ID_BYTES} bytes")
    if not message.calls:
        raise BadInput.of("E_FIELD", "calls", "[]", "a message carries at least one call")
    for call in message.calls:
        if len(call.id) != ID_BYTES or not any(call.id):
            raise BadInput.of("E_ID", "id", call.id.hex())
        if not 1 <= call.serial <= MOST_SERIAL:
            raise BadInput.of("E_FIELD", "serial", call.serial, f"attempts are numbered from 1 to {MOST_SERIAL}")
    return message


def decode_reply(body: bytes) -> Reply:
    """The reply in `body`; raises msgspec.DecodeError where it is none (a hint may simply be dropped)."""
    return _reply_decoder.decode(body)


def decode_routes(body: bytes | None) -> tuple[Route, ...]:
    """The routes stored with an outcome; none where none were stored."""
    return _routes_decoder.decode(body) if body else ()


def decode_error(body: bytes) -> ErrorRecord:
    """The error stored with an outcome or an attempt."""
    return _error_decoder.decode(body)
