"""Waiting for outcomes: replies are hints, the rows are the truth.

A reply settles its futures at once. Because replies may be lost, one thread also asks the database for what has been
pending for a moment: soon at first, then less and less often while replies do come. It spends a small part of its time
on that, and calls that are answered faster never wake it.

A reply names an id, and does not say of which call. That is all one where the client made the id; where a caller chose
it, the call may be another one, so that a reply is only the sign to look into the record, which tells.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

import msgspec

from pyfi_hpc.client import rows
from pyfi_hpc.client.futures import Future
from pyfi_hpc.client.link import Link
from pyfi_hpc.client.notices import Silence
from pyfi_hpc.client.rows import Row
from pyfi_hpc.client.unread import Unread
from pyfi_hpc.errors import BadInput, DatabaseUnavailable, PyfiError
from pyfi_hpc.logs import logger
from pyfi_hpc.wire.ids import id_text
from pyfi_hpc.wire.messages import Answer, Kind, decode_reply

FIRST_SECONDS, LONGEST_SECONDS = 0.05, 2.0
#: At most this share of the time is spent on asking.
_SHARE = 0.05
CHUNK = 1000

log = logger()


class Flow:
    """Replies as they come. While they do, a call made after those that they answer waits its turn: only one that was
    overtaken may have lost its reply, or, once in a while, any."""

    def __init__(self) -> None:
        self._reached = self._all_at = 0.0
        self._flows = False

    def reply(self, made: float) -> None:
        """One came, for a call made then (on the monotonic clock, as all times here)."""
        self._reached, self._flows = max(self._reached, made), True

    def late(self, now: float) -> float:
        """Calls made up to then are to be asked about; asked once for each look."""
        old, flows = now - FIRST_SECONDS, self._flows
        self._flows = False
        if flows and now < self._all_at:
            return min(old, self._reached - FIRST_SECONDS)
        self._all_at = now + LONGEST_SECONDS
        return old


class Waiter:
    """The futures of one session that are not done, by id; the same id may have several."""

    def __init__(
        self,
        link: Link,
        owner: str,
        learn: Callable[[list[Future]], None],
        silence: Silence | None = None,
    ) -> None:
        """`learn` is told which futures a reply has just settled; it must not wait for anything. `silence` tells people
        of a database that does not answer."""
        self._silence = silence or Silence("", lambda _: None)
        self._link, self._owner, self._learn = link, owner, learn
        self.unread = Unread()
        self._news = threading.Condition()
        self._pending: dict[bytes, Future] = {}
        #: futures whose id was pending already
        self._twins: dict[bytes, list[Future]] = {}
        #: ids of which a reply may have come before they were waited for here
        self._unsure: dict[bytes, None] = {}
        self._interval, self._flow = FIRST_SECONDS, Flow()
        #: when to ask about what is old, on the monotonic clock
        self._due = 0.0
        #: some ids here are their callers' own; those of them that were replied to
        self._chosen = False
        self._replied: dict[bytes, None] = {}
        #: the thread waits until it is told that there is something to wait for
        self._asleep = False
        self._closing = False
        self._thread: threading.Thread | None = None

    def watch(self, futures: Iterable[Future]) -> None:
        """Have these settled when their outcomes come."""
        with self._news:
            was_empty = not self._pending
            for future in futures:
                if self._pending.setdefault(future.identity, future) is not future:
                    self._twins.setdefault(future.identity, []).append(future)
            if was_empty and self._pending:
                self._start()
                if self._asleep or self._interval > FIRST_SECONDS:
                    self._interval = FIRST_SECONDS
                    self._due = time.monotonic() + self._interval
                    self._news.notify()

    def watch_late(self, future: Future) -> None:
        """As `watch`, of a call that may have been replied to before: the record is asked as if no reply came."""
        with self._news:
            self._unsure[future.identity] = None
            self.watch([future])

    def choose(self, future: Future) -> None:
        """The id of this one, which has a digest, is its caller's own: from now on the record tells whose it is.

        Raises:
            BadInput: E_ID_CONFLICT, another call of that id is waited for here.
        """
        with self._news:
            self._chosen = True
            for other in self._waiting(future.identity):
                if other.digest not in (None, future.digest):
                    raise id_conflict(future.identity)

    def _start(self) -> None:
        if self._thread is None and not self._closing:
            self._thread = threading.Thread(target=self._run, name="pyfi-waiter", daemon=True)
            self._thread.start()

    def forget(self, futures: Iterable[Future]) -> None:
        """Nobody waits for these: they were not accepted, or are of no use any more. Others of the same ids are."""
        with self._news:
            for future in futures:
                if future.identity in self._twins or self._pending.get(future.identity) is future:
                    waiting = self._take(future.identity)
                    self._keep(future.identity, [each for each in waiting if each is not future])

    def _keep(self, identity: bytes, futures: list[Future]) -> None:
        """Go on waiting for these: the same call, handed over once more, may well be accepted."""
        if futures:
            self._pending[identity] = futures[0]
        if futures[1:]:
            self._twins[identity] = futures[1:]

    def __len__(self) -> int:
        return len(self._pending)

    def hear(self, body: bytes) -> None:
        """A reply came, on a thread of the broker's."""
        try:
            reply = decode_reply(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            log.warning("a reply that is none was dropped", bytes=len(body))
            return
        with self._news:
            answers = self._certain(reply.answers) if self._chosen else reply.answers
            told = [(future, answer) for answer in answers for future in self._take(answer.id)]
        if bare := [future for future, answer in told if answer.value is None and answer.kind is Kind.VALUE]:
            self.unread.add(bare)
        self._settled([future for future, answer in told if future.settle(answer)])

    def _settled(self, futures: list[Future]) -> None:
        """A reply has settled these."""
        if futures:
            self._flow.reply(futures[-1].made)
            self._learn(futures)

    def _certain(self, answers: Sequence[Answer]) -> list[Answer]:
        """Those that can only be of the calls that wait for them; of the others the record is asked at once."""
        doubtful = {each.id for each in answers if any(future.digest is not None for future in self._waiting(each.id))}
        if doubtful:
            self._replied.update(dict.fromkeys(doubtful))
            self._news.notify()
        return [each for each in answers if each.id not in doubtful]

    def _waiting(self, identity: bytes) -> list[Future]:
        first = self._pending.get(identity)
        return [] if first is None else [first, *self._twins.get(identity, ())]

    def _taken(self, identity: bytes) -> list[Future]:
        with self._news:
            return self._take(identity)

    def _take(self, identity: bytes) -> list[Future]:
        first = self._pending.pop(identity, None)
        self._unsure.pop(identity, None)
        return [] if first is None else [first, *self._twins.pop(identity, ())]

    def close(self) -> list[Future]:
        """End the thread; returns what is still pending."""
        with self._news:
            self._closing = True
            left = [each for identity in list(self._pending) for each in self._take(identity)]
            self._news.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=6.0)
        if self._thread is None or not self._thread.is_alive():
            self._link.close()
        return left

    # the thread

    def _run(self) -> None:
        while not self._closing:
            replied, old = self._next()
            if replied and not self._closing:
                self._settled(self._look(replied))
            if old and not self._closing:
                self._round(old)

    def _next(self) -> tuple[list[bytes], list[bytes]]:
        """Wait; then what was replied to and must be looked up, and what is old, where it is time to ask about that."""
        with self._news:
            if not (self._replied or self._closing):
                self._asleep = not self._pending
                self._news.wait(None if self._asleep else max(0.0, self._due - time.monotonic()))
                self._asleep = False
            replied, self._replied = [*self._replied], {}
            return replied, self._old()

    def _old(self) -> list[bytes]:
        """What has been pending for so long that its reply may be lost."""
        now = time.monotonic()
        if now < self._due:
            return []
        self._due, late = now + self._interval, self._flow.late(now)
        old = [identity for identity, _ in takewhile(lambda each: each[1].made <= late, self._pending.items())]
        unsure = [identity for identity in self._unsure if self._pending[identity].made <= now - FIRST_SECONDS]
        return list(dict.fromkeys(old + unsure)) if unsure else old

    def _round(self, ids: list[bytes]) -> None:
        """Ask about all of `ids`, oldest first."""
        began = time.monotonic()
        found = self._look(ids)
        now = time.monotonic()
        with self._news:
            self._interval = FIRST_SECONDS if found else min(2 * self._interval, LONGEST_SECONDS)
            self._interval = max(self._interval, (now - began) / _SHARE if not found else 0.0)
            self._due = now + self._interval

    def _look(self, ids: list[bytes]) -> list[Future]:
        """Settle those of `ids` that are decided, as far as the database answers; the futures that this settled."""
        found: list[Future] = []
        try:
            with self._silence.asking(len(ids), self._first_made(ids)):
                for start in range(0, len(ids), CHUNK):
                    found += self._ask(ids[start : start + CHUNK])
        except DatabaseUnavailable:
            log.debug("the database is away; waiting goes on")
        except PyfiError as error:
            log.warning("outcomes cannot be read", reason=str(error))
        return found

    def _first_made(self, ids: list[bytes]) -> float:
        first = self._pending.get(ids[0])
        return time.monotonic() if first is None else first.made

    def _ask(self, ids: list[bytes]) -> list[Future]:
        with self._news:
            asked = [identity for identity in ids if identity in self._pending]
        if not asked or self._closing:
            return []
        found = self._link.run(lambda cursor: rows.final(cursor, self._owner, asked), patience=0.0)
        return [future for identity, row in found.items() for future in self._settle(identity, row)]

    def _settle(self, identity: bytes, row: Row) -> list[Future]:
        futures = self._taken(identity)
        for future in futures:
            future.settle(conflict(future, row.digest) or row.answer)
        return futures


def conflict(future: Future, digest: bytes | None) -> PyfiError | None:
    """The error of a future whose chosen id belongs to another call, of that digest; None where it does not."""
    if future.digest is None or digest is None or future.digest == digest:
        return None
    return id_conflict(future.identity)


def id_conflict(identity: bytes) -> BadInput:
    """The error of a call whose id belongs to another one."""
    what = "the id was already used for another call"
    return BadInput.of("E_ID_CONFLICT", "id", id_text(identity), what, cure="let the client choose the id")
