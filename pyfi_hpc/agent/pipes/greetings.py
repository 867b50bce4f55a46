"""What agents of one job say to each other, whose workers have pipes between nodes: one msgpack array a message.

    guest → host   GREET(version, key)
    host → guest   ROSTER(key, workers)   BEAT(running, stalled, seconds)   ANSWERS(number, answers)   UNTAKEN(calls)

A *host* is an agent whose workers take calls, a *guest* one whose workers send them; two agents may be both to each
other, on two connections. The guest counts the calls: it has the heads. So answers go to the guest.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec

from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.status import Cause
from pyfi_hpc.wire.frames import Link, Untaken

VERSION = 1
_Id = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
_Key = Annotated[bytes, msgspec.Meta(min_length=40, max_length=40)]


class Greet(msgspec.Struct, array_like=True, tag="GREET", frozen=True):
    """A guest's first word: its workers are known by `key`."""

    version: int
    key: _Key


class Offered(msgspec.Struct, array_like=True, frozen=True):
    """A worker of the host, by its number there, its row and its processor.

    It listens at `endpoint`; where that is empty it takes nothing (more) from other nodes, but may have calls yet.
    """

    number: int
    row: _Id
    processor: _Id
    endpoint: str


class Roster(msgspec.Struct, array_like=True, tag="ROSTER", frozen=True):
    """Every worker of the host; they are known by `key`. One that was named before and is not now is gone."""

    key: _Key
    workers: tuple[Offered, ...]


class Beat(msgspec.Struct, array_like=True, tag="BEAT", frozen=True):
    """The host is there.

    `running`: calls of the guest's that run now; `stalled`: workers that are stopped; `seconds`: how long a call of a
    processor's task takes.
    """

    running: tuple[_Id, ...]
    stalled: tuple[int, ...]
    seconds: dict[tuple[bytes, str], float]


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """What came of a call; `cause` where the host knows better why."""

    link: Link
    cause: Cause | None = None


class Answers(msgspec.Struct, array_like=True, tag="ANSWERS", frozen=True):
    """What came of calls of the guest's that the host's worker `number` had."""

    number: int
    answers: tuple[Answer, ...]


FromHost: TypeAlias = Roster | Beat | Answers | Untaken

_encoder = msgspec.msgpack.Encoder()
_from_guest = msgspec.msgpack.Decoder(Greet)
_from_host = msgspec.msgpack.Decoder(FromHost)
pack = _encoder.encode


def read_from_guest(body: bytes) -> Greet:
    """What a guest said.

    Raises:
        BadInput: E_PIPE_PROTOCOL or E_WIRE_VERSION.
    """
    found: Greet = _read(_from_guest, body)
    if found.version != VERSION:
        raise BadInput.of("E_WIRE_VERSION", "version", found.version, f"this agent speaks {VERSION}")
    return found


def read_from_host(body: bytes) -> FromHost:
    """What a host said.

    Raises:
        BadInput: E_PIPE_PROTOCOL.
    """
    found: FromHost = _read(_from_host, body)
    return found


def _read(decoder: msgspec.msgpack.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput.of("E_PIPE_PROTOCOL", "message", str(error) or type(error).__name__) from None
