"""What becomes of a finished attempt, written in one transaction (RELIABILITY 1.5, 1.7, 1.9).

`commit` and `look_up` run on the committer's cursor and touch nothing but the database; what is to be done after the
transaction comes back as records.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from pyfi_hpc.agent.lots import Finished, Lot
from pyfi_hpc.control import losses
from pyfi_hpc.db import record
from pyfi_hpc.db.record import Cursor, Decided, Held, Key, NewAttempt, NewHold, NewOutcome, NewValue, Way
from pyfi_hpc.model.status import NEVER_RETRIED, SPENDS_BUDGET, AttemptStatus, Cause, HoldState, OutcomeStatus
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.frames import Item
from pyfi_hpc.wire.messages import Answer, ErrorRecord, Kind, Message, Route

#: Returns that cost nothing are bounded too.
MAX_RETURNS = 50
MAX_RETRY_DELAY_SECONDS = 300.0
#: When an attempt of a fifo socket goes on that somebody else counted.
OVERTAKEN_SECONDS = 0.1

KIND_OF = {
    OutcomeStatus.SUCCEEDED: Kind.VALUE,
    OutcomeStatus.FAILED: Kind.ERROR,
    OutcomeStatus.CANCELLED: Kind.CANCELLED,
    OutcomeStatus.DEAD: Kind.DEAD,
}


class Account:
    """A member is settled when every call that followed from it along pipes is, and it itself."""

    __slots__ = ("_index", "_lot", "_open")

    def __init__(self, lot: Lot, index: int, calls: int) -> None:
        self._lot, self._index, self._open = lot, index, calls

    def settle(self) -> None:
        """One of the calls is settled."""
        self._open -= 1
        if not self._open:
            self._lot.settle(self._index)


class Verdict(msgspec.Struct, frozen=True):
    """What is left to do for a member once the transaction is in: forward, tell, let go of its hold row, settle.

    `answer` is None where nothing was decided (it will be tried again); `conflict` where the id is another call's.
    `account` is where it is settled as part of a segment (`chains`).
    """

    lot: Lot
    index: int
    value: bytes | None = None
    routes: tuple[Route, ...] = ()
    answer: Answer | None = None
    drop_hold: bool = False
    conflict: bool = False
    #: seconds until it is tried again, where it is
    retry_seconds: float | None = None
    #: it is tried again as this attempt while its delivery stays unacked; 0: not so
    in_place: int = 0
    #: an item of a call that another attempt yields by now
    overtaken: bool = False
    account: Account | None = None

    def settle(self) -> None:
        """Nothing is left to do for it."""
        if self.account is not None:
            self.account.settle()
        else:
            self.lot.settle(self.index)


def commit(cursor: Cursor, finished: Sequence[Finished], agent: bytes) -> list[Verdict]:
    """Write the outcomes, attempts and hold rows of these attempts; say what follows from them."""
    return commit_and_tell(cursor, finished, agent)[0]


def commit_and_tell(cursor: Cursor, finished: Sequence[Finished], agent: bytes) -> tuple[list[Verdict], set[Key]]:
    """As `commit`; and which of them this transaction decided."""
    keyed = [(done.lot.key(done.index), done) for done in finished]
    once, overtaken = _yielding(cursor, dict(reversed(keyed)))
    fenced = _stale(cursor, once.values()) | overtaken
    alive = {key: done for key, done in once.items() if key not in fenced} if fenced else once
    retries, spent, too_late = _failures(cursor, [done for done in alive.values() if _may_retry(done)])
    undecided = retries.keys() | too_late.keys()
    proposals = {key: _proposal(done, spent.get(key)) for key, done in alive.items() if key not in undecided}
    won = record.insert_outcomes(cursor, proposals.values())
    lost = record.outcomes(cursor, once.keys() - won)
    record.insert_attempts(cursor, _attempts(alive.values(), agent))
    record.note_dropped(cursor, fenced | {key for key in proposals if _final(lost.get(key))})
    dead = [hold for key, hold in spent.items() if key in won]
    record.put_holds(cursor, [hold for key, hold in retries.items() if not _final(lost.get(key))] + dead)
    _close_streams(cursor, [done for key, done in once.items() if key in won or _final(lost.get(key))])
    verdicts = [_verdict(key, done, proposals, won, lost, retries, too_late) for key, done in keyed]
    if overtaken:
        verdicts = [msgspec.structs.replace(each, overtaken=_key(each) in overtaken) for each in verdicts]
    record.drop_holds(cursor, [_key(verdict) for verdict in verdicts if verdict.drop_hold and not verdict.routes])
    return verdicts, won


def is_plain(done: Finished) -> bool:
    """A first attempt that succeeded without a word, of a delivery that nobody else has had: most are."""
    lot, item = done.lot, done.item
    quiet = not (lot.careful or lot.renumbered or lot.leased or item.out or item.err or done.stream)
    return quiet and item.error is None and item.value is not None


def commit_plain(cursor: Cursor, finished: Sequence[Finished], others: Iterable[NewValue] = ()) -> list[Verdict]:
    """As `commit`, for plain ones alone, at less than half the price; the cursor commits by itself.

    `others` go in with them.

    Raises:
        UniqueViolation: something is decided of one of them, nothing was written; `commit` sorts it out.
    """
    record.insert_values(cursor, [*map(new_value, finished), *others])
    return [decided_now(done) for done in finished]


def new_value(done: Finished) -> NewValue:
    """The outcome of a plain attempt."""
    call, item, lot = done.lot.message.calls[done.index], done.item, done.lot
    assert item.value is not None
    routes = messages.encode(lot.socket.routes) if lot.socket.routes else None
    way = Way(lot.message.owner, lot.message.socket, done.worker, routes)
    return NewValue(call.id, way, item.value, call.digest, item.started, item.ended)


def decided_now(done: Finished, left: tuple[Route, ...] | None = None, account: Account | None = None) -> Verdict:
    """What follows once the outcome of a plain attempt is in; `left`: the only routes that it still has to take."""
    value, lot = done.item.value, done.lot
    answer = Answer(lot.message.calls[done.index].id, Kind.VALUE, value)
    routes = lot.socket.routes if left is None else left
    return Verdict(lot, done.index, value, routes, answer, account=account)


def _final(decided: Decided | None) -> bool:
    return decided is not None and decided.status is not OutcomeStatus.REOPENED


def _key(verdict: Verdict) -> Key:
    return verdict.lot.key(verdict.index)


def _yielding(cursor: Cursor, once: dict[Key, Finished]) -> tuple[dict[Key, Finished], set[Key]]:
    """What of this changes nothing: items that another attempt yields by now. Its end is given back, at no cost (1.15).

    The other attempt commits the end, or dies and is tried again; until the transaction ends nobody takes over.
    """
    yielding = {key: done for key, done in once.items() if done.stream is not None}
    if not yielding:
        return once, set()
    streams = {key: done.stream for key, done in yielding.items() if done.stream is not None}
    opening = {(each.owner, each.id): each.attempt for key, each in streams.items() if yielding[key].opens}
    attempts = record.take_streams(cursor, {(each.owner, each.id) for each in streams.values()}, opening)
    late = {key for key, each in streams.items() if attempts.get((each.owner, each.id)) != each.attempt}
    ends = {key: _overtaken(yielding[key]) for key in late if yielding[key].is_end}
    return once | ends, late - ends.keys()


def _overtaken(done: Finished) -> Finished:
    error = ErrorRecord("pyfi_hpc.errors.Fault", "another attempt yields its items", "", "E_FENCED", Cause.RETURNED)
    item = Item(done.index, None, error, done.item.started, done.item.ended, done.item.out, done.item.err)
    return msgspec.structs.replace(done, item=item, cause=Cause.RETURNED)


def _close_streams(cursor: Cursor, decided: Iterable[Finished]) -> None:
    ended = [done.stream for done in decided if done.stream is not None and done.is_end]
    record.close_streams(cursor, [(stream.owner, stream.id) for stream in ended])


def _stale(cursor: Cursor, finished: Iterable[Finished]) -> set[Key]:
    """Members that ran under a lease which is not theirs any more (E_FENCED): they change nothing."""
    epochs = {
        done.lot.key(done.index): done.lot.leased[done.index] for done in finished if done.index in done.lot.leased
    }
    return epochs.keys() - record.current_leases(cursor, epochs) if epochs else set()


def _may_retry(done: Finished) -> bool:
    return done.item.error is not None and _cause(done) not in NEVER_RETRIED


def _cause(done: Finished) -> Cause:
    if done.cause is not None:
        return done.cause
    assert done.item.error is not None
    return Cause(done.item.error.cause) if done.item.error.cause in set(Cause) else Cause.USER_ERROR


def _failures(
    cursor: Cursor, failed: Sequence[Finished]
) -> tuple[dict[Key, NewHold], dict[Key, NewHold], dict[Key, Held]]:
    """The hold rows of failed attempts: those to be tried again, and those whose budget is spent.

    The third are attempts that a later one has overtaken: another agent had them too, and they were charged already.
    A call of a fifo socket is tried again under the delivery that it came with, so that its row is OUT at once.
    """
    if not failed:
        return {}, {}, {}
    keys = [done.lot.key(done.index) for done in failed]
    held = record.holds(cursor, keys, lock=True)
    again: dict[Key, NewHold] = {}
    spent: dict[Key, NewHold] = {}
    overtaken: dict[Key, Held] = {}
    for done in failed:
        key = done.lot.key(done.index)
        before = held.get(key)
        if before and (done.lot.call(done.index).serial < before.serial or _leased_elsewhere(done, before)):
            overtaken[key] = before
            continue
        charged = _cause(done) in SPENDS_BUDGET
        used = (before.used if before else 0) + charged
        returns = (before.returns if before else 0) + (not charged)
        over = used >= done.lot.socket.max_attempts or returns >= MAX_RETURNS
        hold = NewHold(
            message=single(done.lot, done.index, done.lot.call(done.index).serial + 1),
            exchange=done.lot.socket.exchange,
            key=done.lot.socket.key,
            state=HoldState.DEAD if over else HoldState.OUT if done.lot.socket.ordered else HoldState.DUE,
            delay_seconds=_delay(done.lot.socket.retry_delay_seconds, used + returns),
            used=used,
            returns=returns,
        )
        (spent if over else again)[key] = hold
    return again, spent, overtaken


def _leased_elsewhere(done: Finished, before: Held) -> bool:
    return before.live_lease and done.index not in done.lot.leased


def _delay(first: float, tries: int) -> float:
    """Back-off doubles from `first`, with up to a quarter of jitter."""
    return float(min(first * 2 ** min(tries - 1, 16), MAX_RETRY_DELAY_SECONDS) * random.uniform(1.0, 1.25))


def single(lot: Lot, index: int, serial: int) -> Message:
    """One member of a lot as a message of its own, for attempt `serial`."""
    call = msgspec.structs.replace(lot.call(index), serial=serial)
    return msgspec.structs.replace(lot.message, calls=(call,))


def _proposal(done: Finished, spent: NewHold | None) -> NewOutcome:
    call, item = done.lot.call(done.index), done.item
    status = OutcomeStatus.SUCCEEDED if item.error is None else OutcomeStatus.FAILED
    if spent is not None:
        status = OutcomeStatus.DEAD
    # of a call that yielded, its items flow on, not their number
    flows = status is OutcomeStatus.SUCCEEDED and item.yielded is None
    routes = done.lot.socket.routes if flows else ()
    return NewOutcome(
        owner=done.lot.message.owner,
        id=call.id,
        status=status,
        value=item.value if item.error is None else None,
        error=None if item.error is None else messages.encode(item.error),
        digest=call.digest,
        socket=done.lot.message.socket,
        serial=call.serial,
        worker=done.worker,
        started=item.started or None,
        ended=item.ended or None,
        routes=messages.encode(routes) if routes else None,
    )


def _attempts(finished: Iterable[Finished], agent: bytes) -> list[NewAttempt]:
    """The executions worth a row: failed, with output, or announced before."""
    return [
        NewAttempt(
            owner=done.lot.message.owner,
            id=done.lot.call(done.index).id,
            serial=done.lot.call(done.index).serial,
            status=AttemptStatus.FAILED if done.item.error else AttemptStatus.SUCCEEDED,
            cause=_cause(done) if done.item.error else None,
            error=messages.encode(done.item.error) if done.item.error else None,
            socket=done.lot.message.socket,
            worker=done.worker,
            agent=agent,
            started=done.item.started or None,
            ended=done.item.ended or None,
            out=done.item.out,
            err=done.item.err,
        )
        for done in finished
        if done.item.error or done.item.out or done.item.err or done.lot.careful
    ]


def _verdict(
    key: Key,
    done: Finished,
    proposals: dict[Key, NewOutcome],
    won: set[Key],
    lost: dict[Key, Decided],
    retries: dict[Key, NewHold],
    overtaken: dict[Key, Held],
) -> Verdict:
    decided: NewOutcome | Decided
    if key in won:
        decided = proposals[key]
    elif _final(lost.get(key)):
        decided = lost[key]
    else:
        return _undecided(done, retries.get(key), overtaken.get(key))
    return adopt(done.lot, done.index, decided)


def _undecided(done: Finished, again: NewHold | None, later: Held | None) -> Verdict:
    """What follows where another attempt will decide."""
    seconds, serial = (again.delay_seconds, again.message.calls[0].serial) if again else (None, 0)
    if not done.lot.socket.ordered:
        return Verdict(done.lot, done.index, retry_seconds=seconds)
    if later is not None and later.state == HoldState.OUT:
        # the row only counts: what it counts for is this delivery, or that of another agent
        seconds, serial = OVERTAKEN_SECONDS, later.serial
    return Verdict(done.lot, done.index, retry_seconds=seconds, in_place=serial)


def attempt_of(serial: int, hold: Held | None, ordered: bool) -> int:
    """The attempt that a delivered call stands for: where order is kept it may have been tried in place before."""
    return max(serial, hold.serial) if ordered and hold is not None and hold.state == HoldState.OUT else serial


def adopt(lot: Lot, index: int, decided: NewOutcome | Decided) -> Verdict:
    """What follows for a member whose outcome stands in the database: always the committed value, never another's."""
    call = lot.call(index)
    if decided.digest is not None and decided.digest != call.digest:
        return Verdict(lot, index, conflict=True)
    error = messages.decode_error(decided.error) if decided.error else None
    return Verdict(
        lot,
        index,
        value=decided.value,
        routes=messages.decode_routes(decided.routes) if decided.value is not None else (),
        answer=Answer(call.id, KIND_OF[decided.status], decided.value, error),
        drop_hold=lot.careful or call.serial > 1 or index in lot.leased,
    )


@dataclass(frozen=True, slots=True)
class Found:
    """What a look-up found of a careful lot."""

    runnable: list[int]
    verdicts: list[Verdict]
    #: attempts that another agent announced and died with: to be charged
    abandoned: list[Finished]


def look_up(cursor: Cursor, lot: Lot, agent: bytes) -> Found:
    """Which members of a careful lot may run, are decided already, are stale, or killed their agent (1.7, 1.10)."""
    members = {lot.key(index): index for index in sorted(lot.open)}
    decided = record.outcomes(cursor, members)
    held = record.holds(cursor, members)
    for key, index in members.items():
        before = lot.call(index).serial
        if (serial := attempt_of(before, held.get(key), lot.socket.ordered)) != before:
            lot.renumber(index, serial)
    keys = {key: lot.call(index).serial for key, index in members.items()}
    announced = record.announced_elsewhere(cursor, keys, agent)
    found = Found([], [], [])
    for index in sorted(lot.open):
        key, serial = lot.key(index), lot.call(index).serial
        outcome = decided.get(key)
        if outcome and _final(outcome):
            found.verdicts.append(adopt(lot, index, outcome))
        elif (outcome and serial < outcome.serial) or stands_back(held.get(key), serial):
            found.verdicts.append(Verdict(lot, index))
        elif key in announced:
            found.abandoned.append(_abandoned(lot, index, announced[key]))
        else:
            found.runnable.append(index)
    return found


def stands_back(hold: Held | None, serial: int) -> bool:
    """An attempt that must not run: somebody leases the call, a later attempt is planned, or it is dead."""
    return hold is not None and (hold.live_lease or serial < hold.serial or hold.state == HoldState.DEAD)


def _abandoned(lot: Lot, index: int, cause: Cause) -> Finished:
    return Finished(lot, index, Item(index, None, losses.error_of(cause), 0.0, 0.0), None, cause)
