"""The agent's side of the pipes between its workers: who may use which, and what came through. Main thread only."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pyfi_hpc.agent.dispatch import Dispatcher
from pyfi_hpc.agent.keeper import View
from pyfi_hpc.agent.lots import Finished, Served
from pyfi_hpc.agent.pipes import outlets, rendezvous, segments
from pyfi_hpc.agent.pipes.members import Member
from pyfi_hpc.agent.pipes.outlets import Offers
from pyfi_hpc.agent.pipes.segments import News, Segment, Segments, Standing
from pyfi_hpc.agent.process import WorkerProcess
from pyfi_hpc.logs import logger
from pyfi_hpc.model.status import Cause
from pyfi_hpc.wire.frames import NO_LINK, Far, Link, Listen, Listening, Outlets, Peer, Untaken

if TYPE_CHECKING:
    from pyfi_hpc.agent.pipes.between import Between
    from pyfi_hpc.agent.pipes.siblings import Siblings

log = logger("pyfi.agent")

#: How often it is thought about which pipes there may be.
OFFER_SECONDS = 0.2
#: How long an edge goes through the broker after its pipe was too slow; doubled where it is so again soon.
REST_SECONDS, LONGEST_REST_SECONDS = 2.0, 30.0
_SECRET_BYTES = 32


class Piping:
    """Every pipe between this agent's workers."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        put: Callable[..., None],
        sent: Callable[[WorkerProcess], None],
        state: Path,
        siblings: Siblings | None = None,
    ) -> None:
        """`put` hands a job to the committer; `sent` is told of a process that frames wait for; `state` is the
        agent's own folder; `siblings` are there where pipes may lead to other nodes."""
        self._dispatcher, self._put, self._sent, self._state = dispatcher, put, sent, state
        self._segments = Segments(dispatcher.passing, lambda identity: self._sockets.get(identity))
        self._sockets: dict[bytes, Served] = {}
        self._view: View | None = None
        self._open = False
        self._members: dict[int, Member] = {}
        #: made when the first pipe is
        self._folder: Path | None = None
        self._secret = secrets.token_bytes(_SECRET_BYTES)
        self._offer_at = self._sweep_at = 0.0
        #: edge -> until when, and how long that was
        self._resting: dict[bytes, tuple[float, float]] = {}
        #: sockets whose calls were seen to yield
        self._yielding: set[bytes] = set()
        #: workers that were found stopped
        self._stalled: set[int] = set()
        self._between: Between | None = None
        if siblings is not None:
            # ZeroMQ is loaded where it is needed: few agents have pipes to other nodes
            from pyfi_hpc.agent.pipes.between import Between

            known = dispatcher.seconds
            self._between = Between(siblings, self._segments, self._members, dispatcher.learn, known, self._send)

    # who may

    def follow(self, view: View, *, open_for_work: bool) -> None:
        """The database's wishes have been read."""
        self._view, self._sockets, self._open = view, view.sockets, open_for_work
        self._offer_at = 0.0
        if self._between is not None:
            self._tell(self._between.follow(view))

    def join(self, process: WorkerProcess, processor: bytes, worker: bytes) -> None:
        """A worker is ready."""
        self._members[process.number] = Member(process, processor, worker)
        self._segments.join(process.number, segments.Peer(processor, worker))
        self._offer_at = 0.0

    def leave(self, number: int) -> None:
        """A worker is to finish what it has: nobody passes anything on to it any more."""
        if number in self._members:
            self._members[number].open = False
            self._offer_at = 0.0

    def listening(self, number: int, frame: Listening) -> None:
        """A worker says where it listens to other nodes."""
        if self._between is not None:
            self._between.listening(number, frame)

    def close(self) -> None:
        """No worker passes anything on any more."""
        self._open = False
        self._offer()

    @property
    def waits(self) -> bool:
        """Whether workers of other nodes have calls that we count."""
        return self._between is not None and self._between.waits

    def give_up(self) -> None:
        """Wait for no other node any more."""
        if self._between is not None:
            self._tell(self._between.give_up())

    def remove(self) -> None:
        """The agent ends: no folder of its own is left, nor of one that died before it."""
        if self._between is not None:
            self._between.close()
        rendezvous.remove(self._folder or rendezvous.place(self._state))

    def turn(self, now: float) -> None:
        """Close what is overdue; tell workers of pipes that came or went."""
        if overdue := self._segments.overdue(now, self._standing):
            for news in overdue:
                self._rest(news, now)
            self._put(*overdue)
        if self._between is not None:
            self._tell(self._between.turn(now))
            if self._between.changed:
                self._between.changed, self._offer_at = False, now
        if now >= self._sweep_at:
            self._sweep_at = now + segments.MOST_SECONDS
            self._segments.sweep()
        if now >= self._offer_at:
            self._offer_at = now + OFFER_SECONDS
            self._offer()

    def hear(self) -> None:
        """Other agents may have said something."""
        if self._between is not None:
            self._tell(self._between.hear())

    @property
    def unknown(self) -> bool:
        """Whether another agent wants to come in that may be on record by now."""
        return self._between is not None and self._between.unknown

    def _rest(self, news: News, now: float) -> None:
        for each in news.pending if isinstance(news, Segment) else ():
            until, last = self._resting.get(each.route.edge, (0.0, REST_SECONDS / 2))
            if now >= until:
                seconds = min(2 * last, LONGEST_REST_SECONDS)
                self._resting[each.route.edge] = now + seconds, seconds

    def _offer(self) -> None:
        if self._view is None or not any(socket.routes for socket in self._sockets.values()):
            return
        now = time.monotonic()
        self._resting = {edge: rest for edge, rest in self._resting.items() if rest[0] + 2 * rest[1] > now}
        resting = {edge for edge, (until, _) in self._resting.items() if until > now}
        self._stalled = {n for n in self._stalled if n in self._members and self._members[n].process.stalled}
        view = self._view
        found = Offers(
            self._sockets,
            view.programs,
            self._peers(),
            self._seconds,
            view.by_broker,
            resting,
            self._yielding,
            {} if self._between is None else self._between.abroad.peers(),
        ).pipes()
        wanted = {
            number: outlets.outlets(found.get(member.processor, ()) if self._open else (), number, self._peer)
            for number, member in self._members.items()
        }
        self._listen({peer.number for told in wanted.values() for outlet in told for peer in outlet.peers if peer.path})
        for number, told in wanted.items():
            member = self._members[number]
            if told != member.told:
                member.told = told
                self._send(member, Outlets(self._secret, told))

    def _peers(self) -> dict[bytes, tuple[int, ...]]:
        peers: dict[bytes, tuple[int, ...]] = {}
        for number, member in self._members.items():
            if member.open and number not in self._stalled:
                peers[member.processor] = (*peers.get(member.processor, ()), number)
        return peers

    def _seconds(self, processor: bytes, task: str) -> float | None:
        """How long a call of that task takes, here or elsewhere."""
        own = self._dispatcher.seconds(processor, task)
        return own if own is not None or self._between is None else self._between.abroad.seconds(processor, task)

    def _peer(self, number: int) -> Peer:
        if number < 0 and self._between is not None:
            return self._between.abroad.peer(number)
        return Peer(number, self._path(number))

    def _path(self, number: int) -> str:
        if self._folder is None:
            self._folder = rendezvous.fresh(self._state)
        return str(self._folder / str(number))

    def _listen(self, wanted: set[int]) -> None:
        """Have those listen that others may pass something on to."""
        for number in wanted & self._members.keys():
            member = self._members[number]
            if not member.listens:
                member.listens = True
                self._send(member, Listen(self._path(number), self._secret))

    def _send(self, member: Member, frame: Listen | Outlets | Far) -> None:
        member.process.send(frame)
        self._sent(member.process)

    # what came through

    def yields(self, socket: bytes) -> None:
        """A call of this socket, which came from the broker, has yielded items."""
        self._yielding.add(socket)

    def heads(self, finished: Iterable[Finished]) -> None:
        """Members are finished, and their worker passed them on."""
        now = time.monotonic()
        self._tell([self._segments.head(done, now) for done in finished])

    def links(self, number: int, reports: Iterable[tuple[Link, Cause | None]]) -> None:
        """Calls that came by pipes are finished, by worker `number`; a cause where the agent knows better why."""
        now, between = time.monotonic(), self._between
        if between is not None:
            found = list(reports)
            between.report(number, [each for each in found if not between.is_ours(each[0].token)])
            reports = [each for each in found if between.is_ours(each[0].token)]
        self._tell([self._segments.link(number, link, now, cause) for link, cause in reports])

    def untaken(self, frame: Untaken) -> None:
        """Calls that went into a pipe and were not taken."""
        now, between, calls = time.monotonic(), self._between, frame.calls
        if between is not None:
            between.untaken([call for call in calls if not between.is_ours(call[0])])
            calls = tuple(call for call in calls if between.is_ours(call[0]))
        self._tell([self._segments.untaken(*call, now) for call in calls])

    def died(self, number: int) -> None:
        """A worker is gone."""
        self._members.pop(number, None)
        self._offer_at = 0.0
        self._tell(self._segments.died(number, time.monotonic()))

    def hurry(self, token: int) -> None:
        """The delivery of this lot grows old."""
        self._tell(self._segments.hurry([token], time.monotonic()))

    def _tell(self, news: Iterable[News | None]) -> None:
        if known := [each for each in news if each is not None]:
            self._put(*known)

    # asked by others

    def has(self, number: int) -> bool:
        """Whether worker `number` has calls that came by pipes."""
        return self._segments.has(number)

    def socket_of(self, token: int, index: int, identity: bytes) -> Served | None:
        """The socket of a call that came by a pipe; None where that is not known."""
        return self._segments.socket_of(token, index, identity)

    def served(self, socket: bytes) -> Served | None:
        """The socket of that id."""
        return self._sockets.get(socket)

    def calls(self) -> list[tuple[str, bytes]]:
        """Owner and id of every call that a worker has by a pipe, and of those of other nodes that run here."""
        foreign = () if self._between is None else self._between.running()
        return [
            *self._segments.calls(),
            *((socket.owner, identity) for _, identity, socket in foreign if socket is not None),
        ]

    def _standing(self, number: int, identity: bytes) -> Standing:
        if number < 0 and self._between is not None:
            return self._between.abroad.standing(number, identity, time.monotonic())
        member = self._members.get(number)
        if member is None:
            return Standing.STALLED
        if number in self._stalled or member.process.stalled:
            self._stalled.add(number)
            self._offer_at = 0.0
            return Standing.STALLED
        running = member.process.progress.link
        return Standing.RUNS if running == identity != NO_LINK else Standing.WAITS
