"""ZeroMQ over TCP, for those alone who are known: CURVE on every connection, and a door that asks for the public key.

CURVE by itself lets in whoever has any key at all. So each socket here belongs to a ZAP domain that must be enforced:
without somebody who answers at the door nobody comes in (Source: RFC 27/ZAP, zmq_setsockopt(3) ZMQ_ZAP_ENFORCE_DOMAIN).
"""

from __future__ import annotations

import ipaddress
import socket as sockets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]

_DOMAIN = b"pyfi"
#: Source: RFC 27.
_ADDRESS = "inproc://zeromq.zap.01"
_IN, _NOW, _EVENTS = int(zmq.POLLIN), int(zmq.NOBLOCK), int(zmq.EVENTS)
_SHUT = (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
#: Such a stranger is told of once in so many seconds.
_QUIET_SECONDS = 5.0
#: Source: proc(5) and the kernel's tcp_states.h: TIME_WAIT.
_TIME_WAIT = "06"


class Keys(NamedTuple):
    """A pair of CURVE keys, in Z85. The secret one stays in memory."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Keys({self.public!r}, …)"


class Refusal(NamedTuple):
    """Somebody was not let in: the address (or which it may be; empty where it was gone before we looked), and why."""

    peer: str
    why: str


def fresh() -> Keys:
    """A new pair."""
    return Keys(*zmq.curve_keypair())


def identify(socket: Socket, keys: Keys, server: bytes) -> None:
    """Before it connects: this is who we are, and `server` the only one whom we talk to."""
    socket.setsockopt(zmq.CURVE_SERVERKEY, server)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)


def endpoint(address: str, port: int | str = "*") -> str:
    """What ZeroMQ calls a port of an IP address of this node; `*` is any that is free.

    Raises:
        ValueError: it is none, or stands for every address that the node has.
    """
    known = ipaddress.ip_address(address)
    if known.is_unspecified:
        raise ValueError(f"{address} is every address of the node")
    return f"tcp://[{known}]:{port}" if known.version == 6 else f"tcp://{known}:{port}"


class Door:
    """Who may come in through the sockets that it guards, by public key. One of each context, one thread's."""

    def __init__(self, context: Context, *, waits_seconds: float = 0.0) -> None:
        """Whom nobody knows yet is kept waiting so long, in case `admit` names it."""
        self._waits_seconds = waits_seconds
        self._asked: Socket = context.socket(zmq.ROUTER)
        self._asked.setsockopt(zmq.LINGER, 0)
        self._asked.bind(_ADDRESS)
        self._guarded: list[tuple[Socket, Socket, int]] = []
        self._known: Mapping[bytes, str] = {}
        self._waiting: list[tuple[float, list[bytes]]] = []
        self._quiet: dict[Refusal, float] = {}
        #: who was not let in since this was last emptied
        self.refused: list[Refusal] = []

    def guard(self, socket: Socket, keys: Keys, address: str) -> str:
        """Bind the socket there, for those who are known and know it by its key; the endpoint.

        Raises:
            ValueError, zmq.ZMQError: that address cannot be had.
        """
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        where = endpoint(address)
        socket.setsockopt(zmq.IPV6, int("[" in where))
        events = zmq.EVENT_ACCEPTED
        for each in _SHUT:
            events |= each
        watched: Socket = socket.get_monitor_socket(events)
        socket.bind(where)
        bound = socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(bound, bytes)
        name = bound.rstrip(b"\0").decode()
        self._guarded.append((socket, watched, int(name.rpartition(":")[2])))
        return name

    def admit(self, known: Mapping[bytes, str]) -> None:
        """From now on these may come in: public key -> the name that their messages bear (`name_of`)."""
        self._known = dict(known)
        waiting, self._waiting = self._waiting, []
        for since, request in waiting:
            self._judge(request, since)

    @property
    def descriptors(self) -> list[int]:
        """What to wait on, besides the guarded sockets themselves."""
        own = [self._asked, *(watched for _, watched, _ in self._guarded)]
        return [int(each.getsockopt(zmq.FD)) for each in own]

    @property
    def waiting(self) -> bool:
        """Whether somebody stands there whom nobody knows yet."""
        return bool(self._waiting)

    def answer(self) -> None:
        """Judge everybody who stands there; never waits."""
        now = time.monotonic()
        while int(self._asked.getsockopt(_EVENTS)) & _IN:
            self._judge(self._asked.recv_multipart(_NOW), now)
        overdue = [each for each in self._waiting if now - each[0] >= self._waits_seconds]
        self._waiting = [each for each in self._waiting if now - each[0] < self._waits_seconds]
        for _, request in overdue:
            self._refuse(request)
        for _, watched, port in self._guarded:
            self._look(watched, port, now)

    def _judge(self, request: list[bytes], since: float) -> None:
        # Source: RFC 27: (who asks), empty, version, number, domain, address, identity, mechanism, key
        mechanism, key = request[7], b"".join(request[8:9])
        name = self._known.get(z85.encode(key)) if mechanism == b"CURVE" and len(key) == 32 else None
        if name is not None:
            self._say(request, b"200", name)
        elif self._waits_seconds and time.monotonic() - since < self._waits_seconds:
            self._waiting.append((since, request))
        else:
            self._refuse(request)

    def _refuse(self, request: list[bytes]) -> None:
        self._say(request, b"400", "")
        self._tell(Refusal(request[5].decode(errors="replace"), "its key is not on the list"), time.monotonic())

    def _say(self, request: list[bytes], status: bytes, name: str) -> None:
        reply = [request[0], b"", b"1.0", request[3], status, b"", name.encode(), b""]
        with suppress(zmq.ZMQError):
            self._asked.send_multipart(reply, _NOW)

    def _look(self, watched: Socket, port: int, now: float) -> None:
        """Who did not even get as far as the key: without CURVE, or by another key than ours."""
        shut = False
        while int(watched.getsockopt(_EVENTS)) & _IN:
            shut |= recv_monitor_message(watched, _NOW)["event"] in _SHUT
        if shut:
            # ZeroMQ does not say whose it was
            peers = " or ".join(sorted(set(_closed(port))))
            self._tell(Refusal(peers, "it does not speak CURVE, or takes us for somebody else"), now)

    def _tell(self, refusal: Refusal, now: float) -> None:
        if now >= self._quiet.get(refusal, 0.0):
            self._quiet = {known: until for known, until in self._quiet.items() if until > now}
            self._quiet[refusal] = now + _QUIET_SECONDS
            self.refused.append(refusal)

    def close(self) -> None:
        """Nobody comes in any more; the guarded sockets are closed, too."""
        for socket, watched, _ in self._guarded:
            socket.disable_monitor()
            watched.close(0)
            socket.close()
        self._guarded = []
        self._asked.close(0)


def _closed(port: int) -> Iterator[str]:
    """Addresses of those whose connection to our port we have ended a moment ago. Source: proc(5), /proc/net/tcp."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                _, own, peer, state = line.split()[:4]
                if state == _TIME_WAIT and int(own.rpartition(":")[2], 16) == port:
                    yield _address(peer.rpartition(":")[0])


def _address(text: str) -> str:
    """As the kernel writes it: words of four bytes, each in the order of this machine."""
    words = [int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8)]
    family = sockets.AF_INET if len(words) == 1 else sockets.AF_INET6
    return sockets.inet_ntop(family, b"".join(words))
