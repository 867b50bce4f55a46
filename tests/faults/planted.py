"""Bugs that a careless change could bring, planted one at a time: the checker itself is under test (RELIABILITY 3, L5).

    python -m tests.faults.planted ack-before-commit --host host1

is the real agent with one place of the product replaced; several names are separated by commas. Circumstances are
planted the same way. What lives in clients and brokers is planted into the test's own process by `plant`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import msgspec

from pyfi_hpc.agent import keeper
from pyfi_hpc.agent.commit import chains, verdicts, writing
from pyfi_hpc.agent.commit.chains import Committed
from pyfi_hpc.agent.commit.committer import Committer
from pyfi_hpc.agent.commit.jobs import SetAside
from pyfi_hpc.agent.commit.settling import Settling
from pyfi_hpc.agent.commit.verdicts import Verdict
from pyfi_hpc.agent.lots import Finished, Lot, Served, child_call, lot_of
from pyfi_hpc.agent.main import main as agent
from pyfi_hpc.agent.pipes.segments import Segment, Segments
from pyfi_hpc.brokers.base import Broker, Reason
from pyfi_hpc.brokers.postgres import PostgresBroker
from pyfi_hpc.brokers.rabbitmq import frames
from pyfi_hpc.brokers.rabbitmq.acks import Ack, AckLedger
from pyfi_hpc.brokers.rabbitmq.deliveries import Incarnation, RabbitDelivery
from pyfi_hpc.brokers.rabbitmq.subscription import Consumption
from pyfi_hpc.db import record
from pyfi_hpc.db.record import Cursor, Key, NewHold, NewOutcome
from pyfi_hpc.wire.frames import Link
from pyfi_hpc.wire.ids import child_id
from pyfi_hpc.wire.messages import Route
from tests.support import eventually

#: `setattr`, or the same of a fixture that takes it back.
Patch: TypeAlias = Callable[[Any, str, Any], None]

LEASE_SECONDS = 3.0
CLOCK_BEHIND_SECONDS = 3600.0


# the steps of an invocation, in another order


def ack_before_commit(patch: Patch) -> None:
    right = Committer._turn

    def turn(self: Committer, jobs: Any) -> None:
        _ack_for_sure(self._settling._broker, [job.lot for job in jobs if isinstance(job, Finished)])
        right(self, jobs)

    patch(Committer, "_turn", turn)


def ack_before_forward(patch: Patch) -> None:
    right = Settling.after

    def after(self: Settling, done: Any) -> None:
        _ack_for_sure(self._broker, [verdict.lot for verdict in done.verdicts if verdict.routes])
        right(self, done)

    patch(Settling, "after", after)


def _ack_for_sure(broker: Broker, lots: Iterable[Lot]) -> None:
    """Ack, and wait until the broker has taken it: the gap that the bug leaves is open whenever the test looks."""
    for lot in lots:
        lot.delivery.ack()
        eventually(partial(_nothing_in_hands, broker, lot.delivery.queue))


def _nothing_in_hands(broker: Broker, queue: str) -> bool:
    return broker.depth(queue).unacked == 0


def lease_dropped_before_forward(patch: Patch) -> None:
    right = verdicts.commit

    def commit(cursor: Cursor, finished: Sequence[Finished], me: bytes) -> list[Verdict]:
        found = right(cursor, finished, me)
        record.drop_holds(cursor, [verdict.lot.key(verdict.index) for verdict in found if verdict.drop_hold])
        return found

    patch(verdicts, "commit", commit)


# whose word counts


def losers_value_forwarded(patch: Patch) -> None:
    right = verdicts.commit

    def commit(cursor: Cursor, finished: Sequence[Finished], me: bytes) -> list[Verdict]:
        own = {done.lot.key(done.index): done.item.value for done in finished}
        found = right(cursor, finished, me)
        return [Verdict(v.lot, v.index, own[v.lot.key(v.index)], v.routes, v.answer, v.drop_hold) for v in found]

    patch(verdicts, "commit", commit)


def non_atomic_chain(patch: Patch) -> None:
    right = chains._decide

    def decide(cursor: Cursor, calls: Sequence[chains._Call], me: bytes) -> None:
        right(cursor, calls, me)
        for call in calls:
            call.ours = call.done.item.error is None

    patch(chains, "_decide", decide)


def push_pull_pipe(patch: Patch) -> None:
    """What was pushed counts as delivered: who pulls it commits it alone, and nobody asks what became of it."""
    pushed: dict[bytes, tuple[Route, Served, bytes]] = {}
    pulled: list[tuple[Link, bytes]] = []

    def head(self: Segments, done: Finished, now: float) -> Segment:
        value, parent = done.item.value, done.lot.call(done.index).id
        for route in _pushed(done):
            target = self._served(route.socket)
            assert target is not None and value is not None
            pushed[child_id(parent, route.edge)] = route, target, value
        return Segment(done, ())

    def link(self: Segments, number: int, told: Link, now: float, cause: Any = None) -> None:
        pulled.append((told, self._peers[number].worker))

    def overdue(self: Segments, now: float, standing: Any) -> list[Finished]:
        known = [each for each in pulled if each[0].id in pushed]
        pulled[:] = [each for each in pulled if each not in known]
        return [finished(told, worker) for told, worker in known]

    def finished(told: Link, worker: bytes) -> Finished:
        route, target, value = pushed.pop(told.id)
        item = msgspec.structs.replace(told.item, index=0, passed=())
        return Finished(lot_of(target, (child_call(told.id, value, route),)), 0, item, worker)

    def committed(segments: Sequence[Segment]) -> Committed:
        gone = [(segment.head, _pushed(segment.head)) for segment in segments]
        left = [(done, tuple(each for each in done.lot.socket.routes if each not in away)) for done, away in gone]
        found = [verdicts.decided_now(done, routes, None) for done, routes in left]
        return Committed(found, [], {route.plug: 1 for _, away in gone for route in away})

    patch(Segments, "head", head)
    patch(Segments, "link", link)
    patch(Segments, "overdue", overdue)
    patch(Segments, "untaken", lambda *given: None)
    patch(chains, "plainly_committed", committed)


def _pushed(done: Finished) -> list[Route]:
    edges = {edge for edge, _ in done.item.passed}
    return [route for route in done.lot.socket.routes if route.edge in edges]


def global_id_key(patch: Patch) -> None:
    right = record.insert_outcomes

    def insert(cursor: Cursor, outcomes: Iterable[NewOutcome]) -> set[Key]:
        new = list(outcomes)
        ids = [outcome.id.hex() for outcome in new]
        cursor.execute("SELECT uuid_send(id) FROM pyfi.outcome WHERE id = ANY (%s::uuid[])", (ids,))
        taken = {bytes(row[0]) for row in cursor.fetchall()}
        return right(cursor, [outcome for outcome in new if outcome.id not in taken])

    patch(record, "insert_outcomes", insert)
    patch(verdicts, "is_plain", lambda done: False)


def wall_clock_lease(patch: Patch) -> None:
    take = record.lease

    def lease(cursor: Cursor, new: Any) -> dict[Key, int]:
        holds: list[NewHold] = list(new)
        taken = take(cursor, holds)
        for holder in {hold.holder for hold in holds if hold.holder}:
            renew(cursor, holder, writing.LEASE_SECONDS)
        return taken

    def renew(cursor: Cursor, me: bytes, seconds: float) -> None:
        cursor.execute(
            "UPDATE pyfi.hold SET due = to_timestamp(%s) WHERE state = 'LEASED' AND holder = %s::uuid",
            (time.time() + seconds, me.hex()),
        )

    patch(record, "lease", lease)
    patch(record, "renew_leases", renew)


def drop_on_decode_error(patch: Patch) -> None:
    right = Settling.set_aside

    def set_aside(self: Settling, job: SetAside) -> None:
        if job.reason is Reason.DECODE:
            job.delivery.ack()
        else:
            right(self, job)

    patch(Settling, "set_aside", set_aside)


# RabbitMQ


def ack_multiple_across_a_gap(patch: Patch) -> None:
    def due(self: AckLedger) -> list[Ack]:
        settled, self._settled = self._settled, []
        return [Ack(max(settled), True)] if settled else []

    patch(AckLedger, "due", due)


def ack_of_an_old_channels_tag(patch: Patch) -> None:
    newest: dict[str, Incarnation] = {}
    right = Consumption.begin

    def begin(self: Consumption, channel: Any) -> None:
        right(self, channel)
        assert self._incarnation is not None
        newest[self.name] = self._incarnation

    def ack(self: RabbitDelivery) -> None:
        newest[self.queue].settle(self._tag)

    patch(Consumption, "begin", begin)
    patch(RabbitDelivery, "ack", ack)


def no_mandatory(patch: Patch) -> None:
    right = frames.publish

    def publish(*given: Any, mandatory: bool, **named: Any) -> bytes:
        return right(*given, mandatory=False, **named)

    patch(frames, "publish", publish)


# circumstances: nothing is wrong with these


def early_acks(patch: Patch) -> None:
    """The broker takes deliveries back after a second: long calls go on under a lease."""
    patch(PostgresBroker, "ack_timeout_seconds", 1.0)


def short_leases(patch: Patch) -> None:
    """A lease lapses soon."""
    patch(writing, "LEASE_SECONDS", LEASE_SECONDS)
    patch(keeper, "LONG_CALL_LEASE_SECONDS", LEASE_SECONDS)


def clock_behind(patch: Patch) -> None:
    """The node's clock is an hour late."""
    right = time.time
    patch(time, "time", lambda: right() - CLOCK_BEHIND_SECONDS)


PLANTS: Mapping[str, Callable[[Patch], None]] = {
    made.__name__.replace("_", "-"): made
    for made in (
        ack_before_commit,
        ack_before_forward,
        lease_dropped_before_forward,
        losers_value_forwarded,
        non_atomic_chain,
        push_pull_pipe,
        global_id_key,
        wall_clock_lease,
        drop_on_decode_error,
        ack_multiple_across_a_gap,
        ack_of_an_old_channels_tag,
        no_mandatory,
        early_acks,
        short_leases,
        clock_behind,
    )
}


def plant(names: str, patch: Patch = setattr) -> None:
    """Put these into this process; an empty text is the product as it is."""
    for name in filter(None, names.split(",")):
        PLANTS[name](patch)


if __name__ == "__main__":
    plant(sys.argv[1])
    sys.exit(agent(sys.argv[2:]))
