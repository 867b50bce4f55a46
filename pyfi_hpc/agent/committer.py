"""The agent's one database thread: receive → run → **commit → forward → ack**, in this order, always.

Jobs come in over a queue and are taken in whatever number has gathered: one transaction for all of them, at once when
idle, larger the busier the agent is; no timer waits for a batch to fill. When the database is away, jobs are kept,
finished values are spooled, `healthy` turns False (the service then takes nothing new), and the same transaction is
tried again.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec
import psycopg2
import structlog

from pyfi_hpc.agent import letters, verdicts
from pyfi_hpc.agent.forwarding import Forwarder, Parcel
from pyfi_hpc.agent.lots import Announced, Finished, Looked, Lot
from pyfi_hpc.agent.mending import Mender
from pyfi_hpc.agent.spool import Spool
from pyfi_hpc.agent.verdicts import Verdict, single
from pyfi_hpc.brokers.base import Broker, Confirm, Delivery, Publication, Reason
from pyfi_hpc.db import record, sessions
from pyfi_hpc.db.record import Cursor, NewAttempt, NewHold
from pyfi_hpc.failpoints import reach
from pyfi_hpc.model.status import AttemptStatus, HoldState
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.frames import Item
from pyfi_hpc.wire.ids import new_id
from pyfi_hpc.wire.limits import REPLY_INLINE_BYTES
from pyfi_hpc.wire.messages import WIRE_VERSION, Answer, ErrorRecord, Message, Reply

log = structlog.get_logger("pyfi.agent")

LEASE_SECONDS = 30.0
_MOST_JOBS = 2000
_AGAIN_SECONDS = 1.0
_RECONNECT_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Look:
    """Find out which members of a careful lot may run."""

    lot: Lot


@dataclass(frozen=True, slots=True)
class Announce:
    """Put the start of these members on record before they run."""

    lot: Lot
    worker: int
    worker_id: bytes
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Adopt:
    """The broker delivered a lot in hand again (a lost channel, or a client that sent it twice): settle both by it."""

    lot: Lot
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class SetAside:
    """A delivery that cannot be run: to the dead letters, then acked."""

    delivery: Delivery
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Members that were not started: published again at no cost, then settled (1.10)."""

    lot: Lot
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """Members of a delivery that came back too often: each as a message of its own, serial + 1 (1.10)."""

    lot: Lot
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Lease:
    """A delivery grows old: `running` members become leased hold rows, `waiting` ones due ones, then it is acked."""

    lot: Lot
    running: tuple[int, ...]
    waiting: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Park:
    """Members that their queue did not take back: due hold rows, then settled (1.22)."""

    lot: Lot
    message: Message
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message from the dead letters, to be given its verdict."""

    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Then:
    """Something for this thread to do outside of a transaction (a broker's word, usually)."""

    do: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Within:
    """Work for a transaction, and what to do with its result afterwards."""

    work: Callable[[Cursor], Any]
    then: Callable[[Any], None]


Job: TypeAlias = (
    Finished | Look | Announce | Adopt | SetAside | GiveBack | Split | Lease | Park | DeadLetter | Then | Within
)


@dataclass(slots=True)
class _After:
    """What a transaction left to do once it is in."""

    verdicts: list[Verdict] = field(default_factory=list)
    calls: list[Callable[[], None]] = field(default_factory=list)
    parked: list[Parcel] = field(default_factory=list)
    #: forwarded, and their hold rows are gone
    dropped: list[Verdict] = field(default_factory=list)


class Committer(threading.Thread):
    """Owns the agent's connection to Postgres and the order in which an invocation's steps happen."""

    def __init__(
        self,
        connect: Callable[[], Any],
        broker: Broker,
        mender: Mender,
        network: str,
        agent: bytes,
        spool: Spool,
        post: Callable[[Looked | Announced], None],
        due_in: Callable[[float], None],
    ) -> None:
        """`connect` makes a psycopg2 connection; `post` hands a record to the service's thread; `due_in` is told in how
        many seconds a hold row comes due."""
        super().__init__(name="pyfi-committer", daemon=True)
        self._connect, self._broker, self._network, self._agent = connect, broker, network, agent
        self._publish = mender.publish
        self._spool, self._post, self._due_in = spool, post, due_in
        self._jobs: queue.SimpleQueue[tuple[Job, ...]] = queue.SimpleQueue()
        #: jobs that came while the database was away, spooled where they are finished values
        self._gathered: deque[Job] = deque()
        self._spooling = False
        self._forwarder = Forwarder(mender.publish, self._confirmed)
        self._connection: Any = None
        self._drop_later: list[Verdict] = []
        self._parked: list[Parcel] = []
        self._stopping = threading.Event()
        self.healthy = True

    # from any thread

    def put(self, *jobs: Job) -> None:
        """Have `jobs` done, soon, on this thread."""
        self._jobs.put(jobs)

    def stop(self, seconds: float) -> None:
        """End after what is queued and forwarded, at the latest in `seconds`."""
        self._stopping.set()
        self.put(Then(lambda: None))
        self.join(seconds)

    def _confirmed(self, parcel: Parcel, error: BaseException | None) -> None:
        self.put(Then(lambda: self._resolve(parcel, error)))

    # this thread

    def run(self) -> None:
        while not (self._stopping.is_set() and self._idle):
            jobs = self._take()
            if jobs or self._drop_later or self._parked:
                self._turn(jobs)
            self._forwarder.try_again()
        if self._connection is not None:
            self._connection.close()

    @property
    def _idle(self) -> bool:
        return not (self._gathered or self._forwarder.busy or self._drop_later or self._parked) and self._jobs.empty()

    def _take(self) -> list[Job]:
        if self._gathered:
            return [self._gathered.popleft() for _ in range(min(_MOST_JOBS, len(self._gathered)))]
        wait = self._forwarder.again_seconds or (0.05 if self._stopping.is_set() or self._drop_later else 1.0)
        try:
            jobs = list(self._jobs.get(timeout=wait))
        except queue.Empty:
            return []
        while len(jobs) < _MOST_JOBS and not self._jobs.empty():
            jobs += self._jobs.get_nowait()
        return jobs

    def _turn(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if isinstance(job, Then):
                job.do()
        finished = [job for job in jobs if isinstance(job, Finished)]
        if finished:
            reach("agent_after_run")
        leases = [job for job in jobs if isinstance(job, Lease)]
        if leases:
            # first and alone: a member that has finished meanwhile commits under the epoch of its lease
            self._after(self._transact((), leases, (), ()))
        others = [job for job in jobs if not isinstance(job, Finished | Then | Lease)]
        dropping, self._drop_later = self._drop_later, []
        parking, self._parked = self._parked, []
        if finished or others or dropping or parking:
            self._after(self._transact(finished, others, dropping, parking))

    def _transact(
        self,
        finished: Sequence[Finished],
        others: Sequence[Job],
        dropping: Sequence[Verdict],
        parking: Sequence[Parcel],
    ) -> _After:
        """One transaction for all of it, repeated until it is in."""
        tries = 0
        while True:
            after = _After()
            try:
                if self._connection is None:
                    self._connection = self._connect()
                if others or dropping or parking or not self._commit_plain(finished, after):
                    self._commit(finished, others, dropping, parking, after)
            except sessions.LOST as error:
                self._lost(error, finished, tries)
                tries += 1
            except psycopg2.Error as error:
                if len(finished) + len(others) > 1:
                    return self._one_by_one(finished, others, dropping, parking)
                log.error("this cannot be stored", error=str(error).strip())
                if not finished or finished[0].item.error is not None:
                    raise
                finished = [_unstorable(done, error) for done in finished]
            else:
                self._recovered()
                return after

    def _commit_plain(self, finished: Sequence[Finished], after: _After) -> bool:
        """Write them by one statement in one round trip; False where that cannot be done."""
        if not all(map(verdicts.is_plain, finished)):
            return False
        self._connection.autocommit = True
        try:
            with self._connection.cursor() as cursor:
                after.verdicts += verdicts.commit_plain(cursor, finished)
        except psycopg2.errors.UniqueViolation:
            return False
        finally:
            if not self._connection.closed:
                self._connection.autocommit = False
        return True

    def _commit(
        self,
        finished: Sequence[Finished],
        others: Sequence[Job],
        dropping: Sequence[Verdict],
        parking: Sequence[Parcel],
        after: _After,
    ) -> None:
        with self._connection, self._connection.cursor() as cursor:
            self._finish(cursor, finished, after)
            for job in others:
                self._do(cursor, job, after)
            record.drop_holds(cursor, [verdict.lot.key(verdict.index) for verdict in dropping])
            record.park_holds(cursor, _parked(parking))
        after.parked.extend(parking)
        after.dropped.extend(dropping)

    def _one_by_one(
        self,
        finished: Sequence[Finished],
        others: Sequence[Job],
        dropping: Sequence[Verdict],
        parking: Sequence[Parcel],
    ) -> _After:
        """Something in the batch cannot be stored: find it, without holding back the rest."""
        whole = self._transact((), (), dropping, parking)
        for done in finished:
            part = self._transact((done,), (), (), ())
            whole.verdicts += part.verdicts
        for job in others:
            part = self._transact((), (job,), (), ())
            whole.verdicts += part.verdicts
            whole.calls += part.calls
        return whole

    def _lost(self, error: Exception, finished: Sequence[Finished], tries: int) -> None:
        if self._connection is not None and self._connection.closed == 0 and isinstance(error, _REPEATABLE):
            return
        if self.healthy:
            log.warning("the database is away: nothing new is taken until it is back", error=str(error).strip())
            self._write_spool(finished)
            self.healthy = False
        self._gather()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        time.sleep(_RECONNECT_SECONDS[min(tries, len(_RECONNECT_SECONDS) - 1)])

    def _gather(self) -> None:
        """What comes in while the database is away waits its turn here; values are spooled at once."""
        gathered: list[Job] = []
        while not self._jobs.empty():
            gathered += self._jobs.get_nowait()
        self._write_spool([job for job in gathered if isinstance(job, Finished)])
        self._gathered.extend(gathered)

    def _write_spool(self, finished: Sequence[Finished]) -> None:
        if finished:
            self._spooling = True
            try:
                self._spool.write(finished)
            except OSError as error:
                # a full disk, perhaps the database's own: the values are in memory, and their deliveries unacked
                log.warning("finished values cannot be spooled", error=str(error))

    def _recovered(self) -> None:
        if not self.healthy:
            log.info("the database is back")
            self.healthy = True
        if self._spooling and not self._gathered:
            self._spool.clear()
            self._spooling = False

    # inside the transaction

    def _finish(self, cursor: Cursor, finished: Sequence[Finished], after: _After) -> None:
        if finished:
            after.verdicts += verdicts.commit(cursor, finished, self._agent)

    def _do(self, cursor: Cursor, job: Job, after: _After) -> None:
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
                after.calls.append(lambda: _settle(job.lot, job.indexes))
            case DeadLetter():
                letters.judge(cursor, self._network, job.delivery)
                after.calls.append(job.delivery.ack)
            case Within():
                result = job.work(cursor)
                after.calls.append(lambda: job.then(result))
            case Adopt():
                after.calls.append(lambda: job.lot.adopt(job.delivery))
            case SetAside():
                after.calls.append(lambda: self._set_aside(job))
            case GiveBack():
                leased = {index for index in job.indexes if index in job.lot.leased}
                record.give_leases_back(cursor, {job.lot.key(index): job.lot.leased[index] for index in leased})
                if left := tuple(index for index in job.indexes if index not in leased):
                    after.calls.append(lambda: self._give_back(GiveBack(job.lot, left)))
            case Split():
                after.calls.append(lambda: self._split(job))

    def _look(self, cursor: Cursor, lot: Lot, after: _After) -> None:
        found = verdicts.look_up(cursor, lot, self._agent)
        record.drop_holds(cursor, [v.lot.key(v.index) for v in found.verdicts if v.drop_hold and not v.routes])
        after.verdicts += found.verdicts
        self._finish(cursor, found.abandoned, after)
        after.calls.append(lambda: self._post(Looked(lot, tuple(found.runnable))))

    def _lease(self, cursor: Cursor, job: Lease, after: _After) -> None:
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

    # after the transaction

    def _after(self, after: _After) -> None:
        if after.verdicts:
            reach("agent_after_commit")
            self._tell(after.verdicts)
            self._forwarder.send([verdict for verdict in after.verdicts if verdict.routes])
            self._settle([verdict for verdict in after.verdicts if not verdict.routes])
        self._settle(after.dropped)
        for parcel in after.parked:
            self._forwarded(self._forwarder.release(parcel))
        for call in after.calls:
            call()

    def _settle(self, settled: Sequence[Verdict]) -> None:
        if settled:
            reach("agent_after_forward")
        for verdict in settled:
            if verdict.conflict:
                self._conflict(verdict)
            elif verdict.in_place and verdict.retry_seconds is not None:
                verdict.lot.again(verdict.index, verdict.in_place, verdict.retry_seconds)
            else:
                verdict.lot.settle(verdict.index)
            if verdict.overtaken and verdict.lot.overtaken is not None:
                verdict.lot.overtaken()

    def _conflict(self, verdict: Verdict) -> None:
        """The id was used for another call: this one is set aside, with that reason, and only then settled."""
        lot, index = verdict.lot, verdict.index
        message = single(lot, index, lot.call(index).serial)

        def told(confirm: Confirm) -> None:
            if _is_confirmed(confirm):
                self.put(Then(lambda: lot.settle(index)))
            else:
                self._put_later(Then(lambda: self._conflict(verdict)))

        self._broker.set_aside(
            self._network,
            _publication(message, lot),
            Reason.ID_CONFLICT,
            "the id was used for another call",
        ).add_done_callback(told)

    def _resolve(self, parcel: Parcel, error: BaseException | None) -> None:
        free, parked = self._forwarder.resolve(parcel, error)
        if parked is not None:
            log.warning("a plug's target takes nothing: its results wait in hold rows", exchange=parked.route.exchange)
            self._parked.append(parked)
        self._forwarded(free)

    def _forwarded(self, free: Sequence[Verdict]) -> None:
        # a row that is gone before the ack does no harm; an ack before that could leave the row for ever
        self._drop_later += [verdict for verdict in free if verdict.drop_hold]
        self._settle([verdict for verdict in free if not verdict.drop_hold])

    def _tell(self, decided: Sequence[Verdict]) -> None:
        waits = [verdict.retry_seconds for verdict in decided if verdict.retry_seconds is not None]
        if waits:
            self._due_in(min(waits))
        addressed: dict[str, list[Answer]] = {}
        for verdict in decided:
            if verdict.answer is not None and verdict.lot.message.reply:
                addressed.setdefault(verdict.lot.message.reply, []).append(_small(verdict.answer))
        for address, answers in addressed.items():
            self._broker.reply(address, messages.encode(Reply(WIRE_VERSION, tuple(answers))))

    def _set_aside(self, job: SetAside) -> None:
        delivery = job.delivery
        log.warning("message set aside", reason=job.reason, detail=job.detail, queue=delivery.queue)
        publication = Publication(
            delivery.queue, "", delivery.body, new_id().hex(), delivery.content_type or "", _text_headers(delivery)
        )
        confirm = self._broker.set_aside(self._network, publication, job.reason, job.detail)
        confirm.add_done_callback(lambda done: delivery.ack() if _is_confirmed(done) else self._put_later(job))

    def _put_later(self, job: Job) -> None:
        """Have it done again in a while; its delivery stays unacked meanwhile."""
        timer = threading.Timer(_AGAIN_SECONDS, self.put, [job])
        timer.daemon = True
        timer.start()

    def _give_back(self, job: GiveBack) -> None:
        lot, calls = job.lot, tuple(job.lot.call(index) for index in job.indexes)
        message = Message(
            WIRE_VERSION,
            new_id(),
            lot.message.owner,
            lot.message.socket,
            lot.message.generation,
            calls,
            lot.message.reply,
            lot.message.workflow,
        )
        self._republish(lot, message, job.indexes)

    def _split(self, job: Split) -> None:
        for index in job.indexes:
            self._republish(job.lot, single(job.lot, index, job.lot.call(index).serial + 1), (index,))

    def _republish(self, lot: Lot, message: Message, indexes: tuple[int, ...]) -> None:
        def told(confirm: Confirm) -> None:
            self.put(Then(lambda: _settle(lot, indexes)) if _is_confirmed(confirm) else Park(lot, message, indexes))

        self._publish(_publication(message, lot)).add_done_callback(told)


_REPEATABLE = (psycopg2.errors.DeadlockDetected, psycopg2.errors.SerializationFailure, psycopg2.errors.LockNotAvailable)


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


def _unstorable(done: Finished, error: Exception) -> Finished:
    told = ErrorRecord(
        "pyfi_hpc.errors.Fault", f"the outcome cannot be stored: {error}"[:500], "", "E_INTERNAL", "refused"
    )
    return Finished(done.lot, done.index, Item(done.index, None, told, 0.0, 0.0), done.worker)


def _is_confirmed(confirm: Confirm) -> bool:
    return not confirm.cancelled() and confirm.exception() is None


def _settle(lot: Lot, indexes: Sequence[int]) -> None:
    for index in indexes:
        lot.settle(index)


def _publication(message: Message, lot: Lot) -> Publication:
    return Publication(lot.socket.exchange, lot.socket.key, messages.encode(message), message.batch.hex())


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


def _small(answer: Answer) -> Answer:
    if answer.value is not None and len(answer.value) > REPLY_INLINE_BYTES:
        return Answer(answer.id, answer.kind)
    return answer


def _text_headers(delivery: Delivery) -> dict[str, str]:
    return {str(name): str(value)[:400] for name, value in delivery.headers.items()}
