"""The record of what came of every invocation, as plain SQL on one connection.

These statements are the contract (RELIABILITY 1): the caller runs them inside one transaction per flush.
Rows go in sorted by id, so that two agents that commit the same ids never deadlock.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import msgspec
import psycopg2
from psycopg2.extras import execute_values

from pyfi_hpc.db import arrays, binary
from pyfi_hpc.model.status import AttemptStatus, Cause, OutcomeStatus
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.ids import ID_BYTES
from pyfi_hpc.wire.messages import ErrorRecord, Message

Cursor: TypeAlias = Any  # psycopg2's cursor has no types of its own
#: (owner, id): an outcome's key.
Key: TypeAlias = tuple[str, bytes]


class NewOutcome(msgspec.Struct, frozen=True, gc=False):
    """An outcome as an attempt proposes it; `error` and `routes` are encoded, times are UTC seconds."""

    owner: str
    id: bytes
    status: OutcomeStatus
    value: bytes | None
    error: bytes | None
    digest: bytes | None
    socket: bytes | None
    serial: int
    worker: bytes | None = None
    started: float | None = None
    ended: float | None = None
    routes: bytes | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """An outcome as it was committed."""

    status: OutcomeStatus
    value: bytes | None
    error: bytes | None
    digest: bytes | None
    serial: int
    routes: bytes | None


@dataclass(frozen=True, slots=True)
class Held:
    """A hold row, as far as a delivery needs to know it."""

    state: str
    serial: int
    used: int
    returns: int
    live_lease: bool
    epoch: int
    #: `due` is to come
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class NewAttempt:
    """An execution that failed, printed, or is announced before it starts (status STARTED, no times)."""

    owner: str
    id: bytes
    serial: int
    status: AttemptStatus
    cause: Cause | None = None
    error: bytes | None = None
    socket: bytes | None = None
    worker: bytes | None = None
    agent: bytes | None = None
    started: float | None = None
    ended: float | None = None
    out: bytes = b""
    err: bytes = b""


_OUTCOME_INSERT = """
    WITH won AS (
        INSERT INTO pyfi.outcome AS o
            (owner, id, status, value, error, digest, socket_id, serial, worker_id, started, ended, routes)
        SELECT owner, id, status, value, error, digest, socket, serial, worker,
               to_timestamp(started), to_timestamp(ended), routes
        FROM unnest(%s::text[], %s::uuid[], %s::pyfi.outcome_status[], %s::bytea[], %s::bytea[], %s::bytea[],
                    %s::uuid[], %s::int[], %s::uuid[], %s::float8[], %s::float8[], %s::bytea[])
            AS new (owner, id, status, value, error, digest, socket, serial, worker, started, ended, routes)
        ON CONFLICT (owner, id) {action}
        RETURNING owner, id
    ) SELECT owner, string_agg(uuid_send(id), '') FROM won GROUP BY owner"""
# a dead invocation that an operator reopened takes only the attempt that the reopening named, or a later one
_REPLACE_REOPENED = """DO UPDATE SET status = excluded.status, value = excluded.value, error = excluded.error,
        digest = excluded.digest, socket_id = excluded.socket_id, serial = excluded.serial,
        worker_id = excluded.worker_id, started = excluded.started, ended = excluded.ended, routes = excluded.routes,
        committed = clock_timestamp()
    WHERE o.status = 'REOPENED' AND o.serial <= excluded.serial"""


def insert_outcomes(cursor: Cursor, outcomes: Iterable[NewOutcome]) -> set[Key]:
    """Commit what is new; the first commit wins. Returns the keys of those that this call decided."""
    ordered = sorted(outcomes, key=lambda new: (new.owner, new.id))
    if not ordered:
        return set()
    action = "DO NOTHING" if all(new.serial == 1 for new in ordered) else _REPLACE_REOPENED
    cursor.execute(_OUTCOME_INSERT.format(action=action), _columns(ordered))
    return {
        (owner, ids[at : at + ID_BYTES])
        for owner, ids in ((owner, bytes(joined)) for owner, joined in cursor.fetchall())
        for at in range(0, len(ids), ID_BYTES)
    }


def _columns(rows: Sequence[NewOutcome]) -> tuple[str, ...]:
    return (
        arrays.texts([new.owner for new in rows]),
        arrays.uuids([new.id for new in rows]),
        arrays.words([new.status.value for new in rows]),
        arrays.binaries([new.value for new in rows]),
        arrays.binaries([new.error for new in rows]),
        arrays.binaries([new.digest for new in rows]),
        arrays.uuids([new.socket for new in rows]),
        arrays.numbers([new.serial for new in rows]),
        arrays.uuids([new.worker for new in rows]),
        arrays.numbers([new.started for new in rows]),
        arrays.numbers([new.ended for new in rows]),
        arrays.binaries([new.routes for new in rows]),
    )


# ways: what rows that came the same way share; a row names its own by number
_VALUES = "values_of_calls"
_PREPARE_VALUES = """
    PREPARE values_of_calls (text[], uuid[], uuid[], bytea[], int[], uuid[], bytea[], bytea[], float8[], float8[]) AS
    INSERT INTO pyfi.outcome (owner, id, status, value, digest, socket_id, worker_id, started, ended, routes)
    SELECT $1[way], id, 'SUCCEEDED', value, digest, $2[way], $3[way], to_timestamp(started), to_timestamp(ended),
           $4[way]
    FROM unnest($5, $6, $7, $8, $9, $10) AS new (way, id, value, digest, started, ended);"""
_INSERT_VALUES = "EXECUTE values_of_calls (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"


class Way(NamedTuple):
    """What the outcomes of many calls share."""

    owner: str
    socket: bytes
    worker: bytes | None
    routes: bytes | None


class NewValue(NamedTuple):
    """The outcome of a first attempt that succeeded; times are UTC seconds."""

    id: bytes
    way: Way
    value: bytes
    digest: bytes
    started: float
    ended: float


def insert_values(cursor: Cursor, new: Iterable[NewValue]) -> None:
    """Commit these, all or none, in one statement that is its own transaction: the cursor's connection is one of
    autocommit. Less than half of what `insert_outcomes` costs.

    Raises:
        UniqueViolation: something is decided of one of them; nothing was written.
    """
    rows = sorted(new)
    ways = {way: number for number, way in enumerate(dict.fromkeys([row.way for row in rows]), start=1)}
    if binary.execute(cursor.connection, _VALUES, _value_columns(binary, rows, ways)):
        return
    columns = _value_columns(arrays, rows, ways)
    try:
        cursor.execute(_INSERT_VALUES, columns)
    except psycopg2.errors.InvalidSqlStatementName:
        # a session that has not seen it: the first time, and behind a pooler any time
        cursor.execute(_PREPARE_VALUES + _INSERT_VALUES, columns)


def _value_columns(form: Any, rows: Sequence[NewValue], ways: Mapping[Way, int]) -> tuple[Any, ...]:
    """In the order of the statement's parameters, as text (`arrays`) or in Postgres' own format (`binary`)."""
    return (
        form.texts([way.owner for way in ways]),
        form.uuids([way.socket for way in ways]),
        form.uuids([way.worker for way in ways]),
        form.binaries([way.routes for way in ways]),
        form.integers([ways[row.way] for row in rows]),
        form.uuids([row.id for row in rows]),
        form.binaries([row.value for row in rows]),
        form.binaries([row.digest for row in rows]),
        form.floats([row.started for row in rows]),
        form.floats([row.ended for row in rows]),
    )


def _keys(keys: Iterable[Key]) -> tuple[list[str], list[str]]:
    pairs = sorted(set(keys))
    return [owner for owner, _ in pairs], [identity.hex() for _, identity in pairs]


_BY_KEY = "FROM unnest(%s::text[], %s::uuid[]) AS k (owner, id) JOIN"


def by_key(table: str) -> str:
    """What stands in FROM for the rows of a table whose keys are given, as arrays of owners and ids: name it with AS.

    One look at the index for each. As a plain join it is left to the planner, which without statistics of a young
    table would rather read all of that: a thousand keys among 250,000 rows then take 90 ms in place of 4.
    """
    return (
        "unnest(%s::text[], %s::uuid[]) AS k (owner, id) CROSS JOIN LATERAL"
        f" (SELECT * FROM pyfi.{table} AS t WHERE t.owner = k.owner AND t.id = k.id OFFSET 0)"
    )


def outcomes(cursor: Cursor, keys: Iterable[Key]) -> dict[Key, Decided]:
    """What is decided of `keys`. Must be a statement of its own: one that inserts does not see the winner's row."""
    owners, ids = _keys(keys)
    if not owners:
        return {}
    cursor.execute(
        "SELECT o.owner, uuid_send(o.id), o.status, o.value, o.error, o.digest, o.serial, o.routes"
        f" FROM {by_key('outcome')} AS o",
        (owners, ids),
    )
    return {
        (owner, bytes(identity)): Decided(
            OutcomeStatus(status), _bytes(value), _bytes(error), _bytes(digest), serial, _bytes(routes)
        )
        for owner, identity, status, value, error, digest, serial, routes in cursor.fetchall()
    }


@dataclass(frozen=True, slots=True)
class Follower:
    """A call that is decided, or held; `value` and `routes` where it is decided and leads on."""

    digest: bytes | None
    value: bytes | None = None
    routes: bytes | None = None


def followers(cursor: Cursor, keys: Iterable[Key]) -> dict[Key, Follower]:
    """Which of `keys` need nobody to send them: they are decided, or have a hold row that somebody sees to (1.9).

    Of a held one it does not matter whether it is decided: its row stays until it is sent on.
    """
    owners, ids = _keys(keys)
    if not owners:
        return {}
    cursor.execute(
        "SELECT o.owner, uuid_send(o.id), o.digest, CASE WHEN o.routes IS NOT NULL THEN o.value END, o.routes"
        f" FROM {by_key('outcome')} AS o WHERE o.status <> 'REOPENED'",
        (owners, ids),
    )
    found = {
        (owner, bytes(identity)): Follower(_bytes(digest), _bytes(value), _bytes(routes))
        for owner, identity, digest, value, routes in cursor.fetchall()
    }
    cursor.execute(
        f"SELECT h.payload FROM {by_key('hold')} AS h WHERE h.state <> 'DEAD'",
        (owners, ids),
    )
    for (payload,) in cursor.fetchall():
        message = messages.decode_message(bytes(payload))
        found[message.owner, message.calls[0].id] = Follower(message.calls[0].digest)
    return found


def own(cursor: Cursor, tried: Mapping[Key, tuple[bytes | None, float]]) -> set[Key]:
    """Which of these attempts (by worker and start) stand as outcomes: those that an earlier try of this transaction
    has committed, where its answer was lost."""
    rows = [(owner, identity.hex(), worker.hex() if worker else None, started)
            for (owner, identity), (worker, started) in sorted(tried.items())]  # fmt: skip
    if not rows:
        return set()
    found = execute_values(
        cursor,
        """SELECT o.owner, uuid_send(o.id) FROM (VALUES %s) AS k (owner, id, worker, started)
           JOIN pyfi.outcome o ON o.owner = k.owner AND o.id = k.id
           WHERE o.worker_id = k.worker AND o.started = k.started""",
        rows,
        template="(%s, %s::uuid, %s::uuid, to_timestamp(%s))",
        page_size=len(rows),
        fetch=True,
    )
    return {(owner, bytes(identity)) for owner, identity in found}


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


def insert_attempts(cursor: Cursor, attempts: Iterable[NewAttempt]) -> None:
    """Record executions; the end of an attempt replaces its announcement, nothing else is ever replaced.

    Each has a time, for retention to go by: where nobody knows when it ended, it is now.
    """
    rows = [
        (
            new.owner,
            new.id.hex(),
            new.serial,
            new.status.value,
            new.cause.value if new.cause else None,
            new.error,
            new.socket.hex() if new.socket else None,
            new.worker.hex() if new.worker else None,
            new.agent.hex() if new.agent else None,
            new.started,
            new.ended or (None if new.status is AttemptStatus.STARTED else time.time()),
            new.out or None,
            new.err or None,
        )
        for new in sorted(attempts, key=lambda new: (new.owner, new.id, new.serial))
    ]
    if not rows:
        return
    execute_values(
        cursor,
        """INSERT INTO pyfi.attempt AS a (owner, id, serial, status, cause, error, socket_id, worker_id, agent_id,
               started, ended, out, err)
           VALUES %s ON CONFLICT (owner, id, serial) DO UPDATE SET status = excluded.status, cause = excluded.cause,
               error = excluded.error, worker_id = coalesce(excluded.worker_id, a.worker_id),
               started = coalesce(excluded.started, a.started), ended = excluded.ended,
               out = excluded.out, err = excluded.err
           WHERE a.status = 'STARTED' AND excluded.status <> 'STARTED'""",
        rows,
        template="(%s, %s::uuid, %s, %s::pyfi.attempt_status, %s::pyfi.cause, %s, %s::uuid, %s::uuid, %s::uuid,"
        " to_timestamp(%s), to_timestamp(%s), %s, %s)",
        page_size=len(rows),
    )


def announced_elsewhere(cursor: Cursor, serials: Mapping[Key, int], agent: bytes) -> dict[Key, Cause]:
    """Which of these attempts (key and serial) another agent announced and never ended, and what is known to be why."""
    owners, ids = _keys(serials)
    if not owners:
        return {}
    cursor.execute(
        f"SELECT a.owner, uuid_send(a.id), a.serial, g.lost FROM {by_key('attempt')} AS a"
        " LEFT JOIN pyfi.agent g ON g.id = a.agent_id"
        " WHERE a.status = 'STARTED' AND a.agent_id IS DISTINCT FROM %s::uuid",
        (owners, ids, agent.hex()),
    )
    return {
        (owner, bytes(identity)): Cause(lost or Cause.AGENT_LOST)
        for owner, identity, serial, lost in cursor.fetchall()
        if serials[owner, bytes(identity)] == serial
    }


def note_dropped(cursor: Cursor, keys: Iterable[Key]) -> None:
    """Put on record that these invocations were run again for nothing: an earlier result stands, or the lease is gone.

    Said also where this agent's own commit is repeated because its answer was lost.
    """
    owners, ids = _keys(keys)
    if owners:
        cursor.execute(
            "INSERT INTO pyfi.event (kind, object_id, what) SELECT 'invocation', k.id, 'second result dropped'"
            " FROM unnest(%s::text[], %s::uuid[]) AS k (owner, id)",
            (owners, ids),
        )


def holds(cursor: Cursor, keys: Iterable[Key], *, lock: bool = False) -> dict[Key, Held]:
    """The hold rows of `keys`, locked until the transaction ends when `lock`."""
    owners, ids = _keys(keys)
    if not owners:
        return {}
    cursor.execute(
        f"SELECT h.owner, uuid_send(h.id), h.state, h.serial, h.used, h.returns,"
        f" h.state = 'LEASED' AND h.due > now(), h.epoch, h.due > now() {_BY_KEY} pyfi.hold h USING (owner, id)"
        + (" ORDER BY h.owner, h.id FOR UPDATE OF h" if lock else ""),
        (owners, ids),
    )
    return {(row[0], bytes(row[1])): Held(*row[2:]) for row in cursor.fetchall()}


@dataclass(frozen=True, slots=True)
class NewHold:
    """A hold row to be written; `message` has one call, whose serial is the next attempt's."""

    message: Message
    exchange: str
    key: str
    state: str
    delay_seconds: float = 0.0
    used: int = 0
    returns: int = 0
    holder: bytes | None = None

    @property
    def row(self) -> tuple[Any, ...]:
        call = self.message.calls[0]
        return (
            self.message.owner,
            call.id.hex(),
            self.state,
            self.delay_seconds,
            call.serial,
            self.used,
            self.returns,
            self.holder.hex() if self.holder else None,
            messages.encode(self.message),
            self.exchange,
            self.key,
            self.message.socket.hex(),
        )


_HOLD_INSERT = """INSERT INTO pyfi.hold AS h
        (owner, id, state, due, serial, used, returns, holder, payload, exchange, key, socket_id)
    VALUES %s ON CONFLICT (owner, id) """
_HOLD_ROW = (
    "(%s, %s::uuid, %s::pyfi.hold_state, now() + %s * interval '1 second', %s, %s, %s, %s::uuid, %s, %s, %s, %s::uuid)"
)


def put_holds(cursor: Cursor, new: Sequence[NewHold]) -> None:
    """Write hold rows, replacing those that stand under the same key (the caller has locked and read them)."""
    rows = sorted(hold.row for hold in new)
    if rows:
        execute_values(
            cursor,
            _HOLD_INSERT
            + """DO UPDATE SET state = excluded.state, due = excluded.due, serial = excluded.serial,
                used = excluded.used, returns = excluded.returns, holder = excluded.holder, payload = excluded.payload,
                epoch = h.epoch + 1""",
            rows,
            template=_HOLD_ROW,
            page_size=len(rows),
        )


def add_hold(cursor: Cursor, new: NewHold) -> bool:
    """Write a hold row where none stands under its key; whether it did."""
    cursor.execute(_HOLD_INSERT.replace("VALUES %s", f"VALUES {_HOLD_ROW}") + "DO NOTHING", new.row)
    return bool(cursor.rowcount)


def held_digest(cursor: Cursor, key: Key, *, lock: bool = False) -> bytes | None:
    """The digest of the call that has the hold row; None where there is none. `lock` as in `holds`."""
    select = "SELECT payload FROM pyfi.hold WHERE owner = %s AND id = %s::uuid" + (" FOR UPDATE" if lock else "")
    cursor.execute(select, (key[0], key[1].hex()))
    found = cursor.fetchone()
    return None if found is None else messages.decode_message(bytes(found[0])).calls[0].digest


def park_holds(cursor: Cursor, new: Sequence[NewHold]) -> None:
    """Write hold rows for messages that the broker does not hold, or soon will not.

    One that waits already, is leased or dead is as good; one whose message is out is that message: it waits again. So
    does one of an earlier attempt that nobody has marked out yet: whoever published it must not do so any more.
    """
    rows = _rows(new)
    if rows:
        execute_values(
            cursor,
            _HOLD_INSERT
            + """DO UPDATE SET state = excluded.state, due = excluded.due, serial = excluded.serial,
                payload = excluded.payload, holder = NULL, epoch = h.epoch + 1
               WHERE h.state = 'OUT' AND h.serial <= excluded.serial
                  OR h.state = 'DUE' AND h.serial < excluded.serial""",
            rows,
            template=_HOLD_ROW,
            page_size=len(rows),
        )


def _rows(new: Sequence[NewHold]) -> list[tuple[Any, ...]]:
    """In the order of their keys, each key once: one statement cannot write a row twice."""
    return sorted({hold.row[:2]: hold.row for hold in new}.values(), key=lambda row: row[:2])


def drop_holds(cursor: Cursor, keys: Iterable[Key]) -> None:
    """The invocations are committed and forwarded: nothing is held any more. Dead ones are kept for an operator."""
    owners, ids = _keys(keys)
    if owners:
        cursor.execute(
            "DELETE FROM pyfi.hold h USING unnest(%s::text[], %s::uuid[]) AS k (owner, id)"
            " WHERE h.owner = k.owner AND h.id = k.id AND h.state <> 'DEAD'",
            (owners, ids),
        )


def drop_hold_of(cursor: Cursor, key: Key, digest: bytes) -> None:
    """The call of this digest is not wanted any more, its id being another one's: that one's hold row stays."""
    if held_digest(cursor, key, lock=True) == digest:
        drop_holds(cursor, [key])


@dataclass(frozen=True, slots=True)
class Due:
    """A held message that is to be published now."""

    message: Message
    exchange: str
    key: str
    returns: int


def take_due(cursor: Cursor, limit: int, *, again_seconds: float = 15.0) -> list[Due]:
    """Held messages whose time has come; nobody else is given them for `again_seconds`.

    A lapsed lease becomes due with the next serial: its holder's late commit is then stale.
    """
    cursor.execute(
        """WITH k AS MATERIALIZED (
               SELECT owner, id FROM pyfi.hold WHERE state IN ('DUE', 'LEASED') AND due <= now()
               ORDER BY due LIMIT %s FOR UPDATE SKIP LOCKED)
           UPDATE pyfi.hold h SET due = now() + %s * interval '1 second', state = 'DUE',
               serial = h.serial + (h.state = 'LEASED')::int, epoch = h.epoch + (h.state = 'LEASED')::int
           FROM k WHERE h.owner = k.owner AND h.id = k.id
           RETURNING h.payload, h.exchange, h.key, h.serial, h.returns""",
        (limit, again_seconds),
    )
    return [
        Due(with_serial(messages.decode_message(bytes(payload)), serial), exchange, key, returns)
        for payload, exchange, key, serial, returns in cursor.fetchall()
    ]


def next_due(cursor: Cursor) -> float | None:
    """Seconds until the next hold row comes due, None when there is none."""
    cursor.execute(
        "SELECT extract(epoch FROM min(due) - clock_timestamp())::float8 FROM pyfi.hold"
        " WHERE state IN ('DUE', 'LEASED')"
    )
    seconds: float | None = cursor.fetchone()[0]
    return seconds


def with_serial(message: Message, serial: int) -> Message:
    """The same message of one call, for another attempt."""
    (call,) = message.calls
    return msgspec.structs.replace(message, calls=(msgspec.structs.replace(call, serial=serial),))


def mark_out(cursor: Cursor, published: Iterable[Message]) -> None:
    """These messages are the broker's again."""
    rows = [(message.owner, message.calls[0].id.hex(), message.calls[0].serial) for message in published]
    if rows:
        execute_values(
            cursor,
            """UPDATE pyfi.hold h SET state = 'OUT', holder = NULL FROM (VALUES %s) AS k (owner, id, serial)
               WHERE h.owner = k.owner AND h.id = k.id::uuid AND h.serial = k.serial AND h.state = 'DUE'""",
            sorted(rows),
            page_size=len(rows),
        )


def lease(cursor: Cursor, new: Sequence[NewHold]) -> dict[Key, int]:
    """Lease rows for members that run for long, where neither outcome nor a newer hold row exists.

    Returns the epoch of each lease that is held; a member without one is decided, or somebody else's by now. A row of
    this attempt or an earlier one becomes the lease, whether its publisher has marked it out or not; so does a lease of
    the same holder, which an earlier try of this transaction has left.
    """
    rows = _rows(new)
    if not rows:
        return {}
    taken = execute_values(
        cursor,
        """INSERT INTO pyfi.hold AS h
               (owner, id, state, due, serial, used, returns, holder, payload, exchange, key, socket_id)
           SELECT v.* FROM (VALUES %s) AS v (owner, id, state, due, serial, used, returns, holder, payload, exchange,
               key, socket_id)
           WHERE NOT EXISTS (SELECT FROM pyfi.outcome o WHERE o.owner = v.owner AND o.id = v.id
                             AND o.status <> 'REOPENED')
           ON CONFLICT (owner, id) DO UPDATE SET state = excluded.state, due = excluded.due,
               holder = excluded.holder, serial = excluded.serial, payload = excluded.payload, epoch = h.epoch + 1
           WHERE h.state IN ('OUT', 'DUE') AND h.serial <= excluded.serial
              OR h.state = 'LEASED' AND h.serial = excluded.serial AND h.holder = excluded.holder
           RETURNING h.owner, uuid_send(h.id), h.epoch""",
        rows,
        template=_HOLD_ROW,
        page_size=len(rows),
        fetch=True,
    )
    return {(owner, bytes(identity)): epoch for owner, identity, epoch in taken}


def renew_leases(cursor: Cursor, agent: bytes, seconds: float) -> None:
    """Keep every lease of this agent for another `seconds`, by the database's clock."""
    cursor.execute(
        "UPDATE pyfi.hold SET due = now() + %s * interval '1 second' WHERE state = 'LEASED' AND holder = %s::uuid",
        (seconds, agent.hex()),
    )


def give_leases_back(cursor: Cursor, epochs: Mapping[Key, int]) -> None:
    """These leased members were not started after all: the next attempt of each is due at once."""
    keys = [(owner, identity.hex()) for owner, identity in current_leases(cursor, epochs)]
    if keys:
        execute_values(
            cursor,
            """UPDATE pyfi.hold h SET state = 'DUE', due = now(), holder = NULL, serial = h.serial + 1,
                   epoch = h.epoch + 1 FROM (VALUES %s) AS k (owner, id)
               WHERE h.owner = k.owner AND h.id = k.id::uuid""",
            keys,
            page_size=len(keys),
        )


def current_leases(cursor: Cursor, epochs: Mapping[Key, int]) -> set[Key]:
    """Which of these leases are still held under the epoch named; their rows stay locked until the commit."""
    found = holds(cursor, epochs, lock=True)
    return {key for key, held in found.items() if held.state == "LEASED" and held.epoch == epochs[key]}


def take_streams(cursor: Cursor, keys: Iterable[Key], opening: Mapping[Key, bytes]) -> dict[Key, bytes]:
    """Which attempt yields the items of these calls: of those `opening` the one named, from now on.

    The rows stay locked until the commit: no other attempt takes over while this one commits items.
    """
    if opening:
        owners, ids = _keys(opening)
        cursor.execute(
            "INSERT INTO pyfi.stream (owner, id, attempt) SELECT * FROM unnest(%s::text[], %s::uuid[], %s::uuid[])"
            " ON CONFLICT (owner, id) DO UPDATE SET attempt = excluded.attempt",
            (owners, ids, [opening[key].hex() for key in sorted(opening)]),
        )
    owners, ids = _keys(keys)
    cursor.execute(
        f"SELECT s.owner, uuid_send(s.id), uuid_send(s.attempt) {_BY_KEY} pyfi.stream s USING (owner, id)"
        " ORDER BY s.owner, s.id FOR UPDATE OF s",
        (owners, ids),
    )
    return {(owner, bytes(identity)): bytes(attempt) for owner, identity, attempt in cursor.fetchall()}


def close_streams(cursor: Cursor, keys: Iterable[Key]) -> None:
    """These calls are decided: nothing more is yielded."""
    owners, ids = _keys(keys)
    if owners:
        cursor.execute(
            "DELETE FROM pyfi.stream s USING unnest(%s::text[], %s::uuid[]) AS k (owner, id)"
            " WHERE s.owner = k.owner AND s.id = k.id",
            (owners, ids),
        )


def failed(error: ErrorRecord) -> bytes:
    """The error as it is stored."""
    return messages.encode(error)
