"""Publishing: whatever has queued up goes into the database in one statement, and is confirmed by its commit."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import psycopg2
from psycopg2.errors import DiskFull
from psycopg2.extras import Json

from pyfi_hpc.brokers.base import Confirm, Publication, dead_queue
from pyfi_hpc.brokers.letters import DEAD_EXCHANGE
from pyfi_hpc.brokers.postgres import queues, sql
from pyfi_hpc.brokers.postgres.session import Session
from pyfi_hpc.brokers.refusals import closed, full, no_space, unreachable, unroutable
from pyfi_hpc.db import binary
from pyfi_hpc.logs import logger

#: A batch ends at either; one message alone may be larger.
BATCH_MESSAGES, BATCH_BYTES = 500, 4 << 20
#: Hints that wait while the database is away; older ones are lost.
HINTS = 10_000

Way = tuple[str, str]

#: The statement's parameters, in order, and how each is written.
_FORMS: dict[str, Callable[[Any], bytes]] = {
    "exchanges": binary.texts,
    "keys": binary.texts,
    "counted": binary.booleans,
    "ways": binary.integers,
    "nths": binary.integers,
    "ids": binary.texts,
    "types": binary.texts,
    "headers": binary.documents,
    "bodies": binary.binaries,
}

log = logger()


@dataclass(slots=True)
class Pending:
    """A message without a confirm yet."""

    publication: Publication
    confirm: Confirm

    @property
    def way(self) -> Way:
        """Where it goes."""
        return self.publication.exchange, self.publication.key


@dataclass(slots=True)
class Room:
    """How many messages a queue may take before its length is counted again."""

    left: int = 0
    until: float = field(default=0.0)

    def covers(self, messages: int) -> bool:
        """Whether so many may go without counting; they are then used up."""
        if messages > self.left or time.monotonic() > self.until:
            return False
        self.left -= messages
        return True

    def counted(self, room: int | None, messages: int) -> None:
        """`room` was found; others publish as well, so a quarter of what is left is ours."""
        self.left, self.until = max(0, (room or 0) - messages) // 4, time.monotonic() + 5.0


class Publisher:
    """Sends messages and hints over one session, batch after batch."""

    pause: float | None = None

    def __init__(self, uri: str) -> None:
        self._waiting: deque[Pending] = deque()
        self._batch: list[Pending] = []
        self._hints: deque[tuple[str, str]] = deque(maxlen=HINTS)
        self._rooms: dict[Way, Room] = {}
        #: networks whose dead letters are known to have a queue
        self._dead: set[str] = set()
        self._cursor: Any = None
        self._closed = False
        self._session = Session(uri, "publisher", self)

    @property
    def up(self) -> bool:
        """Whether there is a session."""
        return self._session.up and not self._closed

    def publish(self, publications: Sequence[Publication]) -> list[Confirm]:
        """Queue the messages; they are kept until the database has them."""
        pending = [Pending(each, Confirm()) for each in publications]
        for each in pending:
            each.confirm.set_running_or_notify_cancel()
        self._waiting.extend(pending)
        self._session.ring()
        if self._closed:
            self._refuse_all()
        return [each.confirm for each in pending]

    def notify(self, channel: str, payloads: list[str]) -> None:
        """Send hints, when there is a session."""
        self._hints.extend((channel, payload) for payload in payloads)
        self._session.ring()

    def close(self) -> None:
        """Hand over what can be handed over at once, refuse the rest."""
        self._closed = True
        self._session.close()
        self._refuse_all()

    def _refuse_all(self) -> None:
        while self._waiting:
            try:
                self._waiting.popleft().confirm.set_exception(closed())
            except IndexError:  # another thread was faster
                return

    def opened(self, cursor: Any) -> None:
        """Confirms are given by commits that are on disk, whatever the database's default."""
        cursor.execute("SET synchronous_commit TO on")
        cursor.execute(sql.STEADY_PLANS)
        cursor.execute(f"{sql.PREPARE_PUBLISH}; {sql.NOTIFY.prepare}")
        self._cursor = cursor

    def turn(self) -> bool:
        """Send the hints that wait, then one batch; a batch whose commit was uncertain goes again."""
        self._say()
        self._batch = self._batch or self._next_batch()
        if self._batch:
            self._send(self._batch)
            self._batch = []
        return bool(self._waiting or self._hints)

    def heard(self, channel: str, payload: str) -> None:
        """It listens to nothing."""

    def lost(self) -> None:
        """What is unconfirmed stays in `_batch` and goes again; a closed publisher refuses it."""
        if self._closed:
            for pending in self._batch:
                pending.confirm.set_exception(closed())
            self._batch = []

    def ending(self) -> None:
        """Hand over what still waits."""
        while self.turn():
            pass

    def _say(self) -> None:
        hints = [self._hints.popleft() for _ in range(min(len(self._hints), BATCH_MESSAGES))]
        if hints:
            channels, payloads = zip(*hints, strict=True)
            try:
                self._cursor.execute(sql.NOTIFY.execute, {"channels": list(channels), "payloads": list(payloads)})
            except (psycopg2.DataError, ValueError) as error:
                log.warning("hints were dropped", reason=str(error).strip())

    def _next_batch(self) -> list[Pending]:
        batch: list[Pending] = []
        size = 0
        while self._waiting and len(batch) < BATCH_MESSAGES:
            size += len(self._waiting[0].publication.body)
            if batch and size > BATCH_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _send(self, batch: list[Pending]) -> None:
        try:
            found = self._insert(batch)
        except DiskFull as error:
            for pending in batch:
                pending.confirm.set_exception(no_space(error))
        except (psycopg2.DataError, ValueError) as error:
            self._send_singly(batch, error)
        else:
            self._confirm(batch, found)

    def _send_singly(self, batch: list[Pending], error: Exception) -> None:
        """The database does not take one of the messages, a NUL in its key perhaps: find out which."""
        if len(batch) == 1:
            batch[0].confirm.set_exception(unreachable(error))
            return
        for pending in batch:
            self._send([pending])

    def _insert(self, batch: list[Pending]) -> dict[Way, tuple[str, int | None]]:
        """Insert the batch; (queue name, room) for each way that leads to a queue."""
        ways = {way: number for number, way in enumerate(dict.fromkeys(pending.way for pending in batch), start=1)}
        self._ensure_dead(ways)
        counters = {way: count() for way in ways}
        nths = [next(counters[pending.way]) for pending in batch]
        names = {number: (name, room) for number, name, room in self._placed(self._arguments(batch, ways, nths))}
        return {way: names[number] for way, number in ways.items() if number in names}

    def _placed(self, arguments: dict[str, Any]) -> list[tuple[int, str, int | None]]:
        """Number, queue and room of each way that leads to a queue, the messages being there."""
        rows = binary.query(self._cursor.connection, "publish", [_FORMS[name](arguments[name]) for name in _FORMS])
        if rows is not None:
            return [
                (int(number or 0), name or "", None if room is None else int(room)) for number, name, room, _ in rows
            ]
        headers = [Json(each, dumps=str) for each in arguments["headers"]]
        bodies = [psycopg2.Binary(each) for each in arguments["bodies"]]
        self._cursor.execute(sql.PUBLISH, {**arguments, "headers": headers, "bodies": bodies})
        return [(number, name, room) for number, name, room, _ in self._cursor.fetchall()]

    def _ensure_dead(self, ways: Iterable[Way]) -> None:
        for network in {key for exchange, key in ways if exchange == DEAD_EXCHANGE} - self._dead:
            queues.ensure_dead_of(self._cursor, dead_queue(network))
            self._dead.add(network)

    def _arguments(self, batch: list[Pending], ways: dict[Way, int], nths: list[int]) -> dict[str, Any]:
        totals = dict(zip((pending.way for pending in batch), nths, strict=True))
        publications = [pending.publication for pending in batch]
        return {
            "exchanges": [exchange for exchange, _ in ways],
            "keys": [key for _, key in ways],
            "counted": [not self._room(way).covers(totals[way] + 1) for way in ways],
            "ways": [ways[pending.way] for pending in batch],
            "nths": nths,
            "ids": [publication.message_id for publication in publications],
            "types": [publication.content_type for publication in publications],
            "headers": [json.dumps(dict(publication.headers)) for publication in publications],
            "bodies": [publication.body for publication in publications],
        }

    def _room(self, way: Way) -> Room:
        return self._rooms.setdefault(way, Room())

    def _confirm(self, batch: list[Pending], found: dict[Way, tuple[str, int | None]]) -> None:
        taken: dict[Way, int] = dict.fromkeys(found, 0)
        for pending in batch:
            if pending.way not in found:
                pending.confirm.set_exception(unroutable(*pending.way))
                continue
            name, room = found[pending.way]
            taken[pending.way] += 1
            if room is None or taken[pending.way] <= room:
                pending.confirm.set_result(None)
            else:
                pending.confirm.set_exception(full(name))
        for way, (_, room) in found.items():
            if room is not None:
                self._room(way).counted(room, taken[way])
