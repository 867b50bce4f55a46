"""What two workers say to each other through a pipe: one msgpack array a message, its name first.

    sender → receiver   HELLO   PROVE   DATA…   BYE
    receiver → sender   WELCOME   CREDIT…   BYE

Neither tells the other the secret: each proves that it knows it, over two numbers that are used once. So a socket that
somebody bound in the receiver's place learns nothing and is given nothing.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, TypeAlias

import msgspec

from pyfi_hpc.errors import BadInput

VERSION = 1
#: Calls that may be on their way to one receiver from one sender, and their encoded bytes. Four arrays of 4 MiB are
#: written faster than eight: they stay in the cache (`benchmarks/raw_pipes.py`).
WINDOW_ITEMS = 256
WINDOW_BYTES = 20 * 2**20
#: A larger value goes through memory that both see: from about 8 KiB on that costs less than ZeroMQ's copies.
SHARED_BYTES = 16 * 2**10
#: A message is closed once it has so many bytes of arguments; with one more value it stays below the limit.
BATCH_BYTES = 512 * 2**10
#: A larger message is refused, and its sender is told. ZeroMQ itself cuts off who sends one over `CUT_OFF_BYTES`.
MESSAGE_BYTES = 2 * 2**20
CUT_OFF_BYTES = 2 * MESSAGE_BYTES
#: A head and what follows it along pipes: a deeper call goes through the broker.
MOST_DEPTH = 16
NONCE_BYTES = PROOF_BYTES = 32

_Nonce = Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
_Proof = Annotated[bytes, msgspec.Meta(min_length=PROOF_BYTES, max_length=PROOF_BYTES)]
_Id = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Positive = Annotated[int, msgspec.Meta(ge=1, le=2**62)]
_Depth = Annotated[int, msgspec.Meta(ge=1, le=MOST_DEPTH)]


class Arena(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The sender's memory for large values: its `descriptor` there, its inode, its bytes."""

    descriptor: _Count
    inode: _Count
    capacity: _Positive


class Place(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """Bytes `start` to `start + size` of the sender's arena; the receiver's alone until it returns them."""

    start: _Count
    size: _Positive


class Hello(msgspec.Struct, array_like=True, tag="HELLO", frozen=True, forbid_unknown_fields=True):
    """The sender is process `pid`; large values will lie in its `arena`."""

    version: _Positive
    nonce: _Nonce
    pid: _Positive
    arena: Arena | None = None


class Welcome(msgspec.Struct, array_like=True, tag="WELCOME", frozen=True, forbid_unknown_fields=True):
    """The receiver knows the secret; the window it grants; whether it can reach the sender's arena."""

    nonce: _Nonce
    proof: _Proof
    items: _Count
    size: _Count
    shares: bool


class Prove(msgspec.Struct, array_like=True, tag="PROVE", frozen=True, forbid_unknown_fields=True):
    """The sender knows the secret."""

    proof: _Proof


class Passed(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """One call: head (`token`, `index`), how many calls precede it in its chain, its id, its encoded arguments."""

    token: int
    index: int
    depth: _Depth
    id: _Id
    args: bytes | Place


class Data(msgspec.Struct, array_like=True, tag="DATA", frozen=True, forbid_unknown_fields=True):
    """Message number `seq`, from 1: calls of the socket `socket`, by its function `task`."""

    seq: _Positive
    socket: _Id
    task: str
    calls: Annotated[tuple[Passed, ...], msgspec.Meta(min_length=1, max_length=WINDOW_ITEMS)]


class Credit(msgspec.Struct, array_like=True, tag="CREDIT", frozen=True, forbid_unknown_fields=True):
    """DATA up to number `taken` is in the receiver's hands; so many calls and bytes of the window are free again.

    `returned` are the places, by their start, that nobody reads any more.
    """

    taken: _Count
    items: _Count = 0
    size: _Count = 0
    returned: tuple[_Count, ...] = ()


class Bye(msgspec.Struct, array_like=True, tag="BYE", frozen=True, forbid_unknown_fields=True):
    """Nothing more comes from here, and nothing more is taken; with a code, because of what the other side did."""

    code: str = ""
    what: str = ""


FromSender: TypeAlias = Hello | Prove | Data | Bye
FromReceiver: TypeAlias = Welcome | Credit | Bye

_encoder = msgspec.msgpack.Encoder()
_from_sender = msgspec.msgpack.Decoder(FromSender)
_from_receiver = msgspec.msgpack.Decoder(FromReceiver)
pack = _encoder.encode


def read_from_sender(body: bytes) -> FromSender:
    """What a sender said.

    Raises:
        BadInput: E_LIMIT or E_PIPE_PROTOCOL.
    """
    frame: FromSender = _read(_from_sender, body)
    return frame


def read_from_receiver(body: bytes) -> FromReceiver:
    """What a receiver said; raises as `read_from_sender` does."""
    frame: FromReceiver = _read(_from_receiver, body)
    return frame


def _read(decoder: msgspec.msgpack.Decoder[FromSender] | msgspec.msgpack.Decoder[FromReceiver], body: bytes) -> Any:
    if len(body) > MESSAGE_BYTES:
        what = f"a message of a pipe has at most {MESSAGE_BYTES} bytes"
        raise BadInput.of("E_LIMIT", "message", f"{len(body)} bytes", what)
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise broken("message", str(error) or type(error).__name__) from None


def broken(field: str, value: object, what: str | None = None) -> BadInput:
    """The other side does not keep to the protocol."""
    return BadInput.of("E_PIPE_PROTOCOL", field, value, what)


def proof(secret: bytes, role: bytes, greeting: bytes, answer: bytes) -> bytes:
    """What only one who knows the secret can say, once: `greeting` is the sender's nonce, `answer` the receiver's."""
    message = role + greeting + answer
    return hashlib.blake2b(message, digest_size=PROOF_BYTES, key=secret, person=b"pyfi pipe").digest()


#: The two ends, as they stand in a proof: one cannot be sent back as the other.
SENDER, RECEIVER = b"sender", b"receiver"
