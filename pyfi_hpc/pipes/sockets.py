"""The pipes' ZeroMQ: one ROUTER where calls come in, one DEALER for each worker that values go to. One thread's.

Nothing here waits: `hear` and `turn` take what is there. Who waits does so on the file descriptors, and only after
`hear` and `turn`, since they tell of a change once (Source: zmq_getsockopt(3), ZMQ_FD).

A broken connection is not mended behind our back (no reconnecting): what was on its way would be lost unnoticed.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import zmq

from pyfi_hpc.errors import BadInput
from pyfi_hpc.pipes.curve import Door, Keys, Refusal, identify
from pyfi_hpc.pipes.memory import Pool, Reach, pool, reach
from pyfi_hpc.pipes.protocol import (
    CUT_OFF_BYTES,
    NONCE_BYTES,
    WINDOW_ITEMS,
    Bye,
    Credit,
    Data,
    Hello,
    Passed,
    Place,
    Prove,
    Welcome,
    pack,
    read_from_receiver,
    read_from_sender,
)
from pyfi_hpc.pipes.receiving import Receiving, size_of
from pyfi_hpc.pipes.sending import Key, Sending
from pyfi_hpc.pipes.window import Window
from pyfi_hpc.wire.frames import agent_of

#: Source: unix(7), sun_path with its final zero.
PATH_BYTES = 107
#: A peer that answers no heartbeat for so long has vanished.
_VANISHED_MS = 2_000
_AGAIN_SECONDS = 1.0
#: A worker of another node answers at the door when it has finished what it runs.
_FAR_SECONDS = 3.0
#: Over TCP CURVE has proven both ends before the first word is said.
_NO_SECRET = b""
#: For the last words of a socket that is closed.
_LINGER_MS = 200
#: A window of DATA, and the CREDITs for it (three a call at most), never reach these: so a message that cannot be sent
#: has nobody to go to. Twice as much is needed, as ZeroMQ hears of what was read by halves only (Source: pipe.cpp).
_HIGH_WATER = 4 * WINDOW_ITEMS
_HIGH_WATER_BACK = 8 * WINDOW_ITEMS

# plain numbers: zmq's are enums, and slow
_IN, _OUT, _NOW, _EVENTS = int(zmq.POLLIN), int(zmq.POLLOUT), int(zmq.NOBLOCK), int(zmq.EVENTS)

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]


def context() -> Context:
    """What sockets are made from; with it comes ZeroMQ's own thread."""
    made = zmq.Context(io_threads=1)
    made.blocky = False
    return made


def is_far(path: str) -> bool:
    """Whether a pipe leads to another node."""
    return path.startswith("tcp://")


def _endpoint(path: str) -> str:
    """The address of a socket file, in a folder that is ours alone.

    Raises:
        BadInput: E_PATH.
    """
    if len(os.fsencode(path)) > PATH_BYTES or not os.path.isabs(path):
        raise BadInput.of("E_PATH", "pipe", path, f"an absolute path of at most {PATH_BYTES} bytes is needed")
    folder = Path(path).parent
    try:
        found = folder.lstat()
    except OSError as error:
        raise BadInput.of("E_PATH", "pipe", path, str(error)) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise BadInput.of("E_PATH", "pipe", path, "its folder is open to others", cure=f"chmod 700 {folder}")
    return f"ipc://{path}"


def _limited(socket: Socket) -> None:
    for option, value in (
        (zmq.SNDHWM, _HIGH_WATER),
        (zmq.RCVHWM, _HIGH_WATER),
        (zmq.MAXMSGSIZE, CUT_OFF_BYTES),
        (zmq.HEARTBEAT_IVL, _VANISHED_MS // 2),
        (zmq.HEARTBEAT_TIMEOUT, _VANISHED_MS),
        (zmq.HANDSHAKE_IVL, int(_FAR_SECONDS * 1000)),
        (zmq.LINGER, _LINGER_MS),
        (zmq.RECONNECT_IVL, -1),
    ):
        socket.setsockopt(option, value)


def _events(socket: Socket) -> int:
    """What may be done now; looking also makes the file descriptor tell of the next change."""
    return socket.getsockopt(_EVENTS)  # type: ignore[return-value]  # a number, for this option


class Bunch(NamedTuple):
    """Calls of one target, from one sender."""

    origin: Sender
    socket: bytes
    task: str
    calls: tuple[Passed, ...]


class Sender:
    """Somebody who sends us calls."""

    def __init__(self, receiving: Receiving, agent: int = 0) -> None:
        """`agent` counts its calls; 0: our own does."""
        self.receiving, self.agent = receiving, agent
        self.reach: Reach | None = None
        #: it sends nothing more
        self.left = False

    def arguments(self, call: Passed) -> bytes | memoryview:
        """The encoded arguments; where they lie in the sender's memory, that."""
        if isinstance(call.args, Place):
            assert self.reach is not None
            return self.reach.view(call.args)
        return call.args

    def finished(self, call: Passed) -> None:
        """The call is done with; memory that it read may still be in use."""
        if isinstance(call.args, Place):
            assert self.reach is not None
            self.reach.dismiss(call.args)
            self.receiving.finished(0)
        else:
            self.receiving.finished(size_of(call))

    def look(self) -> None:
        """Count in what memory is not in use any more."""
        if self.reach is not None:
            for start, size in self.reach.released():
                self.receiving.released(start, size)


class Inlet:
    """Where calls of other workers of this node come in."""

    def __init__(self, context: Context, path: str, secret: bytes) -> None:
        """Listen at `path`, to those who know `secret`.

        Raises:
            BadInput: E_PATH, or E_IN_USE where something is there already: a second bind would take it over unseen.
        """
        endpoint = _endpoint(path)
        if os.path.lexists(path):
            raise BadInput.of("E_IN_USE", "pipe", path, "something is there already")
        self._begin(context, secret)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._socket.close()
            raise BadInput.of("E_PATH", "pipe", path, str(error)) from error

    def _begin(self, context: Context, secret: bytes) -> None:
        self._secret = secret
        self._senders: dict[bytes, Sender] = {}
        self._socket: Socket = context.socket(zmq.ROUTER)
        _limited(self._socket)
        self._socket.setsockopt(zmq.SNDHWM, _HIGH_WATER_BACK)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.fd = int(self._socket.getsockopt(zmq.FD))
        #: what to wait on
        self.descriptors = [self.fd]

    def hear(self) -> Iterator[Bunch]:
        """The calls that came; who does not keep to the protocol is told, and dropped."""
        while _events(self._socket) & _IN:
            try:
                name, *parts = self._received()
            except zmq.Again:
                return
            try:
                if len(parts) != 1:
                    raise BadInput.of("E_PIPE_PROTOCOL", "message", f"{len(parts)} parts")
                bunch = self._heard(name, parts[0])
            except BadInput as error:
                self._drop(name, error)
                continue
            if bunch is not None:
                yield bunch

    def _received(self) -> list[bytes]:
        return self._socket.recv_multipart(_NOW)

    def _heard(self, name: bytes, body: bytes) -> Bunch | None:
        frame = read_from_sender(body)
        if isinstance(frame, Data):
            return self._data(self._sender(name), frame)
        if isinstance(frame, Hello):
            self._greet(name, frame)
        elif isinstance(frame, Prove):
            self._sender(name).receiving.proved(frame)
        elif name in self._senders:
            self._senders[name].left = True
        return None

    def _sender(self, name: bytes) -> Sender:
        # a stranger's first words are refused by the fresh books that it gets
        return self._senders.get(name) or self._stranger()

    def _stranger(self) -> Sender:
        return Sender(Receiving(self._secret, secrets.token_bytes(NONCE_BYTES)))

    def _greet(self, name: bytes, frame: Hello) -> None:
        self._forget_vanished()
        sender = self._sender(name)
        sender.reach = self._reach(frame)
        welcome = sender.receiving.greeted(frame, sender.reach is not None)
        self._senders[name] = sender
        self._say(name, welcome)

    def _reach(self, frame: Hello) -> Reach | None:
        return reach(frame.pid, frame.arena)

    def _data(self, sender: Sender, frame: Data) -> Bunch:
        calls = sender.receiving.arrived(frame)
        for call in calls:
            if isinstance(call.args, Place):
                if sender.reach is None:
                    raise BadInput.of("E_PIPE_PROTOCOL", "place", call.args.start, "there is no memory")
                sender.reach.take(call.args)
        return Bunch(sender, frame.socket, frame.task, calls)

    def _drop(self, name: bytes, error: BadInput) -> None:
        self._senders.pop(name, None)
        self._say(name, Bye(error.code, error.what))

    def _say(self, name: bytes, frame: Welcome | Credit | Bye) -> None:
        try:
            self._socket.send_multipart((name, pack(frame)), _NOW)
        except zmq.Again:
            pass  # nobody who keeps to the protocol lets so much wait
        except zmq.ZMQError:
            # Source: zmq_setsockopt(3), ZMQ_ROUTER_MANDATORY: EHOSTUNREACH
            self._senders.pop(name, None)

    def _forget_vanished(self) -> None:
        for name, sender in list(self._senders.items()):
            self._say(name, sender.receiving.credit())

    def credit(self, *, small: bool) -> None:
        """Give back what is free again, where it is much; `small`: however little it is."""
        for name, sender in list(self._senders.items()):
            sender.look()
            if sender.receiving.owes if small else sender.receiving.owes_much:
                self._say(name, sender.receiving.credit())

    @property
    def reading(self) -> int:
        """How many bytes of senders' memory are in use."""
        return sum([sender.reach.held for sender in self._senders.values() if sender.reach is not None])

    def reaches(self) -> list[Reach]:
        """The memory that is open."""
        return [sender.reach for sender in self._senders.values() if sender.reach is not None]

    def bye(self) -> None:
        """Ask every sender to send nothing more."""
        for name in list(self._senders):
            self._say(name, Bye())

    @property
    def expecting(self) -> bool:
        """Whether somebody may send still."""
        return any(not sender.left for sender in self._senders.values())

    def close(self) -> None:
        """Hear nothing more; the file is gone."""
        self._socket.close()


class FarInlet(Inlet):
    """Where calls of workers of other nodes come in: over TCP, from those whom the agent has named."""

    def __init__(self, context: Context, address: str, keys: Keys) -> None:
        """Listen at a free port of `address`, known by these keys; to nobody as yet.

        Raises:
            BadInput: E_PATH, it cannot be had.
        """
        self._begin(context, _NO_SECRET)
        self._door = Door(context)
        self._guests: frozenset[int] = frozenset()
        #: whose words are being heard
        self._speaker = 0
        try:
            self.endpoint = self._door.guard(self._socket, keys, address)
        except (ValueError, zmq.ZMQError) as error:
            self._door.close()
            self._socket.close()
            raise BadInput.of("E_PATH", "pipe", address, str(error)) from error
        self.descriptors += self._door.descriptors

    def admit(self, guests: Sequence[tuple[bytes, int]]) -> None:
        """These may come in, by key and by their agents' numbers, and nobody else; who is in already is put out."""
        self._door.admit({key: str(agent) for key, agent in guests})
        self._guests = frozenset(agent for _, agent in guests)
        for name, sender in list(self._senders.items()):
            if sender.agent not in self._guests:
                self._drop(name, BadInput.of("E_DENIED", "pipe", sender.agent, "its agent is no guest any more"))

    def hear(self) -> Iterator[Bunch]:
        self._door.answer()
        yield from super().hear()

    def refused(self) -> list[Refusal]:
        """Who was not let in since this was last asked."""
        refused, self._door.refused = self._door.refused, []
        return refused

    def _received(self) -> list[bytes]:
        frames = self._socket.recv_multipart(_NOW, copy=False)
        # what its key stands for, as the door has said: not what itself says. Source: zmq_msg_gets(3)
        self._speaker = int(str(frames[-1].get("User-Id")))
        return [frame.bytes for frame in frames]

    def _heard(self, name: bytes, body: bytes) -> Bunch | None:
        if self._speaker not in self._guests:
            raise BadInput.of("E_DENIED", "pipe", self._speaker, "its agent is no guest any more")
        return super()._heard(name, body)

    def _stranger(self) -> Sender:
        return Sender(Receiving(self._secret, secrets.token_bytes(NONCE_BYTES)), self._speaker)

    def _reach(self, frame: Hello) -> Reach | None:
        # a process of another machine
        return None

    def _data(self, sender: Sender, frame: Data) -> Bunch:
        for call in frame.calls:
            if agent_of(call.token) != sender.agent:
                raise BadInput.of("E_PIPE_PROTOCOL", "token", call.token, "another agent than the sender's counts it")
        return super()._data(sender, frame)

    def close(self) -> None:
        self._senders.clear()
        self._door.close()


class Pipe:
    """The way to one other worker, from the first word to the last; a broken connection is tried anew."""

    def __init__(
        self, context: Context, path: str, secret: bytes, keys: Keys | None = None, server: bytes = b""
    ) -> None:
        """To a worker of another node it needs our `keys`, and the public one of who listens there."""
        self._context, self.path, self._secret = context, path, secret
        self._keys, self._server = keys, server
        self._socket: Socket | None = None
        self.sending = Sending(secret, b"")
        self._pool: Pool | None = None
        self._greeted = False
        self._since = 0.0
        self._leaving = False
        #: calls that broke off with a connection
        self.lost: list[Key] = []

    @property
    def window(self) -> Window:
        """What may go; nothing while there is no connection."""
        return self.sending.window

    @property
    def fd(self) -> int | None:
        """What to wait on; None while there is no connection to wait for."""
        return None if self._socket is None else int(self._socket.getsockopt(zmq.FD))

    def turn(self, now: float) -> None:
        """Take what the receiver said, notice when it is gone, and try anew from time to time; `now` is monotonic."""
        if self._socket is None:
            if now - self._since >= _AGAIN_SECONDS and not self._leaving:
                self._connect(now)
            return
        try:
            self._hear(self._socket, now)
        except (BadInput, zmq.ZMQError):
            self._break(now)

    def _connect(self, now: float) -> None:
        self._since, self._greeted = now, False
        try:
            if is_far(self.path):
                self._open(self.path)
            elif os.path.exists(self.path):
                self._open(_endpoint(self.path))
        except (BadInput, zmq.ZMQError):
            self._break(now)

    def _open(self, endpoint: str) -> None:
        socket: Socket = self._context.socket(zmq.DEALER)
        self._socket = socket
        _limited(socket)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        if is_far(endpoint):
            assert self._keys is not None
            socket.setsockopt(zmq.IPV6, int("[" in endpoint))
            identify(socket, self._keys, self._server)
        socket.connect(endpoint)
        self._pool = None if is_far(endpoint) else pool()
        self.sending = Sending(_NO_SECRET if is_far(endpoint) else self._secret, secrets.token_bytes(NONCE_BYTES))

    def _hear(self, socket: Socket, now: float) -> None:
        while (events := _events(socket)) & _IN:
            self._heard(read_from_receiver(socket.recv(_NOW)), now)
            if self._socket is None:
                return
        if events & _OUT:
            if not self._greeted:
                self._greeted = True
                self._say(self.sending.hello(os.getpid(), None if self._pool is None else self._pool.arena), now)
        elif self._greeted or now - self._since >= (_FAR_SECONDS if is_far(self.path) else _AGAIN_SECONDS):
            self._break(now)

    def _heard(self, frame: Welcome | Credit | Bye, now: float) -> None:
        if isinstance(frame, Credit):
            self.sending.credited(frame)
            if self._pool is not None:
                self._pool.returned(frame.returned)
        elif isinstance(frame, Welcome):
            self._say(self.sending.welcomed(frame), now)
        elif frame.code:
            self._break(now)
        else:
            self.leave(now)

    def _say(self, frame: Hello | Prove | Data | Bye, now: float) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(pack(frame), _NOW)
        except zmq.ZMQError:
            # the window is smaller than what may wait: so there is nobody at the other end
            self._break(now)

    def _break(self, now: float) -> None:
        """The connection is gone, or is no good."""
        self.lost += self.sending.close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        self._since = now

    # sending

    def place(self, parts: Sequence[bytes | memoryview], lead: int) -> Place | None:
        """The parts in memory that the receiver sees, byte `lead` of them aligned; None where that cannot be."""
        if self._pool is None or not self.sending.shares:
            return None
        return self._pool.write(parts, lead)

    def send(self, now: float) -> None:
        """Send what has gathered."""
        if self.sending.gathering:
            for frame in self.sending.messages():
                self._say(frame, now)

    def trim(self) -> None:
        """Give memory back that nobody uses."""
        if self._pool is not None:
            self._pool.trim()

    @property
    def idle(self) -> bool:
        """Whether it holds memory that nobody uses."""
        return self._pool is not None and self._pool.idle

    @property
    def mending(self) -> bool:
        """Whether there is no connection yet, or no more, but one is wanted."""
        return not self._leaving and (self._socket is None or not self._greeted)

    def leave(self, now: float) -> None:
        """Send the last, and say so; what was taken is heard of still."""
        if not self._leaving:
            self._leaving = True
            self.send(now)
            self._say(Bye(), now)
            self.sending.stop()

    @property
    def done(self) -> bool:
        """Whether nothing is left to hear of."""
        return self._socket is None or not self.sending.untaken

    def close(self, now: float) -> None:
        """The end; what is not known to be taken is `lost`."""
        self._leaving = True
        self._break(now)
