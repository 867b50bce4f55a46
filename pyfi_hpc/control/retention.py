"""Retention (RELIABILITY 1.16): what is past its time goes, a few rows a transaction, beside agents that commit.

    value of an outcome     after `outcomes_days`, or by `forget`
    its key                 7 days after its value, and `outcomes_days` + 7 after its commit; never while a hold row is
                            there. Only the database's `remove_keys` may, which refuses younger ones
    events, attempts        after `events_days`
    blobs                   once no outcome, hold row or message in the database refers to them, and nobody has written
                            them anew for `outcomes_days` + 7

RabbitMQ's messages are in no table. The last line is therefore also a promise that is asked of people: no message with
a large argument may wait there for longer than `outcomes_days` + 7 days. Where agents are set differently, the fewest
days hold.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from pyfi_hpc.blobs.collection import Collected, collect
from pyfi_hpc.db.record import Cursor, Key
from pyfi_hpc.wire import meter
from pyfi_hpc.wire.ext import BLOB_BYTES, BLOB_MARK

#: Rows in one transaction: a few milliseconds, for which commits wait.
BATCH = 100
PASS_SECONDS = 3600.0
KEY_DAYS = 7
_DAY_SECONDS = 86_400.0
_ROWS_LOCK, _BLOBS_LOCK = 0x70796669_0003, 0x70796669_0004
_CLAIM = re.compile(b"(?=" + re.escape(BLOB_MARK) + b"(.{32}))", re.DOTALL)  # ahead: they may seem to overlap


class Keep(msgspec.Struct, frozen=True):
    """For how long."""

    outcomes_days: int = 30
    events_days: int = 90

    @property
    def blob_seconds(self) -> float:
        return (self.outcomes_days + KEY_DAYS) * _DAY_SECONDS


class Step(msgspec.Struct, frozen=True):
    """Where a pass goes on: the kind of row, and for keys the commit time up to which they were looked at."""

    kind: int = 0
    after: datetime | None = None


def step(cursor: Cursor, keep: Keep, at: Step, most: int = BATCH) -> Step | None:
    """Do one batch; returns where to go on, None when the pass is over or another agent is at it."""
    cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", (_ROWS_LOCK,))
    if not cursor.fetchone()[0]:
        return None
    more, after = _KINDS[at.kind](cursor, keep, most, at.after)
    if more:
        return Step(at.kind, after)
    return Step(at.kind + 1) if at.kind + 1 < len(_KINDS) else None


#: Whether there may be more, and where they go on.
_Done = tuple[bool, datetime | None]


def _values(cursor: Cursor, keep: Keep, most: int, _: datetime | None) -> _Done:
    cursor.execute(
        """UPDATE pyfi.outcome o SET value = NULL FROM (
               SELECT owner, id FROM pyfi.outcome
               WHERE value IS NOT NULL AND committed < now() - %s * interval '1 day' AND status <> 'REOPENED'
               ORDER BY committed LIMIT %s FOR UPDATE SKIP LOCKED) AS k
           WHERE o.owner = k.owner AND o.id = k.id""",
        (keep.outcomes_days, most),
    )
    return cursor.rowcount == most, None


def _keys(cursor: Cursor, keep: Keep, most: int, after: datetime | None) -> _Done:
    cursor.execute(
        "SELECT reached FROM pyfi.remove_keys(%s * interval '1 day', coalesce(%s::timestamptz, '-infinity'), %s)",
        (keep.outcomes_days + KEY_DAYS, after, most),
    )
    (reached,) = cursor.fetchone()
    return reached is not None, reached


def _attempts(cursor: Cursor, keep: Keep, most: int, _: datetime | None) -> _Done:
    cursor.execute(
        """DELETE FROM pyfi.attempt a USING (
               SELECT owner, id, serial FROM pyfi.attempt
               WHERE coalesce(ended, started) < now() - %s * interval '1 day'
               ORDER BY coalesce(ended, started) LIMIT %s FOR UPDATE SKIP LOCKED) AS k
           WHERE a.owner = k.owner AND a.id = k.id AND a.serial = k.serial""",
        (keep.events_days, most),
    )
    return cursor.rowcount == most, None


def _events(cursor: Cursor, keep: Keep, most: int, _: datetime | None) -> _Done:
    cursor.execute(
        """DELETE FROM pyfi.event e USING (
               SELECT id FROM pyfi.event WHERE at < now() - %s * interval '1 day'
               ORDER BY at LIMIT %s FOR UPDATE SKIP LOCKED) AS k
           WHERE e.id = k.id""",
        (keep.events_days, most),
    )
    return cursor.rowcount == most, None


_KINDS: tuple[Callable[[Cursor, Keep, int, datetime | None], _Done], ...] = (_values, _keys, _attempts, _events)


def forget(cursor: Cursor, keys: Iterable[Key]) -> set[Key]:
    """Clear the values of these outcomes, which stay decided; returns those that had one."""
    pairs = sorted(set(keys))
    cursor.execute(
        """UPDATE pyfi.outcome o SET value = NULL FROM unnest(%s::text[], %s::uuid[]) AS k (owner, id)
           WHERE o.owner = k.owner AND o.id = k.id AND o.value IS NOT NULL
           RETURNING o.owner, uuid_send(o.id)""",
        ([owner for owner, _ in pairs], [identity.hex() for _, identity in pairs]),
    )
    return {(owner, bytes(identity)) for owner, identity in cursor.fetchall()}


# blobs


def collect_blobs(
    folder: Path, connect: Callable[[], Any], keep: Keep, stopped: Callable[[], bool] = lambda: False
) -> Collected | None:
    """Remove the blobs that nothing needs; None where this folder's turn is over or not yet, or others use it too.

    For a thread of its own: it walks the whole folder, and asks over a connection of its own. Once `stopped` says so,
    whatever is left counts as needed.
    """

    def needed(digests: Collection[bytes]) -> Collection[bytes]:
        return digests if stopped() else referenced(cursor, digests)

    with closing(connect()) as connection, connection, connection.cursor() as cursor:
        if not claim(cursor, folder):
            return None
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", (_BLOBS_LOCK,))
        if not cursor.fetchone()[0] or not _due(folder / ".collected"):
            return None
        found = collect(folder, needed, older_than_seconds=keep.blob_seconds)
        meter.recount(folder)
        return found


def claim(cursor: Cursor, folder: Path) -> bool:
    """Note in the folder that this database refers to it; False where another one does too.

    A folder of several databases is left as it is: neither knows what the other refers to.
    """
    cursor.execute("SELECT id::text FROM pyfi.network WHERE name = 'default'")
    users = folder / "users"
    users.mkdir(parents=True, exist_ok=True)
    (users / str(cursor.fetchone()[0])).touch()
    return len(list(users.iterdir())) == 1  # the one we have just made


def _due(stamp: Path) -> bool:
    """Whether no agent has collected in this folder for nearly an hour; if so the hour begins now."""
    try:
        if time.time() - stamp.stat().st_mtime < 0.9 * PASS_SECONDS:
            return False
    except FileNotFoundError:
        pass
    stamp.touch()
    return True


def referenced(cursor: Cursor, digests: Collection[bytes]) -> set[bytes]:
    """Those of `digests` that an outcome's value is a claim check for, or that a message in the database names."""
    cursor.execute(
        "SELECT substring(value, 4, 32) FROM pyfi.outcome"
        " WHERE octet_length(value) = %s AND substring(value, 4, 32) = ANY (%s)",
        (BLOB_BYTES, list(digests)),
    )
    found = {bytes(row[0]) for row in cursor.fetchall()}
    # arguments may hold claim checks anywhere in them; too many found here only keeps a blob for longer
    for table, column in (("hold", "payload"), ("broker_message", "body"), ("quarantine", "body")):
        cursor.execute(f"SELECT {column} FROM pyfi.{table} WHERE position(%s IN {column}) > 0", (BLOB_MARK,))
        for row in cursor:
            found.update(match[1] for match in _CLAIM.finditer(row[0]))
    return found & set(digests)
