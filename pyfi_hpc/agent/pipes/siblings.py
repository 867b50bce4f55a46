"""The connections between agents of one job, over TCP with CURVE: one ROUTER for our guests, a DEALER to each host.

Nothing here waits. Only agents that are on record as of the same job, incarnation and owner are let in; the pair of
keys that an agent is known by never leaves its process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import zmq

from pyfi_hpc.agent.keeper import Sibling
from pyfi_hpc.agent.pipes import greetings
from pyfi_hpc.agent.pipes.greetings import Answer, Answers, Beat, FromHost, Greet, Roster
from pyfi_hpc.errors import BadInput
from pyfi_hpc.logs import logger
from pyfi_hpc.pipes import curve
from pyfi_hpc.pipes.sockets import Context, Socket, context
from pyfi_hpc.wire.frames import MAX_FRAME_BYTES, Untaken, agent_number

log = logger("pyfi.agent")

#: How often a host says that it is there, and after how long without a word a guest gives it up.
BEAT_SECONDS, SILENT_SECONDS = 0.5, 3.0
_AGAIN_SECONDS = 1.0
#: A connection that answers no heartbeat for so long is gone (RELIABILITY 1.14).
_VANISHED_MS = 2_000
_HANDSHAKE_SECONDS = 5.0
#: An agent that has just come may be on record later than its first word comes.
_UNKNOWN_SECONDS = 3.0
_LINGER_MS = 200
_MESSAGES = 4_096
_IN, _OUT, _NOW, _EVENTS = int(zmq.POLLIN), int(zmq.POLLOUT), int(zmq.NOBLOCK), int(zmq.EVENTS)


class Unreachable(Exception):
    """This node has no such address for others."""


@dataclass(slots=True)
class Guest:
    """An agent whose workers send calls to ours, known by `key`; `told` is the roster that it has."""

    name: bytes
    agent: int
    key: bytes
    told: Roster | None = None


@dataclass(slots=True)
class _Host:
    sibling: Sibling
    socket: Socket | None = None
    since: float = 0.0
    heard: float = 0.0
    greeted: bool = False
    #: that it does not answer has been said
    warned: bool = False


class Lost(NamedTuple):
    """The connection to a host is gone."""


Word = tuple[int, FromHost | Lost]


class Siblings:
    """Our guests and our hosts. `watch` and `forget` are told of file descriptors to wait on."""

    def __init__(self, agent: bytes, address: str, watch: Callable[[int], None], forget: Callable[[int], None]) -> None:
        """Listen at a free port of `address`.

        Raises:
            Unreachable: it cannot be had.
        """
        self.number = agent_number(agent)
        #: of us, and of our workers
        self.keys, self.workers = curve.fresh(), curve.fresh()
        self.address = address
        self._watch, self._forget = watch, forget
        self._context: Context = context()
        self._door = curve.Door(self._context, waits_seconds=_UNKNOWN_SECONDS)
        self._router: Socket = _limited(self._context.socket(zmq.ROUTER))
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        try:
            self.endpoint = self._door.guard(self._router, self.keys, address)
        except (ValueError, zmq.ZMQError) as error:
            self._router.close()
            self._door.close()
            self._context.term()
            raise Unreachable(str(error)) from error
        self._watched = [_descriptor(self._router), *self._door.descriptors]
        for descriptor in self._watched:
            watch(descriptor)
        self._guests: dict[bytes, Guest] = {}
        self._hosts: dict[int, _Host] = {}
        self._known: dict[int, Sibling] = {}
        #: guests have come or gone since this was last set to False
        self.guests_changed = False

    # who there is

    def follow(self, siblings: Sequence[Sibling], wanted: Iterable[bytes]) -> list[Word]:
        """These are on record; connections are held to those that run a processor of `wanted`."""
        self._known = _told_apart(siblings, self.number)
        self._door.admit({each.key: str(number) for number, each in self._known.items()})
        for guest in list(self._guests.values()):
            if guest.agent not in self._known:
                self._dismiss(guest)
        processors, words = frozenset(wanted), list[Word]()
        for number, host in list(self._hosts.items()):
            if self._known.get(number, host.sibling)[:3] != host.sibling[:3] or number not in self._known:
                words += self._break(number, host)
                del self._hosts[number]
        for number, sibling in self._known.items():
            if number not in self._hosts and sibling.processors & processors:
                self._hosts[number] = _Host(sibling)
        return words

    @property
    def unknown(self) -> bool:
        """Whether somebody wants to come in who may be on record by now."""
        return self._door.waiting

    @property
    def guests(self) -> list[Guest]:
        """Those who have greeted."""
        return list(self._guests.values())

    # as a guest

    def turn(self, now: float) -> list[Word]:
        """Connect, and give up those that do not answer; `now` is monotonic."""
        words = list[Word]()
        for number, host in self._hosts.items():
            if host.socket is None:
                if now - host.since >= _AGAIN_SECONDS:
                    self._connect(host, now)
            elif now - host.heard > (SILENT_SECONDS if host.greeted else _HANDSHAKE_SECONDS):
                words += self._break(number, host)
        return words

    def _connect(self, host: _Host, now: float) -> None:
        host.since = host.heard = now
        host.greeted = False
        socket = _limited(self._context.socket(zmq.DEALER))
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.IPV6, int("[" in host.sibling.endpoint))
        try:
            curve.identify(socket, self.keys, host.sibling.key)
            socket.connect(host.sibling.endpoint)
        except zmq.ZMQError as error:
            log.warning("another node of the job cannot be reached", at=host.sibling.endpoint, reason=str(error))
            socket.close()
            return
        host.socket = socket
        self._watch(_descriptor(socket))

    def _break(self, number: int, host: _Host) -> list[Word]:
        if host.socket is None:
            return []
        self._forget(_descriptor(host.socket))
        host.socket.close()
        host.socket, host.since = None, time.monotonic()
        if host.greeted:
            log.warning("the connection to another node of the job is gone", at=host.sibling.endpoint)
        elif not host.warned:
            host.warned = True
            log.warning(
                "another node of the job does not answer: results go through the broker", at=host.sibling.endpoint
            )
        return [(number, Lost())]

    def hear(self) -> Iterator[Word]:
        """What hosts have said, and which are gone; guests are seen to."""
        self._door.answer()
        for peer, why in self._door.refused:
            log.warning("a stranger was not let in", peer=peer, why=why, at=self.endpoint)
        self._door.refused = []
        self._hear_guests()
        for number, host in list(self._hosts.items()):
            yield from self._hear_host(number, host)

    def _hear_host(self, number: int, host: _Host) -> Iterator[Word]:
        while host.socket is not None and (events := _events(host.socket)) & (_IN | _OUT):
            if events & _OUT and not host.greeted:
                host.greeted, host.heard = True, time.monotonic()
                greet = greetings.pack(Greet(greetings.VERSION, self.workers.public))
                host.socket.send(greet, _NOW)
            elif not events & _IN:
                return
            else:
                try:
                    word = greetings.read_from_host(host.socket.recv(_NOW))
                except BadInput as error:
                    log.warning(
                        "another node of the job broke the protocol", at=host.sibling.endpoint, error=error.what
                    )
                    yield from self._break(number, host)
                    return
                host.heard = time.monotonic()
                yield number, word
        if host.socket is not None and host.greeted:
            # neither to be written to nor read from: the connection is no more
            yield from self._break(number, host)

    # as a host

    def _hear_guests(self) -> None:
        while _events(self._router) & _IN:
            name, *parts = self._router.recv_multipart(_NOW, copy=False)
            # what its key stands for, as the door has said. Source: zmq_msg_gets(3)
            agent = int(str(name.get("User-Id")))
            try:
                said = greetings.read_from_guest(parts[0].bytes if len(parts) == 1 else b"")
            except BadInput as error:
                log.warning("another node of the job broke the protocol", agent=agent, error=error.what)
                continue
            if agent in self._known:
                for before in [each for each in self._guests.values() if each.agent == agent]:
                    self._dismiss(before)
                self._guests[name.bytes] = Guest(name.bytes, agent, said.key)
                self.guests_changed = True

    def _dismiss(self, guest: Guest) -> None:
        if self._guests.pop(guest.name, None) is not None:
            self.guests_changed = True

    def tell(self, guest: Guest, word: Roster | Beat | Answers | Untaken) -> None:
        """Say this to a guest. One that is gone, or takes nothing, is a guest no more."""
        try:
            self._router.send_multipart((guest.name, greetings.pack(word)), _NOW)
        except zmq.ZMQError:
            # Source: zmq_setsockopt(3), ZMQ_ROUTER_MANDATORY: EHOSTUNREACH; or its high-water mark
            self._dismiss(guest)

    def guest(self, agent: int) -> Guest | None:
        """The guest of that number."""
        return next((guest for guest in self._guests.values() if guest.agent == agent), None)

    def answer(self, agent: int, number: int, answers: Sequence[Answer]) -> None:
        """What came of this guest's calls at our worker `number`; nobody is told where it is a guest no more."""
        if (guest := self.guest(agent)) is not None:
            self.tell(guest, Answers(number, tuple(answers)))

    def close(self) -> None:
        """The end; what was said last is sent still."""
        for number, host in self._hosts.items():
            host.greeted, host.warned = False, True  # nobody need be told
            self._break(number, host)
        for descriptor in self._watched:
            self._forget(descriptor)
        self._door.close()
        self._context.term()


def _limited(socket: Socket) -> Socket:
    for option, value in (
        (zmq.SNDHWM, _MESSAGES),
        (zmq.RCVHWM, _MESSAGES),
        (zmq.MAXMSGSIZE, MAX_FRAME_BYTES),
        (zmq.HEARTBEAT_IVL, _VANISHED_MS // 2),
        (zmq.HEARTBEAT_TIMEOUT, _VANISHED_MS),
        (zmq.HANDSHAKE_IVL, int(_HANDSHAKE_SECONDS * 1000)),
        (zmq.LINGER, _LINGER_MS),
        (zmq.RECONNECT_IVL, -1),
    ):
        socket.setsockopt(option, value)
    return socket


def _descriptor(socket: Socket) -> int:
    return int(socket.getsockopt(zmq.FD))


def _events(socket: Socket) -> int:
    return int(socket.getsockopt(_EVENTS))


def _told_apart(siblings: Sequence[Sibling], own: int) -> dict[int, Sibling]:
    """By number; those whose number is not theirs alone have no pipes."""
    numbers = [own, *(agent_number(each.agent) for each in siblings)]
    return {number: each for each in siblings if numbers.count(number := agent_number(each.agent)) == 1}
