"""What a client reads of the record, one statement each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyfi_hpc.client.listing import DEVICES, JOB, RUNS
from pyfi_hpc.client.remote import Provenance
from pyfi_hpc.db import binary
from pyfi_hpc.db.record import Cursor, by_key
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.status import OutcomeStatus
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.ids import ID_BYTES, parse_id
from pyfi_hpc.wire.messages import Answer, ErrorRecord, Kind

#: A larger value stays in its row until somebody asks for it.
_LIGHT_BYTES = 16 * 2**10
_VALUES = f"SELECT uuid_send(o.id), o.value FROM {by_key('outcome')} AS o WHERE o.value IS NOT NULL"
_NUMBERED = _VALUES.replace("%s", "$1", 1).replace("%s", "$2", 1)
KIND_OF = {
    OutcomeStatus.SUCCEEDED: Kind.VALUE,
    OutcomeStatus.FAILED: Kind.ERROR,
    OutcomeStatus.CANCELLED: Kind.CANCELLED,
    OutcomeStatus.DEAD: Kind.DEAD,
}


def _keys(owner: str, ids: Sequence[bytes]) -> tuple[list[str], list[str]]:
    return [owner] * len(ids), [identity.hex() for identity in ids]


@dataclass(frozen=True, slots=True)
class Row:
    """A final outcome; `answer.value` is None where it is large."""

    answer: Answer
    digest: bytes | None


def owner(cursor: Cursor) -> str:
    """Whom our rows belong to."""
    cursor.execute("SELECT session_user::text")
    return str(cursor.fetchone()[0])


def final(cursor: Cursor, owner: str, ids: Sequence[bytes]) -> dict[bytes, Row]:
    """The final outcomes among `ids`."""
    cursor.execute(
        f"""SELECT uuid_send(o.id), o.status, CASE WHEN octet_length(o.value) <= %s THEN o.value END, o.error, o.digest
           FROM {by_key("outcome")} AS o WHERE o.status <> 'REOPENED'""",
        (_LIGHT_BYTES, *_keys(owner, ids)),
    )
    return {bytes(row[0]): _row(*row) for row in cursor.fetchall()}


def _row(identity: Any, status: str, value: Any, error: Any, digest: Any) -> Row:
    answer = Answer(bytes(identity), KIND_OF[OutcomeStatus(status)], _bytes(value), _error(error))
    return Row(answer, _bytes(digest))


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


def _error(error: Any) -> ErrorRecord | None:
    return messages.decode_error(bytes(error)) if error is not None else None


def values(cursor: Cursor, owner: str, ids: Sequence[bytes]) -> dict[bytes, bytes]:
    """The encoded values of invocations that succeeded, of those that are still kept."""
    found: Any = binary.read(cursor.connection, _NUMBERED, [binary.texts([owner] * len(ids)), binary.uuids(ids)])
    if found is None:
        cursor.execute(_VALUES, _keys(owner, ids))
        found = cursor.fetchall()
    return {bytes(identity): bytes(value) for identity, value in found}


def provenance(cursor: Cursor, owner: str, identity: bytes) -> Provenance | None:
    """Who made the outcome; None where there is none."""
    cursor.execute(
        f"""SELECT s.name, coalesce(w.commit, p.commit), n.name, w.cores, o.serial, p.max_attempts, {DEVICES}, {JOB}
           FROM pyfi.outcome o LEFT JOIN pyfi.socket s ON s.id = o.socket_id
           LEFT JOIN pyfi.processor p ON p.id = s.processor_id
           LEFT JOIN pyfi.worker w ON w.id = o.worker_id LEFT JOIN pyfi.node n ON n.id = w.node_id
           WHERE o.owner = %s AND o.id = %s::uuid""",
        (owner, identity.hex()),
    )
    row = cursor.fetchone()
    if row is None:
        return None
    socket, commit, node, cores, serial, most, devices, job = row
    gpus = tuple(" ".join(filter(None, (each["model"], each["uuid"]))) for each in devices or ())
    return Provenance(socket or "", commit or "", node or "", tuple(cores or ()), serial, most, gpus, job)


def seconds_per_call(cursor: Cursor, owner: str, ids: Sequence[bytes]) -> float | None:
    """How long these calls ran on average, the slowest tenth left out; None where no row tells.

    One call during which its worker had no core would else look like a reason to send them all singly.
    """
    cursor.execute(
        f"""SELECT avg(seconds) FROM (
               SELECT ran.seconds, percent_rank() OVER (ORDER BY ran.seconds) AS rank
               FROM {by_key("outcome")} AS o,
                    LATERAL (SELECT extract(epoch FROM o.ended - o.started)::float8) AS ran (seconds)
               WHERE ran.seconds IS NOT NULL
           ) AS ranked WHERE rank <= 0.9""",
        _keys(owner, ids),
    )
    found = cursor.fetchone()[0]
    return None if found is None else float(found)


def full_id(cursor: Cursor, owner: str, text: str) -> bytes:
    """The id that `text` stands for: an id in full, or the last digits of one that the record has.

    Raises:
        BadInput: E_ID, no id or not a unique one; E_NOT_FOUND.
    """
    digits = text.strip().lower().replace("-", "")
    if len(digits) >= 2 * ID_BYTES or not digits or set(digits) - set("0123456789abcdef"):
        return parse_id(text)
    found: set[bytes] = set()
    for table in ("outcome", "hold", "attempt"):
        cursor.execute(
            f"SELECT DISTINCT uuid_send(id) FROM pyfi.{table}"
            " WHERE owner = %s AND encode(uuid_send(id), 'hex') LIKE %s LIMIT 2",
            (owner, f"%{digits}"),
        )
        found |= {bytes(row[0]) for row in cursor.fetchall()}
    cursor.execute(
        "SELECT DISTINCT uuid_send(w.running) FROM pyfi.worker w WHERE w.running IS NOT NULL"
        f" AND encode(uuid_send(w.running), 'hex') LIKE %(like)s AND {RUNS} LIMIT 2",
        {"owner": owner, "like": f"%{digits}"},
    )
    found |= {bytes(row[0]) for row in cursor.fetchall()}
    if len(found) > 1:
        raise BadInput.of("E_ID", "id", text, f"several invocations end in {digits}", cure="give more digits")
    if not found:
        what = f"no invocation on record ends in {digits}; one that only waits is not there yet"
        raise BadInput.of("E_NOT_FOUND", "id", text, what, cure="give all of the id")
    return found.pop()
