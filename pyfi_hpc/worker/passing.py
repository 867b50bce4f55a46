"""The pipes of one worker: calls that come in, values that go out. Used from the moment the agent speaks of pipes."""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from pyfi_hpc.errors import BadInput
from pyfi_hpc.pipes import sockets
from pyfi_hpc.pipes.curve import Keys
from pyfi_hpc.pipes.protocol import MOST_DEPTH, SHARED_BYTES, WINDOW_BYTES, WINDOW_ITEMS, Passed, Place
from pyfi_hpc.pipes.receiving import size_of
from pyfi_hpc.pipes.sending import Key
from pyfi_hpc.pipes.spill import SPILL_SECONDS, Spill, roomiest
from pyfi_hpc.pipes.window import Window
from pyfi_hpc.wire.arrays import elements_at
from pyfi_hpc.wire.blobs import Content
from pyfi_hpc.wire.ext import Buffer
from pyfi_hpc.wire.frames import Far, Listen, Listening, Outlet, Outlets, Peer, Refused, ToAgent, agent_of
from pyfi_hpc.wire.ids import child_id
from pyfi_hpc.wire.values import arguments_of
from pyfi_hpc.worker import isolation

_monotonic = time.monotonic
#: A worker that has nothing to do gives credit back only after so long: a call alone then costs one message, not two.
_SETTLE_SECONDS = 0.02
_IDLE_SECONDS = 1.0
#: How long a worker that ends waits for what is on its way to it, and for its peers to take what it sent.
_LEAVE_SECONDS = 2.0
#: Of a larger value the claim check goes: it would have the window for itself, and wait for it.
_MOST_SHARED_BYTES = WINDOW_BYTES - 4096
#: So much of large values may be on its way in all pipes of a worker together: it is memory of this node.
_MOST_OUT_BYTES = 2 * WINDOW_BYTES
#: What stands around a value that is the only argument of a call: `values.arguments_of`.
_BEFORE, _AFTER = arguments_of(b"\0").split(b"\0")
_AROUND_BYTES = len(_BEFORE) + len(_AFTER)


class Own:
    """A pipe of a worker to itself: its window, and the queue that calls go into."""

    path = ""

    def __init__(self, queue: deque[Bunch]) -> None:
        self._queue = queue
        self.window = Window(WINDOW_ITEMS, WINDOW_BYTES)

    def add(self, socket: bytes, task: str, call: Passed, size: int) -> None:
        """`call` waits for its turn."""
        self.window.take(size)
        last = self._queue[-1] if self._queue else None
        if last is not None and last.origin is self and (last.socket, last.task) == (socket, task):
            last.calls.append(call)
        else:
            self._queue.append(Bunch(self, socket, task, deque((call,))))

    def arguments(self, call: Passed) -> bytes | memoryview:
        """The encoded arguments."""
        assert type(call.args) is bytes
        return call.args

    def finished(self, call: Passed) -> None:
        """The call is done with."""
        self.window.give(1, size_of(call))


@dataclass(slots=True)
class Bunch:
    """Calls of one target that came by a pipe and wait for their turn."""

    origin: sockets.Sender | Own
    socket: bytes
    task: str
    calls: deque[Passed]


@dataclass(slots=True)
class Edge:
    """One way that values of a socket go: to the workers at its end, or, while it spills, to the broker.

    A `far` one leads to other nodes.
    """

    outlet: Outlet
    peers: list[tuple[int, sockets.Pipe | Own]]
    spill: Spill = field(default_factory=Spill)
    far: bool = False


class Passing:
    """Both ends of a worker's pipes. Everything here belongs to the worker's one thread."""

    def __init__(self, connection: socket.socket, flush: Callable[[], None], say: Callable[[ToAgent], None]) -> None:
        """`connection` leads to the agent; `flush` sends what waits for it, and calls `send`; `say` sends one frame."""
        self._agent, self._flush, self._say = connection.fileno(), flush, say
        isolation.fill_low_numbers()
        self._context = sockets.context()
        self._inlet: sockets.Inlet | None = None
        self._far: Far | None = None
        self._far_inlet: sockets.FarInlet | None = None
        #: those that are open
        self._inlets: list[sockets.Inlet] = []
        self._pipes: dict[str, sockets.Pipe] = {}
        #: closed, but what was sent last is not known to be taken yet
        self._leaving: list[sockets.Pipe] = []
        self._edges: dict[bytes, list[Edge]] = {}
        self._lost: list[Key] = []
        #: what came and waits for its turn
        self.queue: deque[Bunch] = deque()
        self._own = Own(self.queue)
        self._settled = False
        os.register_at_fork(
            before=self._before_fork,
            after_in_parent=lambda: self._after_fork(child=False),
            after_in_child=lambda: self._after_fork(child=True),
        )

    # what the agent says

    def listen(self, frame: Listen) -> None:
        """Take calls at that path from now on. Where that cannot be, nobody reaches us, and the broker is used."""
        if self._inlet is not None:
            self._inlet.close()
            self._inlet = None
        with suppress(BadInput):
            self._inlet = sockets.Inlet(self._context, frame.path, frame.secret)
        self._opened()

    def far(self, frame: Far) -> None:
        """Take part in pipes between nodes, and tell the agent where; where that cannot be, the broker is used."""
        if self._far_inlet is None and frame.address:
            with suppress(BadInput):
                self._far_inlet = sockets.FarInlet(self._context, frame.address, Keys(frame.public, frame.secret))
        if self._far_inlet is not None:
            self._far_inlet.admit(frame.guests)
        self._opened()
        self._far = frame
        endpoint = "" if self._far_inlet is None else self._far_inlet.endpoint
        self._say(Listening(endpoint, tuple(agent for _, agent in frame.guests)))

    def _opened(self) -> None:
        self._inlets = [inlet for inlet in (self._inlet, self._far_inlet) if inlet is not None]

    def outlets(self, frame: Outlets) -> None:
        """Use these pipes from now on, and no others."""
        now = _monotonic()
        wanted = {peer.path: peer for outlet in frame.outlets for peer in outlet.peers if peer.path}
        for path in self._pipes.keys() - wanted.keys():
            pipe = self._pipes.pop(path)
            pipe.leave(now)
            self._leaving.append(pipe)
        for path in wanted.keys() - self._pipes.keys():
            self._pipes[path] = self._pipe(wanted[path], frame.secret)
            self._pipes[path].turn(now)
        before = {
            (edge.outlet.source, edge.outlet.edge): edge.spill for edges in self._edges.values() for edge in edges
        }
        self._edges = {}
        for outlet in frame.outlets:
            peers = [(peer.number, self._pipes[peer.path] if peer.path else self._own) for peer in outlet.peers]
            far = any(sockets.is_far(peer.path) for peer in outlet.peers)
            edge = Edge(outlet, peers, before.get((outlet.source, outlet.edge), Spill()), far)
            self._edges.setdefault(outlet.source, []).append(edge)

    def _pipe(self, peer: Peer, secret: bytes) -> sockets.Pipe:
        keys = None if self._far is None else Keys(self._far.public, self._far.secret)
        return sockets.Pipe(self._context, peer.path, secret, keys, peer.key)

    def edges(self, source: bytes) -> Sequence[Edge]:
        """The ways that values of this socket may go."""
        return self._edges.get(source, ())

    # values that go

    def pass_on(
        self,
        edges: Sequence[Edge],
        head: tuple[int, int],
        depth: int,
        parent: bytes,
        value: bytes,
        whole: Content | None,
    ) -> tuple[tuple[bytes, int], ...]:
        """Send a value along these edges as far as pipes take it: (edge, number of the peer) of each that did.

        `head` is the token and index of the chain's first call, `depth` how many calls precede this one; `whole` is
        the value where `value` is a claim check for it.
        """
        if depth >= MOST_DEPTH - 1:
            return ()
        shared = whole if whole is not None and whole.reference.size <= _MOST_SHARED_BYTES else None
        # only the agent that counts a call is told by other nodes what came of the next one
        abroad = self._far is not None and agent_of(head[0]) != self._far.agent
        passed = []
        for edge in edges:
            if abroad and edge.far:
                continue
            content = None if edge.far else shared
            chosen = self._choose(edge, _AROUND_BYTES + (len(value) if content is None else content.reference.size))
            if chosen is not None:
                number, pipe = chosen
                outlet = edge.outlet
                call = Passed(*head, depth + 1, child_id(parent, outlet.edge), _args(pipe, value, content))
                target = pipe if isinstance(pipe, Own) else pipe.sending
                target.add(outlet.target, outlet.task, call, size_of(call))
                passed.append((outlet.edge, number))
        return tuple(passed)

    def _choose(self, edge: Edge, size: int) -> tuple[int, sockets.Pipe | Own] | None:
        first = edge.peers[0]
        small = size <= SHARED_BYTES
        if small and len(edge.peers) == 1 and not edge.spill.spilling and first[1].window.room(size):
            return first
        if edge.spill.look(_windows(edge)):
            return None
        best = self._roomiest(edge, size)
        if best is None:
            best = self._wait_for_room(edge, size)
        if best is None:
            edge.spill.begin()
            return None
        return edge.peers[best]

    def _roomiest(self, edge: Edge, size: int) -> int | None:
        if size > SHARED_BYTES and self._out() + size > _MOST_OUT_BYTES:
            return None
        return roomiest(_windows(edge), size)

    def _out(self) -> int:
        """Bytes that are on their way, or are read where we wrote them."""
        windows = [pipe.window for pipe in self._pipes.values()]
        return sum([window.size - window.size_left for window in windows])

    def _wait_for_room(self, edge: Edge, size: int) -> int | None:
        """The peer that gave credit in time."""
        self._flush()
        deadline = _monotonic() + SPILL_SECONDS
        pipes = [pipe for _, pipe in edge.peers if isinstance(pipe, sockets.Pipe)]
        while True:
            now = _monotonic()
            for pipe in pipes:
                pipe.turn(now)
            best = self._roomiest(edge, size)
            waiting = [pipe for pipe in pipes if pipe.sending.welcome]
            if best is not None or now >= deadline or not waiting:
                return best
            _wait([fd for pipe in waiting if (fd := pipe.fd) is not None], deadline - now)

    def send(self) -> list[Key]:
        """Send what has gathered, and credit where much is owed; the calls that are not known to be taken."""
        now = _monotonic()
        for pipe in self._pipes.values():
            pipe.send(now)
            self._gather_lost(pipe)
        for inlet in self._inlets:
            inlet.credit(small=False)
        lost, self._lost = self._lost, []
        return lost

    def _gather_lost(self, pipe: sockets.Pipe) -> None:
        if pipe.lost:
            self._lost += pipe.lost
            pipe.lost = []

    # calls that come

    def turn(self) -> None:
        """Take what is there; never waits."""
        now = _monotonic()
        for pipe in self._pipes.values():
            pipe.turn(now)
            self._gather_lost(pipe)
        if self._leaving:
            self._let_go(now)
        for inlet in self._inlets:
            for origin, target, task, calls in inlet.hear():
                self.queue.append(Bunch(origin, target, task, deque(calls)))
        if self._far_inlet is not None:
            for refused in self._far_inlet.refused():
                self._say(Refused(*refused))

    def _let_go(self, now: float) -> None:
        for pipe in self._leaving:
            pipe.turn(now)
            if pipe.done:
                pipe.close(now)
            self._gather_lost(pipe)
        self._leaving = [pipe for pipe in self._leaving if pipe.fd is not None]

    def wait(self) -> bool:
        """Whether the agent has said something; else a call has come by a pipe. Waits only where nothing waits here."""
        while True:
            self.turn()
            while self._lost:
                self._flush()
                # what is sent may swallow a descriptor's word of what came
                self.turn()
            found = _wait([self._agent, *self._descriptors()], 0.0 if self.queue else self._patience())
            if found:
                self._settled = False
            if self._agent in found:
                return True
            if self.queue:
                return False
            if not found:
                self._settle()

    def _descriptors(self) -> list[int]:
        pipes = [*self._pipes.values(), *self._leaving]
        found = [fd for pipe in pipes if (fd := pipe.fd) is not None]
        return [fd for inlet in self._inlets for fd in inlet.descriptors] + found

    def _patience(self) -> float | None:
        """How long there is nothing to do but wait, in seconds; None: for ever."""
        if not self._settled:
            return _SETTLE_SECONDS
        pending = any(pipe.mending or pipe.idle for pipe in self._pipes.values())
        return _IDLE_SECONDS if pending or any(inlet.reading for inlet in self._inlets) else None

    def _settle(self) -> None:
        """There was nothing to do for a moment."""
        if self._settled:
            for pipe in self._pipes.values():
                pipe.trim()
        self._settled = True
        for inlet in self._inlets:
            inlet.credit(small=True)

    # the end

    def finish(self, run: Callable[[], None]) -> None:
        """Take what is on its way, `run` all that came, and see the last values taken."""
        deadline = _monotonic() + _LEAVE_SECONDS
        for inlet in self._inlets:
            inlet.bye()
        while True:
            self.turn()
            if self.queue:
                run()
            elif any(inlet.expecting for inlet in self._inlets) and _monotonic() < deadline:
                _wait(self._descriptors(), min(_SETTLE_SECONDS, max(0.0, deadline - _monotonic())))
            else:
                break
        self._leave()

    def _leave(self) -> None:
        now = _monotonic()
        for pipe in self._pipes.values():
            pipe.leave(now)
        deadline = now + _LEAVE_SECONDS
        pipes = [*self._pipes.values(), *self._leaving]
        while (now := _monotonic()) < deadline and not all(pipe.done for pipe in pipes):
            _wait([fd for pipe in pipes if (fd := pipe.fd) is not None], min(_SETTLE_SECONDS, deadline - now))
            for pipe in pipes:
                pipe.turn(now)
        for pipe in pipes:
            pipe.close(now)
            self._gather_lost(pipe)
        self._flush()
        for inlet in self._inlets:
            inlet.credit(small=True)
            inlet.close()
        self._context.term()

    # processes that user code forks: ZeroMQ's sockets are the parent's alone

    def _before_fork(self) -> None:
        for reach in [reach for inlet in self._inlets for reach in inlet.reaches()]:
            reach.before_fork()

    def _after_fork(self, *, child: bool) -> None:
        for reach in [reach for inlet in self._inlets for reach in inlet.reaches()]:
            reach.after_fork(child=child)


def _args(pipe: sockets.Pipe | Own, value: bytes, whole: Content | None) -> bytes | Place:
    """The arguments of a call whose only one is `value`, or `whole` in its place, as they go into that pipe."""
    if whole is None and len(value) <= SHARED_BYTES:
        return arguments_of(value)
    parts: Sequence[Buffer] = (value,) if whole is None else whole.parts
    if isinstance(pipe, Own):
        return b"".join((_BEFORE, *parts, _AFTER))
    place = placed(pipe, parts)
    return arguments_of(value) if place is None else place


def placed(pipe: sockets.Pipe, parts: Sequence[Buffer]) -> Place | None:
    """A value, encoded, as the only argument of a call, in memory that the receiver sees; None where that cannot be."""
    *before, last = parts
    # of an array in parts, the last one is its elements
    lead = sum(map(len, before)) or elements_at(last)
    return pipe.place((_BEFORE, *parts, _AFTER), len(_BEFORE) + lead)


def _windows(edge: Edge) -> list[Window]:
    return [peer.window for _, peer in edge.peers]


def _wait(descriptors: Sequence[int], seconds: float | None) -> set[int]:
    """Which of them have something to read, after at most so many seconds."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(None if seconds is None else max(0.0, seconds) * 1000)}
