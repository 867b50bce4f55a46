"""Rows of the record as plain values, for people to look at."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from pyfi_hpc.db.record import Cursor
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.ids import child_id

#: The GPUs of worker `w`, each as UUID and model.
DEVICES = """(SELECT jsonb_agg(jsonb_build_object('uuid', u.uuid, 'model', d.model) ORDER BY u.place)
        FROM unnest(w.devices) WITH ORDINALITY AS u (uuid, place)
        LEFT JOIN pyfi.device d ON d.node_id = w.node_id AND d.uuid = u.uuid)"""
#: Slurm's id of the job that worker `w` is in.
JOB = "(SELECT j.slurm_id FROM pyfi.agent a JOIN pyfi.job j ON j.id = a.job_id WHERE a.id = w.agent_id)"
#: Worker `w` is live, and what it runs is a call of `owner`.
RUNS = """w.status NOT IN ('EXITED', 'LOST')
    AND EXISTS (SELECT FROM pyfi.agent a WHERE a.id = w.agent_id AND a.ended IS NULL AND a.lease_until > now())
    AND EXISTS (SELECT FROM pyfi.socket s WHERE s.processor_id = w.processor_id AND s.owner = %(owner)s)"""
DEAD = """
    SELECT h.id, s.name AS socket, o.error, h.used AS attempts, h.returns, o.committed AS since
    FROM pyfi.hold h JOIN pyfi.outcome o USING (owner, id) LEFT JOIN pyfi.socket s ON s.id = h.socket_id
    WHERE h.owner = %s AND h.state = 'DEAD' ORDER BY o.committed DESC, h.id"""
_ATTEMPTS = f"""
    SELECT a.serial, a.status, a.cause, a.error, n.name AS node, w.cores, {DEVICES} AS devices, {JOB} AS job, a.started,
        a.ended, a.out, a.err
    FROM pyfi.attempt a LEFT JOIN pyfi.worker w ON w.id = a.worker_id LEFT JOIN pyfi.node n ON n.id = w.node_id
    WHERE a.owner = %s AND a.id = %s::uuid AND NOT (a.serial = 0 AND EXISTS (
        -- given up with its node, and done all the same
        SELECT FROM pyfi.outcome o WHERE o.owner = a.owner AND o.id = a.id AND o.worker_id = a.worker_id))
    ORDER BY a.serial"""
#: The socket of what worker `w` runs, where its processor has no other; the worker's row does not name it.
_ONLY_SOCKET = """(SELECT (array_agg(alone.id))[1] FROM pyfi.socket alone WHERE alone.processor_id = w.processor_id
        HAVING count(*) = 1)"""
#: A column of the last attempt on record of outcome `o`: who cancels a call does not know where it ran.
_LAST = "(SELECT t.{} FROM pyfi.attempt t WHERE t.owner = o.owner AND t.id = o.id ORDER BY t.serial DESC LIMIT 1)"
_INVOCATION = f"""
    SELECT k.id, k.owner, s.name AS socket, p.name AS processor, o.status AS outcome, o.error, o.serial,
        octet_length(o.value) AS value_bytes, n.name AS node, w.cores, {DEVICES} AS devices, {JOB} AS job, w.commit,
        o.parent, coalesce(o.started, {_LAST.format("started")}, CASE WHEN w.running = k.id THEN w.running_since END)
            AS started, coalesce(o.ended, {_LAST.format("ended")}) AS ended,
        o.committed, h.state AS hold, h.due, h.serial AS next_serial, h.used, h.returns
    FROM (SELECT %(owner)s::text AS owner, %(id)s::uuid AS id) AS k
    LEFT JOIN pyfi.outcome o USING (owner, id) LEFT JOIN pyfi.hold h USING (owner, id)
    LEFT JOIN pyfi.worker w ON w.id = coalesce(o.worker_id, {_LAST.format("worker_id")},
        (SELECT w.id FROM pyfi.worker w WHERE w.running = k.id AND {RUNS} LIMIT 1))
    LEFT JOIN pyfi.node n ON n.id = w.node_id
    LEFT JOIN pyfi.socket s ON s.id = coalesce(o.socket_id, h.socket_id, {_LAST.format("socket_id")},
        CASE WHEN w.running = k.id THEN {_ONLY_SOCKET} END)
    LEFT JOIN pyfi.processor p ON p.id = coalesce(s.processor_id, w.processor_id)"""
_CHILDREN = """
    SELECT k.id, s.name AS socket, coalesce(o.status::text, 'QUEUED') AS status
    FROM unnest(%s::uuid[], %s::uuid[]) AS k (id, socket_id)
    LEFT JOIN pyfi.outcome o ON o.owner = %s AND o.id = k.id LEFT JOIN pyfi.socket s ON s.id = k.socket_id
    ORDER BY s.name, k.id"""
_WORKER = f"""
    SELECT w.id, n.name AS node, w.cores, w.slot, {DEVICES} AS devices, {JOB} AS job, w.commit, w.pid
    FROM pyfi.outcome o JOIN pyfi.worker w ON w.id = o.worker_id
    JOIN pyfi.node n ON n.id = w.node_id WHERE o.owner = %s AND o.id = %s::uuid"""
_BEHIND = """
    SELECT p.name, p.requested_status AS requested, p.status, p.reason,
        (SELECT count(*) FROM pyfi.worker w WHERE w.processor_id = p.id AND w.status = 'READY') AS ready
    FROM pyfi.socket s JOIN pyfi.network n ON n.id = s.network_id JOIN pyfi.processor p ON p.id = s.processor_id
    WHERE n.name = %s AND s.name = %s"""
_TEXTS = ("out", "err")
#: The status of a call that is to start later.
WAITING = "WAITING"
#: The name of a worker's node; an alias of its own, or the caller's `w.id` would be its own row's.
_NODE = "(SELECT n.name FROM pyfi.worker made JOIN pyfi.node n ON n.id = made.node_id WHERE made.id = {})"
#: A hold row of a call that is not to start yet, and was never tried.
_AHEAD = "h.state = 'DUE' AND h.due > now() AND h.used = 0 AND h.returns = 0"
#: The call of a hold row runs, by the same signs as for `Operations.status`.
_HELD_RUNS = f"""(h.state = 'LEASED' OR (SELECT a.status FROM pyfi.attempt a WHERE a.owner = h.owner AND a.id = h.id
        ORDER BY a.serial DESC LIMIT 1) = 'STARTED'
    OR h.state = 'OUT' AND EXISTS (SELECT FROM pyfi.worker w WHERE w.running = h.id AND {RUNS}))"""
# a decided call may be held until its value is sent on, or, sent once more at once, until its first time to start;
# OFFSET: those are looked for one by one, as far as rows are wanted, in place of a join with all outcomes
_HELD = f"""
    SELECT h.id, h.socket_id,
        CASE WHEN {_HELD_RUNS} THEN 'RUNNING' WHEN {_AHEAD} THEN '{WAITING}' ELSE 'QUEUED' END AS status,
        CASE WHEN h.state = 'DUE' THEN h.due END AS due, NULL::timestamptz AS started, NULL::timestamptz AS ended,
        NULL::text AS node, h.serial, NULL::bytea AS error, {{rank}} AS rank, h.due AS at
    FROM (SELECT * FROM pyfi.hold h WHERE h.owner = %(owner)s AND h.state <> 'DEAD' AND {{which}}
        ORDER BY h.due OFFSET 0) AS h
    WHERE NOT EXISTS (SELECT FROM pyfi.outcome o WHERE o.owner = h.owner AND o.id = h.id AND o.status <> 'REOPENED'
        OFFSET 0)
    ORDER BY h.due LIMIT %(most)s"""
_RUNNING = f"""
    SELECT w.running, {_ONLY_SOCKET}, 'RUNNING', NULL, w.running_since, NULL, {_NODE.format("w.id")}, 1, NULL, 2,
        w.running_since
    FROM pyfi.worker w WHERE w.running IS NOT NULL AND {RUNS}
        AND NOT EXISTS (SELECT FROM pyfi.hold h WHERE h.owner = %(owner)s AND h.id = w.running)
        AND NOT EXISTS (SELECT FROM pyfi.outcome o WHERE o.owner = %(owner)s AND o.id = w.running)
    LIMIT %(most)s"""
# two, because each has an index of its own
_DECIDED = f"""
    SELECT o.id, coalesce(o.socket_id, {_LAST.format("socket_id")}), o.status::text, NULL,
        coalesce(o.started, {_LAST.format("started")}), coalesce(o.ended, o.committed),
        {_NODE.format(f"coalesce(o.worker_id, {_LAST.format('worker_id')})")}, o.serial, o.error, 4, o.committed
    FROM pyfi.outcome o WHERE o.owner = %(owner)s AND o.status <> 'REOPENED' AND o.value IS {{}} NULL
    ORDER BY o.committed DESC LIMIT %(most)s"""
_NEWEST = f"""
    SELECT k.id, s.name AS socket, k.status, k.due, k.started, k.ended, k.node, k.serial, k.error
    FROM (({_HELD.format(rank=1, which=_AHEAD)}) UNION ALL ({_RUNNING})
        UNION ALL ({_HELD.format(rank=3, which=f"NOT ({_AHEAD})")})
        UNION ALL ({_DECIDED.format("NOT")}) UNION ALL ({_DECIDED.format("")})) AS k
    LEFT JOIN pyfi.socket s ON s.id = k.socket_id
    ORDER BY k.rank, CASE WHEN k.rank = 1 THEN k.at END, k.at DESC LIMIT %(most)s"""


def listed(cursor: Cursor, query: str, arguments: Sequence[object] | Mapping[str, object]) -> list[dict[str, Any]]:
    """What the query finds; an `error` is opened into its type, message, code and cause."""
    cursor.execute(query, arguments)
    names = [column.name for column in cursor.description]
    return [_plain(dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


def attempt_rows(cursor: Cursor, owner: str, identity: bytes) -> list[dict[str, Any]]:
    """The attempts on record."""
    return listed(cursor, _ATTEMPTS, (owner, identity.hex()))


def worker_row(cursor: Cursor, owner: str, identity: bytes) -> dict[str, Any] | None:
    """Who made the outcome."""
    return next(iter(listed(cursor, _WORKER, (owner, identity.hex()))), None)


def invocation_row(cursor: Cursor, owner: str, identity: bytes) -> dict[str, Any]:
    """Outcome and hold row of one invocation, and where it runs; most values are None where none of these is there."""
    (row,) = listed(cursor, _INVOCATION, {"owner": owner, "id": identity.hex()})
    return row


def newest(cursor: Cursor, owner: str, most: int) -> list[dict[str, Any]]:
    """Invocations on record: id, socket, status, due, started, ended, node, serial, error."""
    return listed(cursor, _NEWEST, {"owner": owner, "most": most})


def child_rows(cursor: Cursor, owner: str, identity: bytes) -> list[dict[str, Any]]:
    """What its committed value was sent on to: id, socket, status of each."""
    cursor.execute("SELECT routes FROM pyfi.outcome WHERE owner = %s AND id = %s::uuid", (owner, identity.hex()))
    found = cursor.fetchone()
    routes = messages.decode_routes(bytes(found[0])) if found and found[0] else ()
    ids = [child_id(identity, route.edge).hex() for route in routes]
    return listed(cursor, _CHILDREN, (ids, [route.socket.hex() for route in routes], owner))


def behind(cursor: Cursor, network: str, socket: str) -> dict[str, Any] | None:
    """The processor behind a socket, and how many of its workers are ready."""
    return next(iter(listed(cursor, _BEHIND, (network, socket))), None)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    plain = {name: _value(name, value) for name, value in row.items() if name != "error"}
    return plain | (_error(row["error"]) if "error" in row else {})


def _value(name: str, value: Any) -> Any:
    if name in _TEXTS:
        return bytes(value).decode(errors="replace") if value is not None else ""
    if isinstance(value, str) and name in ("id", "parent"):
        return str(uuid.UUID(value))
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value


def _error(encoded: Any) -> dict[str, Any]:
    if encoded is None:
        return {"error": None}
    try:
        error = messages.decode_error(bytes(encoded))
    except ValueError as unreadable:  # msgspec's errors are ValueErrors
        return {"error": str(unreadable)}
    return {
        "error": f"{error.type}: {error.message}",
        "code": error.code,
        "cause": error.cause,
        "traceback": error.traceback,
    }
