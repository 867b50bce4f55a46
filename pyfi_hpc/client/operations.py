"""What is done to invocations from outside: cancel, look at, requeue or drop the dead, purge a queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from psycopg2.extras import Json

from pyfi_hpc.client import rows
from pyfi_hpc.client.following import children
from pyfi_hpc.client.listing import (
    DEAD,
    RUNS,
    WAITING,
    attempt_rows,
    behind,
    child_rows,
    invocation_row,
    listed,
    newest,
    worker_row,
)
from pyfi_hpc.client.objects import discarding
from pyfi_hpc.control import retention
from pyfi_hpc.db import record
from pyfi_hpc.db.record import Cursor, Decided, Held, Key, NewOutcome
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.status import AttemptStatus, Cause, HoldState, OutcomeStatus
from pyfi_hpc.wire import messages, values
from pyfi_hpc.wire.ids import id_text
from pyfi_hpc.wire.messages import ErrorRecord

if TYPE_CHECKING:
    from pyfi_hpc.client.session import Session

#: One object as it is shown: plain values.
Record: TypeAlias = dict[str, Any]
#: So many calls are cancelled in one transaction.
_AT_ONCE = 1000
#: Ids in one hint; a notification holds less than 8,000 bytes.
_HINTED = 200


@dataclass(frozen=True, slots=True)
class _Cancelled:
    """What became of a cancel: which it decided, what decided the others, and which an attempt had begun."""

    won: set[bytes]
    before: dict[bytes, Decided]
    begun: set[bytes]


class Operations:
    """Each is one transaction. Ids are given in full or by their last digits, while these are unique."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def _run(self, work: Callable[[Cursor, str], Any]) -> Any:
        owner = self._session.owner
        return self._session.link.run(lambda cursor: work(cursor, owner))

    def _ids(self, texts: Iterable[str]) -> list[bytes]:
        given = list(texts)
        found: list[bytes] = self._run(lambda cursor, owner: [rows.full_id(cursor, owner, text) for text in given])
        return found

    # cancelling

    def cancel(self, ids: Iterable[str], *, tree: bool = False) -> list[Record]:
        """Cancel each: `{id, cancelled, status, begun}`; one that is decided already keeps its outcome.

        `begun`: an attempt of what was cancelled is known to have run; None where nothing was cancelled. With `tree`
        also what follows from these along plugs, as far as it has not begun; only what was cancelled of that is told.
        """
        wanted = self._ids(ids)
        done = self._cancel(wanted, running=True)
        told = [
            {
                "id": id_text(identity),
                "cancelled": identity in done.won,
                "status": "CANCELLED" if identity in done.won else _status(done.before.get(identity)),
                "begun": identity in done.begun if identity in done.won else None,
            }
            for identity in wanted
        ]
        followers = self._cancel_followers(wanted) if tree else ()
        return told + [
            {"id": id_text(each), "cancelled": True, "status": "CANCELLED", "begun": False} for each in followers
        ]

    def _cancel_followers(self, ids: Sequence[bytes]) -> Iterator[bytes]:
        """Cancel what follows from these and has not begun, level by level; yields what was cancelled."""
        level, known = set(ids), set(ids)
        while level:
            parents = sorted(level)
            level = set(self._run(partial(children, ids=parents))) - known
            known |= level
            found = sorted(level)
            for start in range(0, len(found), _AT_ONCE):
                yield from sorted(self._cancel(found[start : start + _AT_ONCE], running=False).won)

    def cancel_one(self, identity: bytes, *, running: bool) -> bool:
        """Cancel it if no attempt is known to have begun (or, with `running`, also then); True if that decided it.

        A first attempt is known about a second after its start: one that is younger is stopped, and its value dropped.
        """
        return identity in self._cancel([identity], running=running).won

    def _cancel(self, ids: Sequence[bytes], *, running: bool) -> _Cancelled:
        """Commit CANCELLED where nothing is decided, and, but for `running`, nothing has begun; tell the agents."""

        def work(cursor: Cursor, owner: str) -> _Cancelled:
            keys = [(owner, identity) for identity in ids]
            held, before = record.holds(cursor, keys, lock=True), record.outcomes(cursor, keys)
            begun = _begun(cursor, owner, ids)
            wanted = {key for key in keys if running or key[1] not in begun}
            why = f"cancelled by {owner}"
            won = record.insert_outcomes(
                cursor, [_cancelled(key, held.get(key), before.get(key), why) for key in wanted]
            )
            record.drop_holds(cursor, won)
            left = record.outcomes(cursor, set(keys) - won)
            return _Cancelled({key[1] for key in won}, {key[1]: outcome for key, outcome in left.items()}, begun)

        done: _Cancelled = self._run(work)
        for start in range(0, len(done.won), _HINTED):
            part = sorted(done.won)[start : start + _HINTED]
            self._session.broker.hint(self._session.network_name, " ".join(["cancel", *(each.hex() for each in part)]))
        return done

    def forget(self, ids: Iterable[str]) -> list[Record]:
        """Clear the value of each for good: `{id, forgotten, status}`. That it was decided stays on record.

        What has not flowed on along plugs by then does not flow any more after a crash: there is nothing to send.
        """
        wanted = self._ids(ids)

        def work(cursor: Cursor, owner: str) -> tuple[set[Key], dict[Key, Decided]]:
            keys = [(owner, identity) for identity in wanted]
            gone = retention.forget(cursor, keys)
            if gone:
                told = sorted(id_text(identity) for _, identity in gone)
                _event(cursor, "invocation", "", f"{len(gone)} forgotten", {"ids": told})
            return gone, record.outcomes(cursor, keys)

        gone, decided = self._run(work)
        found = {identity: outcome for (_, identity), outcome in decided.items()}
        forgotten = {identity for _, identity in gone}
        return [
            {"id": id_text(each), "forgotten": each in forgotten, "status": _status(found.get(each))} for each in wanted
        ]

    # looking

    def status(self, identity: bytes) -> str:
        """SUCCEEDED, FAILED, CANCELLED, DEAD, RUNNING where an attempt is known to run, WAITING where it is to start
        later, else QUEUED.

        An attempt is known to run from its start where it is not the first, else about a second later.
        """
        return str(self._run(lambda cursor, owner: _status_now(cursor, owner, identity)))

    def behind(self, socket: str) -> Record | None:
        """The processor that takes the calls of a socket: name, requested, status, reason, ready (how many workers)."""
        network, name = self._session.network_name, self._session.way(socket).socket.name
        found: Record | None = self._run(lambda cursor, _: behind(cursor, network, name))
        return found

    def invocation(self, id: str) -> Record:
        """All that is on record of one invocation, its attempts and what its value was sent on to included."""
        (identity,) = self._ids([id])
        found: Record = self._run(lambda cursor, owner: invocation_row(cursor, owner, identity))
        children: list[Record] = self._run(lambda cursor, owner: child_rows(cursor, owner, identity))
        return found | {"status": self.status(identity), "attempts": self.attempts(id), "children": children}

    def invocations(self, most: int) -> list[Record]:
        """Those that are on record, `most` at most: what waits to start, by its time; what runs or is held; what is
        decided, newest first. Calls that wait in a queue have no row yet."""
        found: list[Record] = self._run(lambda cursor, owner: newest(cursor, owner, most))
        return found

    def attempts(self, id: str) -> list[Record]:
        """Its executions worth a row, in order: serial, status, cause, error, node, cores, started, ended."""
        (identity,) = self._ids([id])
        found: list[Record] = self._run(lambda cursor, owner: attempt_rows(cursor, owner, identity))
        return found

    def worker(self, identity: bytes) -> Record | None:
        """Who made its outcome: id, node, cores, slot, devices (uuid, model of each), job (Slurm's id), commit, pid."""
        found: Record | None = self._run(lambda cursor, owner: worker_row(cursor, owner, identity))
        return found

    def logs(self, id: str) -> str:
        """What its attempts printed: of each the standard output, then the standard error."""
        return "".join(attempt["out"] + attempt["err"] for attempt in self.attempts(id))

    # the dead

    def dead(self) -> list[Record]:
        """Every dead invocation whose payload is kept, newest first: id, socket, cause, error, attempts, since."""
        found: list[Record] = self._run(lambda cursor, owner: listed(cursor, DEAD, (owner,)))
        return found

    def dead_show(self, id: str) -> Record:
        """A dead invocation with its arguments and attempts.

        Raises:
            BadInput: E_NOT_FOUND, it is not dead, or its payload was dropped.
        """
        (identity,) = self._ids([id])
        payload = self._run(lambda cursor, owner: _payload(cursor, owner, identity))
        args, kwargs = values.decode_arguments(payload, resolve=lambda reference: repr(reference).encode())
        return self.invocation(id_text(identity)) | {"args": list(args), "kwargs": kwargs}

    def requeue(self, ids: Iterable[str]) -> list[str]:
        """Give dead invocations a new budget and have them published; returns their ids.

        Raises:
            BadInput: E_NOT_FOUND, one is not dead; nothing is changed then.
        """
        wanted = self._ids(ids)
        self._run(lambda cursor, owner: _requeue(cursor, owner, wanted))
        self._session.broker.hint(self._session.network_name, "due")
        return [id_text(identity) for identity in wanted]

    def drop(self, ids: Iterable[str]) -> list[str]:
        """Let go of what is kept to requeue dead invocations; their outcomes stay DEAD. Returns their ids.

        Raises:
            BadInput: E_NOT_FOUND, one is not dead; nothing is changed then.
        """
        wanted = self._ids(ids)

        def work(cursor: Cursor, owner: str) -> None:
            _lock_dead(cursor, owner, wanted)
            keys = [identity.hex() for identity in wanted]
            cursor.execute("DELETE FROM pyfi.hold WHERE owner = %s AND id = ANY(%s::uuid[])", (owner, keys))
            _event(cursor, "invocation", "", f"{len(wanted)} dead dropped", {"ids": [id_text(each) for each in wanted]})

        self._run(work)
        return [id_text(identity) for identity in wanted]

    # queues

    def purge(self, queue: str) -> int:
        """Take all that waits in a logical queue off it, each call CANCELLED on record; returns how many.

        Raises:
            BadInput: E_NOT_FOUND.
        """
        names = self._queues(queue)
        count = 0

        def taken(body: bytes) -> None:
            nonlocal count
            network, why = self._session.network_name, f"purged from queue {queue}"
            count += self._session.link.run(lambda cursor: discarding.cancel(cursor, network, body, why))

        for name in names:
            self._session.broker.purge(name, taken)
        self._run(lambda cursor, _: _event(cursor, "queue", queue, f"purged, {count} calls", {"count": count}))
        return count

    def waiting(self, queue: str) -> int:
        """How many messages wait in a logical queue, each of one call or of several."""
        return sum(self._session.broker.depth(name).ready for name in self._queues(queue))

    def peek(self, queue: str, count: int = 10) -> list[Record]:
        """The first calls that wait in a logical queue, left where they are."""
        found = [
            each for name in self._queues(queue) for message in self._session.broker.peek(name, count)
            for each in _peeked(message.body, message.redelivered)
        ]  # fmt: skip
        return found[:count]

    def _queues(self, queue: str) -> list[str]:
        """The broker's names of a logical queue's parts."""
        network = self._session.network_name

        def work(cursor: Cursor, _: str) -> list[str] | None:
            cursor.execute(
                "SELECT q.id FROM pyfi.queue q JOIN pyfi.network n ON n.id = q.network_id"
                " WHERE n.name = %s AND q.name = %s",
                (network, queue),
            )
            if (row := cursor.fetchone()) is None:
                return None
            cursor.execute(
                "SELECT task_key, generation FROM pyfi.task_queue"
                " WHERE queue_id = %s AND declared IS NOT NULL ORDER BY task_key",
                row,
            )
            return [f"q.{network}.{queue}.{key}.g{generation}" for key, generation in cursor.fetchall()]

        names: list[str] | None = self._run(work)
        if names is None:
            raise BadInput.of("E_NOT_FOUND", "queue", queue, f"no queue {queue!r}", cure="pyfi ls queues")
        return names


def _status(decided: Decided | None) -> str:
    return decided.status.value if decided else "QUEUED"


def _cancelled(key: Key, held: Held | None, before: Decided | None, why: str) -> NewOutcome:
    # a reopened one takes only an outcome that names the attempt it was reopened for, or a later one
    serial = max(1, held.serial if held else 1, before.serial if before else 1)
    error = ErrorRecord("pyfi_hpc.errors.Cancelled", why, "", "E_CANCELLED", Cause.RETURNED)
    return NewOutcome(*key, OutcomeStatus.CANCELLED, None, messages.encode(error), None, None, serial)


def _begun(cursor: Cursor, owner: str, ids: Sequence[bytes]) -> set[bytes]:
    """Those of which an attempt is on record, leased, or known to run."""
    cursor.execute(
        f"""SELECT uuid_send(id) FROM pyfi.attempt WHERE owner = %(owner)s AND id = ANY(%(ids)s::uuid[])
            UNION SELECT uuid_send(id) FROM pyfi.hold
                WHERE owner = %(owner)s AND id = ANY(%(ids)s::uuid[]) AND state = 'LEASED'
            UNION SELECT uuid_send(w.running) FROM pyfi.worker w WHERE w.running = ANY(%(ids)s::uuid[]) AND {RUNS}""",
        {"owner": owner, "ids": [identity.hex() for identity in ids]},
    )
    return {bytes(row[0]) for row in cursor.fetchall()}


def _status_now(cursor: Cursor, owner: str, identity: bytes) -> str:
    key = (owner, identity)
    decided = record.outcomes(cursor, [key]).get(key)
    if decided is not None and decided.status is not OutcomeStatus.REOPENED:
        return decided.status.value
    held = record.holds(cursor, [key]).get(key)
    if held is not None and held.state == HoldState.LEASED:
        return "RUNNING"
    cursor.execute(
        "SELECT status FROM pyfi.attempt WHERE owner = %s AND id = %s::uuid ORDER BY serial DESC LIMIT 1",
        (owner, identity.hex()),
    )
    newest = cursor.fetchone()
    if newest is not None and newest[0] == AttemptStatus.STARTED:
        return "RUNNING"
    # where it waits for its next attempt, a worker's row may be one look behind
    waits = held is not None and held.state == HoldState.DUE
    if held is not None and waits and not held.used and not held.returns and held.ahead:
        return WAITING
    return "RUNNING" if not waits and _runs(cursor, owner, identity) else "QUEUED"


def _runs(cursor: Cursor, owner: str, identity: bytes) -> bool:
    cursor.execute(
        f"SELECT EXISTS (SELECT FROM pyfi.worker w WHERE w.running = %(id)s::uuid AND {RUNS})",
        {"owner": owner, "id": identity.hex()},
    )
    return bool(cursor.fetchone()[0])


def _lock_dead(cursor: Cursor, owner: str, ids: Sequence[bytes]) -> dict[Key, Held]:
    held = record.holds(cursor, [(owner, identity) for identity in ids], lock=True)
    for identity in ids:
        if (owner, identity) not in held or held[owner, identity].state != HoldState.DEAD:
            raise _not_dead(identity)
    return held


def _not_dead(identity: bytes) -> BadInput:
    text = id_text(identity)
    return BadInput.of("E_NOT_FOUND", "id", text, f"no dead invocation {text} is kept", cure="pyfi dead ls")


def _requeue(cursor: Cursor, owner: str, ids: Sequence[bytes]) -> None:
    """REOPENED and DUE together; the hold row names the next attempt already, and only that one may decide now."""
    _lock_dead(cursor, owner, ids)
    keys = sorted(identity.hex() for identity in set(ids))
    cursor.execute(
        """UPDATE pyfi.outcome o SET status = 'REOPENED', serial = h.serial FROM pyfi.hold h
           WHERE o.owner = %s AND o.id = ANY(%s::uuid[]) AND h.owner = o.owner AND h.id = o.id AND o.status = 'DEAD'""",
        (owner, keys),
    )
    cursor.execute(
        """UPDATE pyfi.hold SET state = 'DUE', due = now(), used = 0, returns = 0, epoch = epoch + 1
           WHERE owner = %s AND id = ANY(%s::uuid[])""",
        (owner, keys),
    )
    _event(cursor, "invocation", "", f"{len(keys)} dead requeued", {"ids": keys})


def _payload(cursor: Cursor, owner: str, identity: bytes) -> bytes:
    cursor.execute(
        "SELECT payload FROM pyfi.hold WHERE owner = %s AND id = %s::uuid AND state = 'DEAD'", (owner, identity.hex())
    )
    if (row := cursor.fetchone()) is None:
        raise _not_dead(identity)
    return messages.decode_message(bytes(row[0])).calls[0].args


def _peeked(body: bytes, redelivered: bool) -> list[Record]:
    try:
        message = messages.decode_message(body)
    except BadInput as error:
        return [{"id": None, "owner": None, "error": error.what, "bytes": len(body), "redelivered": redelivered}]
    return [
        {
            "id": id_text(call.id),
            "owner": message.owner,
            "serial": call.serial,
            "bytes": len(call.args),
            "redelivered": redelivered,
        }
        for call in message.calls
    ]


def _event(cursor: Cursor, kind: str, name: str, what: str, detail: Record) -> None:
    cursor.execute(
        "INSERT INTO pyfi.event (kind, name, what, detail) VALUES (%s, %s, %s, %s)", (kind, name, what, Json(detail))
    )
