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
from typing import Any

import psycopg2

from pyfi_hpc.agent.commit import chains, verdicts
from pyfi_hpc.agent.commit.forwarding import Parcel
from pyfi_hpc.agent.commit.jobs import Chains, Job, Lease, Then, Within
from pyfi_hpc.agent.commit.mending import Mender
from pyfi_hpc.agent.commit.settling import After, Settling
from pyfi_hpc.agent.commit.slowness import Slowness
from pyfi_hpc.agent.commit.spool import Spool
from pyfi_hpc.agent.commit.verdicts import Verdict
from pyfi_hpc.agent.commit.writing import Writing
from pyfi_hpc.agent.lots import Announced, Finished, Looked
from pyfi_hpc.agent.pipes.segments import Late, Segment
from pyfi_hpc.brokers.base import Broker
from pyfi_hpc.db import record, sessions
from pyfi_hpc.failpoints import reach
from pyfi_hpc.logs import logger
from pyfi_hpc.wire.frames import Item
from pyfi_hpc.wire.messages import ErrorRecord

log = logger("pyfi.agent")

_MOST_JOBS = 2000
_RECONNECT_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
_REPEATABLE = (psycopg2.errors.DeadlockDetected, psycopg2.errors.SerializationFailure, psycopg2.errors.LockNotAvailable)


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
        self._connect, self._spool = connect, spool
        self._jobs: queue.SimpleQueue[tuple[Job, ...]] = queue.SimpleQueue()
        #: jobs that came while the database was away, spooled where they are finished values
        self._gathered: deque[Job] = deque()
        self._spooling = False
        self._settling = Settling(broker, mender, network, self.put, due_in)
        self._writing = Writing(network, agent, self._settling, post)
        #: which way results went
        self.ways = self._settling.ways
        self._connection: Any = None
        self._stopping = threading.Event()
        self._slowness = Slowness()
        self.healthy = True

    # from any thread

    def put(self, *jobs: Job) -> None:
        """Have `jobs` done, soon, on this thread."""
        self._jobs.put(jobs)

    def look(self, now: float) -> None:
        """Say so where the database takes long over something; of one that is away that was said."""
        if self.healthy and (seconds := self._slowness.look(now)) is not None:
            log.warning("the database is slow: outcomes wait to be stored", seconds=round(seconds))

    def stop(self, seconds: float) -> None:
        """End after what is queued and forwarded, at the latest in `seconds`."""
        self._stopping.set()
        self.put(Then(lambda: None))
        self.join(seconds)

    # this thread

    def run(self) -> None:
        while not (self._stopping.is_set() and self._idle):
            jobs = self._take()
            if jobs or self._settling.waits:
                self._turn(jobs)
            elif self._slowness.rested():
                self._quick_again()
            self._settling.try_again()
        if self._connection is not None:
            self._connection.close()

    @property
    def _idle(self) -> bool:
        return self._settling.idle and not self._gathered and self._jobs.empty()

    def _take(self) -> list[Job]:
        if self._gathered:
            return [self._gathered.popleft() for _ in range(min(_MOST_JOBS, len(self._gathered)))]
        wait = self._settling.again_seconds or (0.05 if self._stopping.is_set() or self._settling.drops else 1.0)
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
            self._settling.after(self._transact((), leases, (), ()))
        others: list[Job] = [job for job in jobs if not isinstance(job, Finished | Then | Lease | Segment | Late)]
        chained: tuple[Chains, ...] = ()
        if len(finished) + len(leases) + len(others) < len(jobs):
            chained = self._chained([job for job in jobs if isinstance(job, Segment)])
            finished += _late([job.done for job in jobs if isinstance(job, Late)], others)
        dropping, parking = self._settling.for_transaction()
        if (others or dropping or parking) and (finished or chained) and _are_plain(finished, chained):
            # by themselves they are one statement
            self._settling.after(self._transact(finished, chained, (), ()))
            finished, chained = [], ()
        if finished or chained or others or dropping or parking:
            self._settling.after(self._transact(finished, [*others, *chained], dropping, parking))

    def _chained(self, segments: Sequence[Segment]) -> tuple[Chains, ...]:
        """What is left to write of these segments: none, or one job."""
        if not segments:
            return ()
        reach("agent_after_run")
        chained = (Chains(tuple(segments)),)
        if any(segment.pending for segment in segments):
            # as with leases
            self._settling.after(self._transact((), chained, (), ()))
            return ()
        return chained

    def _transact(
        self,
        finished: Sequence[Finished],
        others: Sequence[Job],
        dropping: Sequence[Verdict],
        parking: Sequence[Parcel],
    ) -> After:
        """One transaction for all of it, repeated until it is in."""
        tries = 0
        while True:
            after = After()
            self._slowness.begun(time.monotonic())
            try:
                if self._connection is None:
                    self._connection = self._connect()
                if dropping or parking or not self._commit_plain(finished, others, after):
                    with self._connection, self._connection.cursor() as cursor:
                        self._writing.write(cursor, finished, others, dropping, parking, after)
            except sessions.LOST as error:
                self._lost(error, [*finished, *_heads(others)], tries)
                tries += 1
            except psycopg2.Error as error:
                if len(finished) + sum(map(_weight, others)) > 1:
                    return self._one_by_one(finished, _apart(others), dropping, parking)
                log.error("this cannot be stored", error=str(error).strip())
                if others and isinstance(others[0], Chains):
                    # its head alone, and what follows from that by the broker
                    return self._transact((others[0].segments[0].head,), (), dropping, parking)
                if not finished or finished[0].item.error is not None:
                    raise
                finished = [_unstorable(done, error) for done in finished]
            else:
                if self._slowness.ended(time.monotonic()):
                    self._quick_again()
                self._recovered()
                return after

    def _commit_plain(self, finished: Sequence[Finished], others: Sequence[Job], after: After) -> bool:
        """Write them by one statement in one round trip; False where that cannot be done."""
        chained = [job for job in others if isinstance(job, Chains)]
        if len(chained) < len(others) or not _are_plain(finished, chained):
            return False
        segments = [segment for job in chained for segment in job.segments]
        followed = [row for segment in segments for row in chains.plain_values(segment)]
        self._connection.autocommit = True
        try:
            with self._connection.cursor() as cursor:
                after.verdicts += verdicts.commit_plain(cursor, finished, followed)
        except psycopg2.errors.UniqueViolation:
            return False
        finally:
            if not self._connection.closed:
                self._connection.autocommit = False
        if segments:
            self._writing.followed(chains.plainly_committed(segments), after)
        return True

    def _one_by_one(
        self,
        finished: Sequence[Finished],
        others: Sequence[Job],
        dropping: Sequence[Verdict],
        parking: Sequence[Parcel],
    ) -> After:
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
        self._write_spool(_heads(gathered))
        self._gathered.extend(gathered)

    def _write_spool(self, finished: Sequence[Finished]) -> None:
        if finished:
            self._spooling = True
            try:
                self._spool.write(finished)
            except OSError as error:
                # a full disk, perhaps the database's own: the values are in memory, and their deliveries unacked
                log.warning("finished values cannot be spooled", error=str(error))

    def _quick_again(self) -> None:
        log.info("the database is no longer slow")

    def _recovered(self) -> None:
        if not self.healthy:
            log.info("the database is back")
            self.healthy = True
        if self._spooling and not self._gathered:
            self._spool.clear()
            self._spooling = False


def _heads(jobs: Iterable[Job]) -> list[Finished]:
    """What of segments is worth spooling: the rest follows from it."""
    found: list[Finished] = []
    for job in jobs:
        match job:
            case Segment():
                found.append(job.head)
            case Chains():
                found += [segment.head for segment in job.segments]
    return found


def _are_plain(finished: Iterable[Finished], chained: Iterable[Chains]) -> bool:
    """Whether all these calls went well, so that nothing but their outcomes is to be written."""
    segments = [segment for job in chained for segment in job.segments]
    return all(map(verdicts.is_plain, finished)) and all(map(chains.is_plain, segments))


def _late(late: Sequence[Finished], others: list[Job]) -> list[Finished]:
    """Of calls that were leased out of segments, those that still have their lease; the rest is noted in `others`."""
    dropped = [done.lot.key(done.index) for done in late if done.index not in done.lot.leased]
    if dropped:
        others.append(Within(lambda cursor: record.note_dropped(cursor, dropped), lambda _: None))
    return [done for done in late if done.index in done.lot.leased]


def _weight(job: Job) -> int:
    return len(job.segments) if isinstance(job, Chains) else 1


def _apart(jobs: Iterable[Job]) -> list[Job]:
    """Segments that were to be written together, one by one."""
    parts: list[Job] = []
    for job in jobs:
        parts += [Chains((segment,)) for segment in job.segments] if isinstance(job, Chains) else [job]
    return parts


def _unstorable(done: Finished, error: Exception) -> Finished:
    told = ErrorRecord(
        "pyfi_hpc.errors.Fault", f"the outcome cannot be stored: {error}"[:500], "", "E_INTERNAL", "refused"
    )
    return Finished(done.lot, done.index, Item(done.index, None, told, 0.0, 0.0), done.worker)
