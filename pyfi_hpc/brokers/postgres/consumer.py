"""Consuming: claims for all subscriptions of a broker, on one session.

A claim names the session's incarnation, a row of `broker_consumer` with a lease and an advisory lock. Messages come
back when that row goes: the session ended (its lock is free), the lease lapsed, or the consumer left by itself.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from psycopg2 import sql as identifiers
from psycopg2.extras import Json

from pyfi_hpc.brokers.base import DELIVERY_LIMIT, Delivery, Reason, dead_queue, is_single, nothing
from pyfi_hpc.brokers.letters import notes
from pyfi_hpc.brokers.postgres import queues, sql
from pyfi_hpc.brokers.postgres.names import queue_channel
from pyfi_hpc.brokers.postgres.session import Session, SessionLost
from pyfi_hpc.db import binary
from pyfi_hpc.logs import logger

#: A third of the lease.
RENEW_SECONDS = 3.0
#: Bounds what one claim brings into memory.
CLAIM_MESSAGES = 100
#: Where messages have so many bytes, they are read as they are, not as text of twice the length; for smaller ones
#: libpq's functions, called for each field, cost more than psycopg2 does.
LARGE_BYTES = 8 * 2**10

log = logger()


class Row(NamedTuple):
    """What a claim brings."""

    seq: int
    queue: str
    body: bytes | memoryview
    content_type: str
    headers: dict[str, object]
    delivery_count: int


class PostgresDelivery:
    """A message in hands of one incarnation."""

    content_encoding: str | None = None
    __slots__ = (
        "_claim",
        "_settle",
        "body",
        "content_type",
        "delivery_count",
        "headers",
        "queue",
        "received",
        "redelivered",
    )

    def __init__(self, row: Row, claim: Claim, settle: Callable[[Claim], None]) -> None:
        self._claim, self._settle = claim, settle
        self.queue, self.body = row.queue, bytes(row.body)
        self.content_type: str | None = row.content_type
        self.headers: Mapping[str, object] = row.headers
        self.delivery_count, self.redelivered = row.delivery_count, row.delivery_count > 0
        self.received = time.monotonic()

    def ack(self) -> None:
        """The message is settled; dropped where another incarnation has it now."""
        self._settle(self._claim)

    def held(self) -> bool:
        """False once the session was lost, or the subscription dropped."""
        return self._claim.seq in self._claim.subscription.unacked


class PostgresSubscription:
    """One consumer of one queue. Its wishes are read at the session's next turn."""

    def __init__(
        self,
        queue: str,
        prefetch: int,
        deliver: Callable[[Delivery], None],
        all_here: Callable[[], None],
        ring: Callable[[], None],
    ) -> None:
        self.queue, self.prefetch, self.deliver, self.all_here, self._ring = queue, prefetch, deliver, all_here, ring
        self.active, self.dropped = True, False
        #: seqs in hands, touched by the session's thread only
        self.unacked: set[int] = set()

    def free(self) -> int:
        """How many more messages it may be given."""
        return self.prefetch - len(self.unacked) if self.active else 0

    def cancel(self) -> None:
        """Take nothing new."""
        self.active = False
        self._ring()

    def resize(self, prefetch: int) -> None:
        """Hold at most `prefetch`."""
        self.prefetch = prefetch
        self._ring()

    def drop(self) -> None:
        """Cancel, and give back what is in hands."""
        self.active, self.dropped = False, True
        self._ring()


class Claim(NamedTuple):
    """Which incarnation holds which message for whom."""

    incarnation: int
    seq: int
    subscription: PostgresSubscription


class Consumer:
    """Claims, delivers and settles."""

    #: Sessions that died are looked for this often; messages are announced.
    pause: float | None = 1.0

    def __init__(self, uri: str) -> None:
        self._lock = threading.Lock()
        self._subscriptions: list[PostgresSubscription] = []
        self._acks: deque[Claim] = deque()
        self._me = self._previous = 0
        self._cursor: Any = None
        self._listening: dict[str, str] = {}
        self._enrolled: list[str] = []
        #: single queues whose active consumer this is
        self._singles: set[str] = set()
        #: queues that may have messages that nobody claimed yet
        self._hungry: set[str] = set()
        #: the last number claimed in a queue; nothing is ready before it unless somebody said so
        self._after: dict[str, int] = {}
        self._renewed = self._swept = 0.0
        #: bytes of a message, by the newest claim
        self._size = 0
        self._session = Session(uri, "consumer", self)

    def add(
        self, queue: str, prefetch: int, deliver: Callable[[Delivery], None], all_here: Callable[[], None] = nothing
    ) -> PostgresSubscription:
        """A subscription that is served from the next turn on."""
        subscription = PostgresSubscription(queue, prefetch, deliver, all_here, self._session.ring)
        with self._lock:
            self._subscriptions.append(subscription)
        self._session.ring()
        return subscription

    def close(self) -> None:
        """Settle what was acked, give back the rest, end."""
        self._session.close()

    def _settled(self, claim: Claim) -> None:
        self._acks.append(claim)
        self._session.ring()

    def opened(self, cursor: Any) -> None:
        """Become a new incarnation; whatever the old one held is not ours any more."""
        cursor.execute("SET synchronous_commit TO off")  # a lost ack is a redelivery
        cursor.execute(sql.STEADY_PLANS)
        cursor.execute(f"{sql.CLAIM.prepare}; {sql.SETTLE.prepare}")
        cursor.execute(sql.ENTER, {"queues": [], "space": sql.LOCK_SPACE})
        self._previous, self._me = self._me, cursor.fetchone()[0]
        self._cursor, self._listening, self._enrolled = cursor, {}, []
        self._renewed, self._swept = time.monotonic(), 0.0

    def lost(self) -> None:
        """Nothing is in hands any more."""
        for subscription in self._all():
            subscription.unacked.clear()

    def heard(self, channel: str, payload: str) -> None:
        """A queue has messages, the first of them numbered `payload`; without a number they may be anywhere."""
        if queue := self._listening.get(channel):
            first = int(payload) if payload.isdecimal() else 0
            self._after[queue] = min(self._after.get(queue, 0), first - 1)
            self._hungry.add(queue)

    def turn(self) -> bool:
        """Acks first, since they make room."""
        self._settle()
        self._give_back()
        self._enrol()
        self._renew()
        self._sweep()
        return self._claim()

    def ending(self) -> None:
        """Leave: acks count, everything else is free at once."""
        self._settle()
        self._cursor.execute(sql.LEAVE, {"me": self._me})
        self._cursor.execute(sql.FREE + "; COMMIT")

    def _all(self) -> list[PostgresSubscription]:
        with self._lock:
            return list(self._subscriptions)

    def _settle(self) -> None:
        claims = [self._acks.popleft() for _ in range(len(self._acks))]
        mine = [claim for claim in claims if claim.incarnation == self._me]
        if mine:
            self._cursor.execute(sql.SETTLE.execute, {"seqs": [claim.seq for claim in mine], "me": self._me})
        for claim in mine:
            claim.subscription.unacked.discard(claim.seq)

    def _give_back(self) -> None:
        """What dropped subscriptions hold is free; those that are over are forgotten."""
        for subscription in [found for found in self._all() if not found.active]:
            if subscription.dropped and subscription.unacked:
                self._cursor.execute(sql.GIVE_BACK, {"seqs": sorted(subscription.unacked), "me": self._me})
                subscription.unacked.clear()
            if not subscription.unacked:
                with self._lock:
                    self._subscriptions.remove(subscription)

    def _enrol(self) -> None:
        """Listen for the queues of new subscriptions, and let `depth` see who consumes."""
        names = sorted(subscription.queue for subscription in self._all() if subscription.active)
        if names == self._enrolled:
            return
        for name in set(names) - set(self._listening.values()):
            queues.ensure_dead_of(self._cursor, name)
            channel = queue_channel(name)
            self._cursor.execute(identifiers.SQL("LISTEN {}").format(identifiers.Identifier(channel)))
            self._listening[channel] = name
        self._hungry.update(names)
        self._enrolled = names
        self._renewed = 0.0
        self._activate()

    def _renew(self) -> None:
        if time.monotonic() - self._renewed < RENEW_SECONDS:
            return
        self._cursor.execute(sql.RENEW, {"me": self._me, "queues": self._enrolled})
        if self._cursor.rowcount == 0:
            raise SessionLost("the lease lapsed; what was in hands belongs to others now")
        self._renewed = time.monotonic()

    def _sweep(self) -> None:
        """Once a second: free what dead consumers hold, and look into every queue."""
        if self.pause is not None and time.monotonic() - self._swept < self.pause:
            return
        self._cursor.execute(sql.SWEEP, {"me": self._me, "previous": self._previous, "space": sql.LOCK_SPACE})
        self._cursor.execute((sql.FREE if self._cursor.rowcount else "SELECT") + "; COMMIT")
        self._swept = time.monotonic()
        self._hungry.update(self._enrolled)
        self._after.clear()
        self._activate()

    def _activate(self) -> None:
        """Single queues that nobody serves are ours."""
        wanted = [name for name in self._enrolled if is_single(name)]
        if wanted or self._singles:
            self._cursor.execute(sql.ACTIVATE, {"me": self._me, "queues": wanted})
            self._singles = {name for (name,) in self._cursor.fetchall()}

    def _claim(self) -> bool:
        """Take what there is room for; True when something was taken."""
        wanted = Counter[str]()
        for subscription in self._all():
            if subscription.queue in self._hungry and subscription.free() > 0:
                wanted[subscription.queue] += subscription.free()
        for name in self._singles & wanted.keys():
            wanted[name] = 1
            if any(found.unacked for found in self._all() if found.queue == name):
                del wanted[name]  # it stays hungry: the ack of what is in hands lets it go on
        if not wanted:
            return False
        free = [min(number, CLAIM_MESSAGES) for number in wanted.values()]
        # what was given back comes first, whether we heard of it yet or not
        after = [0 if name in self._singles else self._after.get(name, 0) for name in wanted]
        rows = sorted(self._claimed(list(wanted), free, after))
        taken = Counter(row.queue for row in rows)
        self._hungry -= {name for name, most in zip(wanted, free, strict=True) if taken[name] < most}
        for row in rows:
            self._after[row.queue] = row.seq
            self._hand_out(row)
        for subscription in self._all() if rows else ():
            if subscription.queue in taken:
                _guarded(subscription.all_here, subscription.queue)
        return bool(rows)

    def _claimed(self, names: list[str], free: list[int], after: list[int]) -> list[Row]:
        """At most `free` messages of each queue that is named, none of them before number `after`."""
        if self._size < LARGE_BYTES or (rows := self._claimed_raw(names, free, after)) is None:
            self._cursor.execute(sql.CLAIM.execute, {"me": self._me, "names": names, "free": free, "after": after})
            rows = list(itertools.starmap(Row, self._cursor.fetchall()))
        if rows:
            self._size = sum([len(row.body) for row in rows]) // len(rows)
        return rows

    def _claimed_raw(self, names: list[str], free: list[int], after: list[int]) -> list[Row] | None:
        """The same in Postgres' own format; None where that cannot be had."""
        parameters = [binary.texts(names), binary.integers(free), binary.bigints(after), binary.integer(self._me)]
        if (found := binary.fetch(self._cursor.connection, sql.CLAIM.name, parameters)) is None:
            return None
        # what was announced meanwhile has been read already, behind psycopg2's back
        self._cursor.connection.poll()
        return [_row(*fields) for fields in found]

    def _hand_out(self, row: Row) -> None:
        if row.delivery_count > DELIVERY_LIMIT and not row.queue.startswith(dead_queue("")):
            self._set_aside(row)
            return
        takers = [found for found in self._all() if found.queue == row.queue and found.free() > 0]
        if not takers:  # cancelled or made smaller meanwhile
            self._cursor.execute(sql.GIVE_BACK, {"seqs": [row.seq], "me": self._me})
            return
        taker = min(takers, key=lambda found: len(found.unacked))
        taker.unacked.add(row.seq)
        delivery = PostgresDelivery(row, Claim(self._me, row.seq, taker), self._settled)
        _guarded(partial(taker.deliver, delivery), row.queue)

    def _set_aside(self, row: Row) -> None:
        self._cursor.execute(sql.QUEUE, {"name": row.queue})
        for network, exchange, key in self._cursor.fetchall():
            why = notes(exchange, key, Reason.DELIVERY_LIMIT, f"it came back {row.delivery_count} times")
            queues.ensure_dead_of(self._cursor, dead_queue(network))
            arguments = {"dead": dead_queue(network), "seq": row.seq, "me": self._me, "notes": Json(why)}
            self._cursor.execute(sql.SET_ASIDE, arguments)


def _row(seq: Any, queue: Any, body: Any, content_type: Any, headers: Any, count: Any) -> Row:
    """From Postgres' own format."""
    number, times = int.from_bytes(seq, "big"), int.from_bytes(count, "big")
    return Row(number, queue.decode(), body, content_type.decode(), json.loads(headers[1:]), times)


def _guarded(callback: Callable[[], None], queue: str) -> None:
    try:
        callback()
    except Exception:
        log.exception("a consumer's callback failed", queue=queue)
