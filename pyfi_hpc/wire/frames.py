"""Agent ↔ worker: length-prefixed msgpack frames over an inherited unix socket, and the memory both can see.

    agent → worker   RUN(token, task, body, indexes)   TAKEN(token, index, count)   STOP()
                     LISTEN(path, secret)   OUTLETS(secret, outlets)   FAR(agent, keys, address, guests)
    worker → agent   HELLO(pid, python, error)   DONE(token, items)   YIELDED(token, index, first, values)
                     REACHED(links)   UNTAKEN(calls)   LISTENING(endpoint, guests)   REFUSED(peer, why)

A frame is four bytes of length (big-endian) and one msgpack array that starts with the frame's name.

Progress memory: the worker writes what it runs before it runs it, so that the agent can tell which member was running
when a worker died or overran its time, without a message per call.
"""

from __future__ import annotations

import mmap
import struct
from typing import TypeAlias

import msgspec

from pyfi_hpc.errors import BadInput
from pyfi_hpc.wire.limits import FRAME_BYTES
from pyfi_hpc.wire.messages import ErrorRecord

_LENGTH = struct.Struct(">I")
#: A RUN frame carries a whole message besides its own few fields.
MAX_FRAME_BYTES = FRAME_BYTES + 65_536
NO_LINK = bytes(16)
#: Where pipes lead to other nodes, a token says in its upper bits which agent counts the call. An agent has 28 bits.
_AGENT_BITS, _TOKEN_BITS = 28, 35


def agent_number(agent: bytes) -> int:
    """What tokens call the agent of this id: 1 or more; two of one job hardly ever have the same."""
    return int.from_bytes(agent[-4:], "big") >> (32 - _AGENT_BITS) or 1


def first_token(agent: int) -> int:
    """The first token of the agent of that number; 0: of one that has no pipes to other nodes."""
    return (agent << _TOKEN_BITS) + 1


def agent_of(token: int) -> int:
    """The number of the agent that counts this call; 0 where none has pipes to other nodes."""
    return token >> _TOKEN_BITS


class Run(msgspec.Struct, array_like=True, tag="RUN", frozen=True):
    """Run members of the message `body`: those at `indexes`, in that order, by the function `task`.

    `token` is the agent's name for this message; it comes back in DONE. Where not `passing`, no result goes into a
    pipe: the agent would not count it.
    """

    token: int
    task: str
    body: bytes
    indexes: tuple[int, ...]
    passing: bool = True


class Stop(msgspec.Struct, array_like=True, tag="STOP", frozen=True):
    """Finish what was handed over, send it, and exit."""


class Taken(msgspec.Struct, array_like=True, tag="TAKEN", frozen=True):
    """The first `count` items of a member that yields are committed and sent on: as many more may come."""

    token: int
    index: int
    count: int


class Listen(msgspec.Struct, array_like=True, tag="LISTEN", frozen=True):
    """Take calls from other workers of this node at the unix socket `path`, from those that know `secret`."""

    path: str
    secret: bytes


class Peer(msgspec.Struct, array_like=True, frozen=True):
    """A worker that takes calls by a pipe: the agent's `number` for it, and where it listens.

    One of another node has a negative number and the public `key` of its node's workers; its `path` is `tcp://…`.
    """

    number: int
    path: str
    key: bytes = b""


class Outlet(msgspec.Struct, array_like=True, frozen=True):
    """Results of the socket `source` may go straight to one of `peers`, as calls of the socket `target`.

    `edge` is the route's: the child's id is `child_id(parent, edge)`. `task` is the target's function.
    """

    edge: bytes
    source: bytes
    target: bytes
    task: str
    peers: tuple[Peer, ...]


class Outlets(msgspec.Struct, array_like=True, tag="OUTLETS", frozen=True):
    """Every pipe that the worker may use from now on; those of an earlier frame that are not here are closed."""

    secret: bytes
    outlets: tuple[Outlet, ...]


class Far(msgspec.Struct, array_like=True, tag="FAR", frozen=True):
    """Pipes may lead to other nodes from now on, by this pair of CURVE keys; the agent has the number `agent`.

    Unless `address` is empty, listen there: to the workers of the agents of these numbers, who have these public keys,
    and to nobody else.
    """

    agent: int
    public: bytes
    secret: bytes
    address: str
    guests: tuple[tuple[bytes, int], ...]

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Far({self.agent}, {self.public!r}, …, {self.address!r}, {self.guests!r})"


class Hello(msgspec.Struct, array_like=True, tag="HELLO", frozen=True):
    """The worker is ready; or `error` says why the module cannot be used."""

    pid: int
    python: str
    error: ErrorRecord | None = None


class Item(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What came of one member: `value` bytes, or `error`; times are UTC seconds; `out`, `err` the captured tails.

    `passed` names the pipes that have the value already: (edge, number of the peer). `yielded` is how many items came
    before this, None where the task is no generator.
    """

    index: int
    value: bytes | None
    error: ErrorRecord | None
    started: float
    ended: float
    out: bytes = b""
    err: bytes = b""
    passed: tuple[tuple[bytes, int], ...] = ()
    yielded: int | None = None


class Done(msgspec.Struct, array_like=True, tag="DONE", frozen=True):
    """Members of the message `token` that are finished, in the order in which they ran."""

    token: int
    items: tuple[Item, ...]


class Yielded(msgspec.Struct, array_like=True, tag="YIELDED", frozen=True):
    """Items of the member `index` of message `token`, in order: the first of `values` is item `first`, from 0."""

    token: int
    index: int
    first: int
    values: tuple[bytes, ...]


class Link(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What came of a call that reached the worker by a pipe.

    `token` and `index` name the head of its chain, the member whose delivery is unacked; `id` is the call's own.
    """

    token: int
    index: int
    id: bytes
    item: Item


class Reached(msgspec.Struct, array_like=True, tag="REACHED", frozen=True):
    """Calls that came by pipes and are finished, in the order in which they ran."""

    links: tuple[Link, ...]


class Untaken(msgspec.Struct, array_like=True, tag="UNTAKEN", frozen=True):
    """Calls that went into a pipe and that no worker is known to have in hand: the pipe broke, or its peer is gone.

    Each is (token, index, id): of its chain's head, and its own. One of them may have run, or run yet.
    """

    calls: tuple[tuple[int, int, bytes], ...]


class Listening(msgspec.Struct, array_like=True, tag="LISTENING", frozen=True):
    """FAR is obeyed: where the worker listens, empty where it cannot, and the agents whose workers may come in."""

    endpoint: str
    guests: tuple[int, ...]


class Refused(msgspec.Struct, array_like=True, tag="REFUSED", frozen=True):
    """Somebody at the address `peer` wanted to come in and was not let."""

    peer: str
    why: str


#: What an agent sends, and what a worker does.
ToWorker: TypeAlias = Run | Listen | Outlets | Far | Taken | Stop
ToAgent: TypeAlias = Hello | Done | Yielded | Reached | Untaken | Listening | Refused


_encoder = msgspec.msgpack.Encoder()
_to_worker = msgspec.msgpack.Decoder(ToWorker)
_to_agent = msgspec.msgpack.Decoder(ToAgent)


def pack_onto(buffer: bytearray, frame: ToWorker | ToAgent) -> None:
    """Append the frame's bytes, length first; a large message is copied no more than that."""
    at = len(buffer)
    _encoder.encode_into(frame, buffer, at + _LENGTH.size)
    _LENGTH.pack_into(buffer, at, len(buffer) - at - _LENGTH.size)


def read_for_worker(body: bytes) -> ToWorker:
    """A frame that the agent sent."""
    frame: ToWorker = _to_worker.decode(body)
    return frame


def read_for_agent(body: bytes) -> ToAgent:
    """A frame that a worker sent.

    Raises:
        BadInput: E_DECODE; a worker runs other people's code, so what it sends is not trusted.
    """
    try:
        frame: ToAgent = _to_agent.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput.of("E_DECODE", "frame", str(error)) from None
    return frame


class FrameBuffer:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add `data`; return the bodies of all frames that are now whole.

        Raises:
            BadInput: E_LIMIT, a frame says that it is longer than any frame may be.
        """
        self._data += data
        frames, at = [], 0
        while len(self._data) - at >= 4:
            (length,) = _LENGTH.unpack_from(self._data, at)
            if length > MAX_FRAME_BYTES:
                raise BadInput.of("E_LIMIT", "frame", f"{length} bytes")
            if len(self._data) - at - 4 < length:
                break
            frames.append(bytes(memoryview(self._data)[at + 4 : at + 4 + length]))
            at += 4 + length
        if at:
            del self._data[:at]
        return frames


class Progress:
    """What a worker is running, in memory that its agent sees too: token, index, start, and the calls finished.

    `index` is -1 between calls. `started` is `time.monotonic()`, which one host shares between its processes. A call
    that came by a pipe has the token and index of its chain's head, its own id in `link` and its socket's in `socket`;
    else these are zeros.
    """

    _FIELDS = struct.Struct("=qqdq16s16s")
    SIZE = mmap.PAGESIZE

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, self.SIZE)

    def begin(
        self, token: int, index: int, started: float, finished: int, link: bytes = NO_LINK, socket: bytes = NO_LINK
    ) -> None:
        """The worker is about to run member `index` of message `token`, or the call `link` of its chain."""
        self._FIELDS.pack_into(self._memory, 0, token, index, started, finished, link, socket)

    def read(self) -> tuple[int, int, float, int]:
        """(token, index, started, finished) as last written."""
        return self._FIELDS.unpack_from(self._memory, 0)[:4]

    def running(self) -> tuple[int, int, float, bytes]:
        """(token, index, started, link) as last written."""
        token, index, started, _, link, _ = self._FIELDS.unpack_from(self._memory, 0)
        return token, index, started, link

    @property
    def link(self) -> bytes:
        """The id of a call that came by a pipe, `NO_LINK` for a member of a message."""
        return bytes(self._FIELDS.unpack_from(self._memory, 0)[4])

    @property
    def socket(self) -> bytes:
        """The socket of a call that came by a pipe, `NO_LINK` for a member of a message."""
        return bytes(self._FIELDS.unpack_from(self._memory, 0)[5])

    def close(self) -> None:
        """Let the memory go."""
        self._memory.close()
