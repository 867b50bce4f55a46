"""Pipes between nodes of one job, as an agent sees them: who may call whose workers, and what came of it.

As a guest it counts the calls that its workers have passed on to other nodes, as any that go by pipes: their workers
are members of its segments by the numbers of `abroad`. As a host it keeps no account: it says which workers take
calls, and hands on what they report to the guest that each call's token names.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from pyfi_hpc.agent.keeper import View
from pyfi_hpc.agent.lots import Served
from pyfi_hpc.agent.pipes.abroad import Abroad
from pyfi_hpc.agent.pipes.greetings import Answer, Answers, Beat, Offered, Roster
from pyfi_hpc.agent.pipes.members import Member
from pyfi_hpc.agent.pipes.segments import News, Segments
from pyfi_hpc.agent.pipes.siblings import BEAT_SECONDS, Guest, Lost, Siblings, Word
from pyfi_hpc.model.status import Cause
from pyfi_hpc.wire.frames import NO_LINK, Far, Link, Listening, Untaken, agent_of


class Between:
    """Belongs to the agent's main thread; news go to whoever asks."""

    def __init__(
        self,
        siblings: Siblings,
        segments: Segments,
        members: Mapping[int, Member],
        learn: Callable[[bytes, str, list[float]], None],
        seconds: Callable[[bytes, str], float | None],
        send: Callable[[Member, Far], None],
    ) -> None:
        """`learn` is told how long calls of a task took, and `seconds` knows; `send` hands a frame to a member."""
        self._siblings, self._segments, self._members = siblings, segments, members
        self._learn, self._seconds, self._send = learn, seconds, send
        self.abroad = Abroad()
        self._sockets: Mapping[bytes, Served] = {}
        self._any = False
        self._beat_at = 0.0
        #: which pipes there may be has changed since this was last set to False
        self.changed = False

    # who there is

    def follow(self, view: View) -> list[News]:
        """The database's wishes have been read."""
        self._sockets, self._any = view.sockets, bool(view.siblings)
        return self._heard(self._siblings.follow(view.siblings, self._targets()))

    def _targets(self) -> Iterator[bytes]:
        """Processors that results of our own workers flow to, and that no (other) worker of ours runs."""
        own = Counter(member.processor for member in self._members.values() if member.open)
        for socket in self._sockets.values():
            for route in socket.routes if own[socket.processor] else ():
                target = self._sockets.get(route.socket)
                if target is not None and own[target.processor] <= (target.processor == socket.processor):
                    yield target.processor

    @property
    def unknown(self) -> bool:
        """Whether somebody wants to come in who may be on record by now."""
        return self._siblings.unknown

    def turn(self, now: float) -> list[News]:
        """Be heard of, and notice who is not; `now` is monotonic."""
        news = self._heard(self._siblings.turn(now)) + self.hear()
        self._invite()
        self._tell_rosters()
        if now >= self._beat_at:
            self._beat_at = now + BEAT_SECONDS
            self._tell_beats()
        return news

    def hear(self) -> list[News]:
        """Take what other agents have said."""
        news = self._heard(self._siblings.hear())
        if self._siblings.guests_changed:
            self._siblings.guests_changed = False
            self._invite()
        return news

    # as a guest

    def _heard(self, words: Iterable[Word]) -> list[News]:
        news: list[News | None] = []
        now = time.monotonic()
        for host, word in words:
            match word:
                case Roster():
                    joined, gone = self.abroad.rostered(host, word, now)
                    for number, peer in joined:
                        self._segments.join(number, peer)
                    news += self._gone(gone, now)
                    self.changed = True
                case Lost():
                    news += self._gone(self.abroad.lost(host), now)
                    self.changed = True
                case Beat():
                    self.abroad.beat(host, word, now)
                case Answers():
                    news += self._answered(host, word, now)
                case Untaken():
                    calls = [call for call in word.calls if agent_of(call[0]) == self._siblings.number]
                    news += [self._segments.untaken(*call, now) for call in calls]
        return [each for each in news if each is not None]

    def _gone(self, numbers: Iterable[int], now: float) -> list[News]:
        return [each for number in numbers for each in self._segments.died(number, now)]

    def _answered(self, host: int, word: Answers, now: float) -> Iterator[News | None]:
        number = self.abroad.number(host, word.number)
        for link, cause in ((each.link, each.cause) for each in word.answers):
            if number is not None and agent_of(link.token) == self._siblings.number:
                socket = self._segments.socket_of(link.token, link.index, link.id)
                if socket is not None:
                    self._learn(socket.processor, socket.task, [max(0.0, link.item.ended - link.item.started)])
                yield self._segments.link(number, self.abroad.translated(host, link), now, cause)

    # as a host

    def listening(self, number: int, frame: Listening) -> None:
        """A worker says where it listens, and to whom."""
        if number in self._members:
            self._members[number].listening = frame

    def is_ours(self, token: int) -> bool:
        """Whether we count that call."""
        return agent_of(token) == self._siblings.number

    def report(self, number: int, reports: Iterable[tuple[Link, Cause | None]]) -> None:
        """Calls of guests are finished, by our worker `number`."""
        answers: dict[int, list[Answer]] = {}
        for link, cause in reports:
            answers.setdefault(agent_of(link.token), []).append(Answer(link, cause))
        for agent, found in answers.items():
            self._siblings.answer(agent, number, found)

    def untaken(self, calls: Iterable[tuple[int, int, bytes]]) -> None:
        """Calls of guests went into a pipe of this node and were not taken."""
        for call in calls:
            if (guest := self._siblings.guest(agent_of(call[0]))) is not None:
                self._siblings.tell(guest, Untaken((call,)))

    def running(self) -> Iterator[tuple[int, bytes, Served | None]]:
        """The calls of guests that run here: token, id, socket."""
        for member in self._members.values():
            token, index, _, link = member.process.progress.running()
            if index >= 0 and link != NO_LINK and not self.is_ours(token):
                yield token, link, self._sockets.get(member.process.progress.socket)

    def _invite(self) -> None:
        """Have those workers take part that calls go to or come from."""
        if not (self._any or self._siblings.guests):
            return
        guests = tuple(sorted((guest.key, guest.agent) for guest in self._siblings.guests))
        keys, flowing = self._siblings.workers, self._flowing()
        for member in self._members.values():
            frame = Far(self._siblings.number, keys.public, keys.secret, self._siblings.address, guests)
            if member.processor in flowing and member.far != frame:
                member.far = frame
                self._send(member, frame)

    def _flowing(self) -> set[bytes]:
        routed = [socket for socket in self._sockets.values() if socket.routes]
        targets = [self._sockets.get(route.socket) for socket in routed for route in socket.routes]
        return {socket.processor for socket in [*routed, *targets] if socket is not None}

    def _tell_rosters(self) -> None:
        for guest in self._siblings.guests:
            roster = Roster(self._siblings.workers.public, tuple(self._offered(guest)))
            if roster != guest.told:
                guest.told = roster
                self._siblings.tell(guest, roster)

    def _offered(self, guest: Guest) -> Iterator[Offered]:
        for number, member in self._members.items():
            found = member.listening
            takes = member.open and found is not None and guest.agent in found.guests
            yield Offered(number, member.row, member.processor, found.endpoint if takes and found else "")

    def _tell_beats(self) -> None:
        if not self._siblings.guests:
            return
        running = list(self.running())
        stalled = tuple(number for number, member in self._members.items() if member.process.stalled)
        code = {(socket.processor, socket.task) for socket in self._sockets.values()}
        seconds = {each: found for each in code if (found := self._seconds(*each)) is not None}
        for guest in self._siblings.guests:
            own = tuple(identity for token, identity, _ in running if agent_of(token) == guest.agent)
            self._siblings.tell(guest, Beat(own, stalled, seconds))

    # the end

    @property
    def waits(self) -> bool:
        """Whether workers of other nodes have calls of ours."""
        return any(self._segments.has(number) for number in self.abroad.numbers)

    def give_up(self) -> list[News]:
        """Wait for nobody any more: what other nodes have of ours goes by the broker."""
        return self._heard([(host, Lost()) for host in self.abroad.hosts])

    def close(self) -> None:
        """The end of all connections."""
        self._siblings.close()
