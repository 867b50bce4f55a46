"""Jobs as people see them: plain values, why each waits in words."""

from __future__ import annotations

import datetime
import re
import uuid
from typing import Any

from pyfi_hpc.db.record import Cursor
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.status import JobStatus
from pyfi_hpc.slurm import states

#: A job's id as Slurm prints it: a number, of an array's element with `_N` behind it.
SLURM_ID = re.compile(r"(?P<job>[0-9]{1,18})(_(?P<element>[0-9]{1,18}))?")
_JOBS = """
    SELECT j.slurm_id AS job, p.name AS processor, j.status, j.workers, j.node_list AS nodes, j.slurm_state AS state,
        j.slurm_reason, j.reason, j.restarts, j.submitted, j.started, j.ends_at, j.ended, j.exit_code,
        j.cancel_requested, j.output, j.request, s.name AS scheduler, j.token, j.id, j.owner, j.created, j.observed,
        (SELECT count(*) FROM pyfi.worker w JOIN pyfi.agent a ON a.id = w.agent_id
         WHERE a.job_id = j.id AND w.status = 'READY') AS ready
    FROM pyfi.job j JOIN pyfi.scheduler s ON s.id = j.scheduler_id LEFT JOIN pyfi.processor p ON p.id = j.processor_id
    JOIN pyfi.network n ON n.id = j.network_id"""


def every(cursor: Cursor, network: str) -> list[dict[str, Any]]:
    """Every job of the network, newest first."""
    cursor.execute(f"{_JOBS} WHERE n.name = %s ORDER BY j.created DESC, j.id", (network,))
    return _rows(cursor)


def one(cursor: Cursor, token: str) -> dict[str, Any]:
    """The job of that token. Raises E_NOT_FOUND."""
    cursor.execute(f"{_JOBS} WHERE j.token = %s", (token,))
    found = _rows(cursor)
    if not found:
        raise unknown(token)
    return found[0]


def find(cursor: Cursor, network: str, which: str) -> dict[str, Any] | None:
    """The job that `which` means: Slurm's id (of the newest such job), ours, or the token; None for none."""
    word = which.strip()
    if match := SLURM_ID.fullmatch(word):
        # a controller that lost its state gives the same numbers again
        cursor.execute(
            f"{_JOBS} WHERE n.name = %s AND j.slurm_id IN (%s, %s) ORDER BY j.created DESC LIMIT 1",
            (network, word, match["job"]),
        )
    elif re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", word):
        cursor.execute(
            f"{_JOBS} WHERE n.name = %s AND (j.token = %s OR j.id = %s::uuid)",
            (network, word.replace("-", ""), word),
        )
    else:
        return None
    return next(iter(_rows(cursor)), None)


def script(cursor: Cursor, token: str) -> str:
    """The script as Slurm got it; empty while it has got none."""
    cursor.execute("SELECT script FROM pyfi.job WHERE token = %s", (token,))
    return str(cursor.fetchone()[0])


def ask_cancel(cursor: Cursor, token: str) -> bool:
    """The job is to end; False where it has, or was asked to before."""
    cursor.execute(
        """UPDATE pyfi.job SET cancel_requested = true WHERE token = %s AND status <> 'ENDED' AND NOT cancel_requested
           RETURNING id, coalesce(slurm_id, '')""",
        (token,),
    )
    row = cursor.fetchone()
    if row is None:
        return False
    cursor.execute("INSERT INTO pyfi.event (kind, object_id, name, what) VALUES ('job', %s, %s, 'asked to end')", row)
    return True


def unknown(which: str) -> BadInput:
    """No such job."""
    return BadInput.of("E_NOT_FOUND", "job", which, f"no job {which!r}", cure="pyfi ls jobs")


def _rows(cursor: Cursor) -> list[dict[str, Any]]:
    names = [column.name for column in cursor.description]
    return [_shown(dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    shown = {name: _plain(value) for name, value in row.items()}
    return shown | {"why": why(row)}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return str(value) if isinstance(value, uuid.UUID) else value


def why(row: dict[str, Any]) -> str:
    """Why the job waits, or ended, in words; empty where it runs."""
    status, said = JobStatus(row["status"]), row["reason"] or ""
    if status is JobStatus.UNKNOWN:
        return said or "Slurm does not know it now"
    if status is JobStatus.ENDED and row["cancel_requested"]:
        return "it was asked to end"
    words = states.words(row["slurm_reason"], row["state"] or "") if row["state"] else None
    if status is JobStatus.PENDING and words is not None:
        return f"{row['slurm_reason'] or row['state']}: {words}"
    return f"{said}: {words}" if status is JobStatus.ENDED and said and words is not None else said
