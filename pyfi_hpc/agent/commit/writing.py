"""Inside the transaction: what each job writes, and what it leaves to do once that is in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from pyfi_hpc.agent.commit import chains, followers, letters, verdicts
from pyfi_hpc.agent.commit.chains import Committed
from pyfi_hpc.agent.commit.forwarding import Parcel
from pyfi_hpc.agent.commit.jobs import (
    Adopt,
    Announce,
    Chains,
    DeadLetter,
    GiveBack,
    Job,
    Lease,
    Look,
    Park,
    SetAside,
    Split,
    Within,
)
from pyfi_hpc.agent.commit.settling import After, Settling, settle
from pyfi_hpc.agent.commit.verdicts import Verdict, single
from pyfi_hpc.agent.lots import Announced, Finished, Looked, Lot
from pyfi_hpc.agent.pipes.segments import Forgone, Segment
from pyfi_hpc.db import record
from pyfi_hpc.db.record import Cursor, NewAttempt, NewHold
from pyfi_hpc.failpoints import reach
from pyfi_hpc.model.status import AttemptStatus, HoldState
from pyfi_hpc.wire.ids import new_id
from pyfi_hpc.wire.messages import Message

LEASE_SECONDS = 30.0


class Writing:
    """Jobs as SQL, for one agent."""

    def __init__(
        self, network: str, agent: bytes, settling: Settling, post: Callable[[Looked | Announced], None]
    ) -> None:
        """`post` hands a record to the service's thread."""
        self._network, self._agent, self._settling, self._post = network, agent, settling, post

    def write(
        self,
        cursor: Cursor,
        finished: Sequence[Finished],
        others: Sequence[Job],
        dropping: Sequence[Verdict],
        parking: Sequence[Parcel],
        after: After,
    ) -> None:
        """All of it; `after` is filled."""
        self._finish(cursor, finished, after)
        for job in others:
            self._do(cursor, job, after)
        record.drop_holds(cursor, [verdict.lot.key(verdict.index) for verdict in dropping])
        record.park_holds(cursor, _parked(parking))
        after.parked.extend(parking)
        after.dropped.extend(dropping)

    def _finish(self, cursor: Cursor, finished: Sequence[Finished], after: After) -> None:
        if finished:
            after.verdicts += verdicts.commit(cursor, finished, self._agent)

    def _do(self, cursor: Cursor, job: Job, after: After) -> None:
        match job:
            case Look():
                self._look(cursor, job.lot, after)
            case Announce():
                record.insert_attempts(cursor, [_started(job, index, self._agent) for index in job.indexes])
                after.calls.append(lambda: self._post(Announced(job.lot, job.worker, job.indexes)))
            case Lease():
                self._lease(cursor, job, after)
            case Park():
                record.park_holds(cursor, _held_back(job.message, job.lot.socket.exchange, job.lot.socket.key))
                after.calls.append(lambda: settle(job.lot, job.indexes))
            case DeadLetter():
                letters.judge(cursor, self._network, job.delivery)
                after.calls.append(job.delivery.ack)
            case Within():
                result = job.work(cursor)
                after.calls.append(lambda: job.then(result))
            case Adopt():
                after.calls.append(lambda: job.lot.adopt(job.delivery))
            case SetAside():
                after.calls.append(lambda: self._settling.set_aside(job))
            case GiveBack():
                leased = {index for index in job.indexes if index in job.lot.leased}
                record.give_leases_back(cursor, {job.lot.key(index): job.lot.leased[index] for index in leased})
                if left := tuple(index for index in job.indexes if index not in leased):
                    after.calls.append(lambda: self._settling.give_back(GiveBack(job.lot, left)))
            case Split():
                after.calls.append(lambda: self._settling.split(job))
            case Chains():
                self._chains(cursor, job.segments, after)
            case Forgone():
                epochs = {job.lot.key(index): epoch for index, epoch in job.lot.leased.items()}
                record.give_leases_back(cursor, epochs)

    def _chains(self, cursor: Cursor, segments: Sequence[Segment], after: After) -> None:
        self.followed(chains.commit(cursor, segments, self._agent, LEASE_SECONDS), after)

    def followed(self, found: Committed, after: After) -> None:
        """Segments are in: what of them is left to do."""
        after.verdicts += found.verdicts
        after.calls.append(lambda: self._settling.ways.piped(found.carried, found.far))
        if found.leases:
            after.calls.append(found.take_leases)

    def _look(self, cursor: Cursor, lot: Lot, after: After) -> None:
        found = verdicts.look_up(cursor, lot, self._agent)
        decided = followers.left_to_forward(cursor, found.verdicts)
        record.drop_holds(cursor, [v.lot.key(v.index) for v in decided if v.drop_hold and not v.routes])
        after.verdicts += decided
        self._finish(cursor, found.abandoned, after)
        after.calls.append(lambda: self._post(Looked(lot, tuple(found.runnable))))

    def _lease(self, cursor: Cursor, job: Lease, after: After) -> None:
        lot = job.lot
        where = lot.socket.exchange, lot.socket.key
        running = [single(lot, index, lot.call(index).serial) for index in job.running]
        waiting = [single(lot, index, lot.call(index).serial) for index in job.waiting]
        new = [NewHold(each, *where, HoldState.LEASED, LEASE_SECONDS, holder=self._agent) for each in running]
        epochs = record.lease(cursor, new)
        record.park_holds(cursor, [hold for each in waiting for hold in _held_back(each, *where)])

        def taken() -> None:
            for index in job.running:
                if lot.key(index) in epochs:
                    lot.leased[index] = epochs[lot.key(index)]
                    lot.settle(index)
                else:
                    # it is decided, or somebody else's: nothing but this delivery would see to its forwards
                    lot.leased.pop(index, None)
            for index in job.waiting:
                lot.settle(index)
            reach("lease_after_ack")

        after.calls.append(taken)


def _started(job: Announce, index: int, agent: bytes) -> NewAttempt:
    lot, call = job.lot, job.lot.call(index)
    return NewAttempt(
        lot.message.owner,
        call.id,
        call.serial,
        AttemptStatus.STARTED,
        socket=lot.message.socket,
        worker=job.worker_id,
        agent=agent,
        started=time.time(),
    )


def _parked(parcels: Iterable[Parcel]) -> list[NewHold]:
    return [hold for parcel in parcels for hold in _held_back(parcel.message, parcel.route.exchange, parcel.route.key)]


def _held_back(message: Message, exchange: str, key: str) -> list[NewHold]:
    """Hold rows for the calls of a message that the broker does not hold, or soon will not.

    Each becomes the next attempt: what came out of a hold row is known by that, and lets go of the row in the end.
    """
    return [
        NewHold(
            msgspec.structs.replace(
                message, batch=new_id(), calls=(msgspec.structs.replace(call, serial=call.serial + 1),)
            ),
            exchange,
            key,
            HoldState.DUE,
            delay_seconds=1.0,
        )
        for call in message.calls
    ]
