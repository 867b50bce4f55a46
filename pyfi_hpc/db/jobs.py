"""Schedulers and jobs as plain SQL on one connection: short functions, each part of the caller's transaction.

Every write of a leader begins with `hold_lease`, which renews the lease and fails where another process has taken it:
the row that it locks is the one that a taker must change, so nothing of a former leader is ever committed.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2.extras import Json

from pyfi_hpc.control.pilots import LOST, PilotJob, PilotProcessor
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.errors import BadInput, Fault
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.model.status import JobStatus, Requested
from pyfi_hpc.slurm import states
from pyfi_hpc.slurm.launcher import Observation

LEASE_SECONDS = 15.0
#: So many ended jobs of each processor are looked at.
_HISTORY = 10


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act for a scheduler: `epoch` grows with each taking."""

    scheduler: str
    holder: str
    epoch: int


# the lease


def scheduler_id(cursor: Cursor, network: str, name: str) -> str:
    """The scheduler's id. Raises E_NOT_FOUND."""
    cursor.execute(
        "SELECT s.id::text FROM pyfi.scheduler s JOIN pyfi.network n ON n.id = s.network_id"
        " WHERE n.name = %s AND s.name = %s",
        (network, name),
    )
    row = cursor.fetchone()
    if row is None:
        cure = f"pyfi add scheduler --name {name}"
        raise BadInput.of("E_NOT_FOUND", "scheduler", name, f"no scheduler {name!r}", cure=cure)
    return str(row[0])


def find_or_make_scheduler(cursor: Cursor, network: str, name: str | None) -> str:
    """The name of the scheduler to use: `name`, else the only one there is, else `default`, made where it is missing.

    Raises:
        BadInput: E_MISSING, there are several and none is named; E_NOT_FOUND, the one named, or the network.
    """
    if name is not None:
        scheduler_id(cursor, network, name)
        return name
    cursor.execute(
        "SELECT s.name FROM pyfi.scheduler s JOIN pyfi.network n ON n.id = s.network_id WHERE n.name = %s"
        " ORDER BY s.name",
        (network,),
    )
    names = [row[0] for row in cursor.fetchall()]
    if len(names) > 1:
        told = ", ".join(names)
        raise BadInput(
            "E_MISSING", f"which scheduler? there are {told}", at="--scheduler", cure=f"--scheduler {names[0]}"
        )
    if names:
        return str(names[0])
    cursor.execute(
        "INSERT INTO pyfi.scheduler (network_id, name) SELECT id, 'default' FROM pyfi.network WHERE name = %s"
        " ON CONFLICT DO NOTHING",
        (network,),
    )
    scheduler_id(cursor, network, "default")
    return "default"


def take_lease(cursor: Cursor, scheduler: str, holder: str, seconds: float = LEASE_SECONDS) -> Lease | None:
    """Lead from now on, in a new epoch; None while another process does."""
    cursor.execute(
        """UPDATE pyfi.scheduler SET holder = %s, epoch = epoch + 1,
               lease_until = clock_timestamp() + %s * interval '1 second'
           WHERE id = %s::uuid AND (lease_until IS NULL OR lease_until < clock_timestamp()) RETURNING epoch""",
        (holder, seconds, scheduler),
    )
    row = cursor.fetchone()
    return Lease(scheduler, holder, row[0]) if row else None


def hold_lease(cursor: Cursor, lease: Lease, seconds: float = LEASE_SECONDS) -> None:
    """Renew the lease. In a transaction's first statement it fences all that follows.

    Raises:
        Fault: E_FENCED, another process leads.
    """
    cursor.execute(
        """UPDATE pyfi.scheduler SET lease_until = clock_timestamp() + %s * interval '1 second'
           WHERE id = %s::uuid AND holder = %s AND epoch = %s""",
        (seconds, lease.scheduler, lease.holder, lease.epoch),
    )
    if not cursor.rowcount:
        raise Fault("E_FENCED", "another process leads this scheduler", at=lease.holder)


def release_lease(cursor: Cursor, lease: Lease) -> None:
    """Let another process lead at once."""
    cursor.execute(
        "UPDATE pyfi.scheduler SET lease_until = NULL WHERE id = %s::uuid AND holder = %s AND epoch = %s",
        (lease.scheduler, lease.holder, lease.epoch),
    )


def is_led(cursor: Cursor, scheduler: str) -> bool:
    """Whether some process's lease is current."""
    cursor.execute("SELECT lease_until >= clock_timestamp() FROM pyfi.scheduler WHERE id = %s::uuid", (scheduler,))
    row = cursor.fetchone()
    return bool(row and row[0])


def unled(cursor: Cursor, network: str, *, wanted: bool) -> list[str]:
    """The names of the schedulers that nobody leads, of those with live jobs; `wanted`: or for which pilots may be."""
    cursor.execute(
        """SELECT s.name FROM pyfi.scheduler s JOIN pyfi.network n ON n.id = s.network_id
           WHERE n.name = %s AND coalesce(s.lease_until < clock_timestamp(), true) AND (
               EXISTS (SELECT FROM pyfi.job j WHERE j.scheduler_id = s.id AND j.status <> 'ENDED')
               OR %s AND EXISTS (SELECT FROM pyfi.processor p WHERE p.network_id = n.id AND p.shape IS NOT NULL
                   AND p.requested_status = 'RUNNING'))
           ORDER BY s.name""",
        (network, wanted),
    )
    return [row[0] for row in cursor.fetchall()]


def note_poll(cursor: Cursor, scheduler: str, *, answered: bool, problem: str | None) -> None:
    """Whether Slurm answered just now, and what is wrong."""
    cursor.execute(
        """UPDATE pyfi.scheduler SET problem = %s, polled = CASE WHEN %s THEN clock_timestamp() ELSE polled END
           WHERE id = %s::uuid""",
        (problem, answered, scheduler),
    )


def count_queries(cursor: Cursor, scheduler: str, queries: int) -> None:
    """Slurm was asked so often."""
    cursor.execute("UPDATE pyfi.scheduler SET queries = queries + %s WHERE id = %s::uuid", (queries, scheduler))


def name_cluster(cursor: Cursor, scheduler: str, cluster: str) -> None:
    """Which cluster it serves."""
    cursor.execute(
        "UPDATE pyfi.scheduler SET cluster = %s WHERE id = %s::uuid AND cluster <> %s", (cluster, scheduler, cluster)
    )


# reading


def clock(cursor: Cursor) -> datetime.datetime:
    """The database's time."""
    cursor.execute("SELECT clock_timestamp()")
    now: datetime.datetime = cursor.fetchone()[0]
    return now


def processors(cursor: Cursor, network: str, scheduler: str) -> list[PilotProcessor]:
    """The processors with a shape that this scheduler sends pilots for.

    That is where its last job went; where it had none, the network's first scheduler.
    """
    cursor.execute(
        """SELECT uuid_send(p.id), p.name, p.requested_status, p.wanted_since, p.shape, p.workers,
               coalesce(h.workers, 0),
               (SELECT coalesce(sum(j.workers), 0) FROM pyfi.job j WHERE j.processor_id = p.id AND j.status = 'ENDED'
                    AND j.cancel_requested AND j.created >= p.wanted_since),
               (SELECT max(j.created) FROM pyfi.job j WHERE j.processor_id = p.id AND j.reason IS DISTINCT FROM %s),
               CASE WHEN p.reason ? 'pilots' THEN p.reason ->> 'what' END
           FROM pyfi.processor p JOIN pyfi.network n ON n.id = p.network_id
           LEFT JOIN (
               SELECT w.processor_id, count(*) AS workers FROM pyfi.worker w JOIN pyfi.agent a ON a.id = w.agent_id
               WHERE a.job_id IS NULL AND a.ended IS NULL AND w.status IN ('PLANNED', 'LAUNCHING', 'READY')
               GROUP BY w.processor_id) AS h ON h.processor_id = p.id
           WHERE n.name = %s AND p.shape IS NOT NULL AND p.status <> 'REMOVED' AND %s::uuid = coalesce(
               (SELECT j.scheduler_id FROM pyfi.job j WHERE j.processor_id = p.id ORDER BY j.created DESC LIMIT 1),
               (SELECT s.id FROM pyfi.scheduler s WHERE s.network_id = n.id ORDER BY s.created, s.id LIMIT 1))
           ORDER BY p.created, p.id""",
        (LOST, network, scheduler),
    )
    return [
        PilotProcessor(
            id=bytes(row[0]), name=row[1], requested=Requested(row[2]), wanted_since=row[3],
            shape=ResourceRequest.from_json(row[4]), workers=row[5], places=row[6], given_up=row[7], newest=row[8],
            explained=row[9],
        )
        for row in cursor.fetchall()
    ]  # fmt: skip


_JOB = """
    SELECT uuid_send(j.id), uuid_send(j.processor_id), j.token, j.status, j.workers, j.created, j.slurm_id,
        j.cancel_requested, j.failures, j.retry_at, j.missed, j.ended, j.reason, p.requested_status,
        (SELECT count(*) FROM pyfi.agent a
         WHERE a.job_id = j.id AND a.ended IS NULL AND a.lease_until > clock_timestamp()),
        EXISTS (SELECT FROM pyfi.agent a WHERE a.job_id = j.id),
        j.slurm_state, j.slurm_reason, j.restarts, j.node_list, j.exit_code, j.started, j.ends_at
    FROM pyfi.job j LEFT JOIN pyfi.processor p ON p.id = j.processor_id"""


def jobs(cursor: Cursor, scheduler: str) -> list[PilotJob]:
    """Every live job of the scheduler, and the last of each wanted processor that have ended."""
    cursor.execute(
        f"""{_JOB} WHERE j.scheduler_id = %s::uuid AND j.status <> 'ENDED'
            UNION ALL
            SELECT e.* FROM pyfi.processor w CROSS JOIN LATERAL (
                {_JOB} WHERE j.processor_id = w.id AND j.scheduler_id = %s::uuid AND j.status = 'ENDED'
                    AND j.created >= w.wanted_since ORDER BY j.created DESC LIMIT {_HISTORY}) AS e
            WHERE w.shape IS NOT NULL AND w.requested_status = 'RUNNING'""",
        (scheduler, scheduler),
    )
    return [_job(row) for row in cursor.fetchall()]


def _job(row: Sequence[Any]) -> PilotJob:
    status, slurm_id = JobStatus(row[3]), row[6]
    known = Observation(
        slurm_id, status, row[16] or "", row[17], None, row[18], row[19], row[20], row[21], row[22], row[11]
    )
    return PilotJob(
        id=bytes(row[0]), processor=bytes(row[1]) if row[1] is not None else None, token=row[2], status=status,
        workers=row[4], created=row[5], slurm_id=slurm_id, known=known if slurm_id is not None else None,
        cancel_requested=row[7], failures=row[8], retry_at=row[9], missed=row[10], ended=row[11], reason=row[12],
        requested=Requested(row[13]) if row[13] is not None else None, agents=row[14], served=row[15],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a job that is to be submitted asks for."""

    token: str
    request: ResourceRequest
    processor: str | None


# writing: what a leader does, after `hold_lease`


def want(
    cursor: Cursor, scheduler: str, *, token: str, processor: bytes | None, request: ResourceRequest, workers: int
) -> None:
    """Put a job on record; one of that token is left as it is."""
    cursor.execute(
        """INSERT INTO pyfi.job (network_id, scheduler_id, processor_id, token, request, workers)
           SELECT network_id, id, %s::uuid, %s, %s, %s FROM pyfi.scheduler WHERE id = %s::uuid
           ON CONFLICT (token) DO NOTHING""",
        (processor.hex() if processor else None, token, Json(request.to_json()), workers, scheduler),
    )


def begin(cursor: Cursor, job: bytes) -> Wanted | None:
    """WANTED → SUBMITTING: from its commit on, Slurm may have been asked. None when it is not to be submitted now."""
    cursor.execute(
        """UPDATE pyfi.job j SET status = 'SUBMITTING', submitted = clock_timestamp(), missed = NULL
           WHERE j.id = %s::uuid AND j.status = 'WANTED' AND NOT j.cancel_requested
           RETURNING j.token, j.request, (SELECT p.name FROM pyfi.processor p WHERE p.id = j.processor_id)""",
        (job.hex(),),
    )
    row = cursor.fetchone()
    return Wanted(row[0], ResourceRequest.from_json(row[1]), row[2]) if row else None


def keep_script(cursor: Cursor, job: bytes, script: str, command: Sequence[str], output: str | None) -> None:
    """What is handed over to Slurm, and where its output goes."""
    cursor.execute(
        "UPDATE pyfi.job SET script = %s, command = %s, output = %s WHERE id = %s::uuid",
        (script, list(command), output, job.hex()),
    )


def submitted(cursor: Cursor, job: bytes, slurm_id: str) -> None:
    """SUBMITTING → PENDING, with its id."""
    cursor.execute(
        """UPDATE pyfi.job SET status = 'PENDING', slurm_id = %s, failures = 0, retry_at = NULL, missed = NULL,
               reason = NULL WHERE id = %s::uuid AND status = 'SUBMITTING'""",
        (slurm_id, job.hex()),
    )


def put_off(cursor: Cursor, job: bytes, reason: str, seconds: float) -> None:
    """Back to WANTED: Slurm was certainly not asked, and is in so many seconds."""
    cursor.execute(
        """UPDATE pyfi.job SET status = 'WANTED', failures = failures + 1, reason = %s,
               retry_at = clock_timestamp() + %s * interval '1 second'
           WHERE id = %s::uuid AND status IN ('WANTED', 'SUBMITTING')""",
        (reason, seconds, job.hex()),
    )


def uncertain(cursor: Cursor, job: bytes, reason: str) -> None:
    """It stays SUBMITTING, and shows why."""
    cursor.execute("UPDATE pyfi.job SET reason = %s WHERE id = %s::uuid AND status = 'SUBMITTING'", (reason, job.hex()))


def miss(cursor: Cursor, job: bytes) -> None:
    """Slurm answered and did not know it."""
    cursor.execute(
        """UPDATE pyfi.job SET missed = coalesce(missed, clock_timestamp()),
               status = CASE WHEN slurm_id IS NULL THEN status ELSE 'UNKNOWN' END
           WHERE id = %s::uuid AND status <> 'ENDED'""",
        (job.hex(),),
    )


def forget(cursor: Cursor, job: bytes) -> None:
    """SUBMITTING → WANTED; that it was missed stays on record, so that its token is looked for once more."""
    cursor.execute("UPDATE pyfi.job SET status = 'WANTED' WHERE id = %s::uuid AND status = 'SUBMITTING'", (job.hex(),))


def update(cursor: Cursor, job: bytes, seen: Observation) -> None:
    """Note what was seen; a job that is adopted gets its id. One that has ended stays as it ended."""
    # the table of transitions knows no way from WANTED to a job in Slurm but through SUBMITTING
    cursor.execute("UPDATE pyfi.job SET status = 'SUBMITTING' WHERE id = %s::uuid AND status = 'WANTED'", (job.hex(),))
    ended = seen.status is JobStatus.ENDED
    cursor.execute(
        """UPDATE pyfi.job SET status = %s::pyfi.job_status, slurm_id = coalesce(slurm_id, %s), slurm_state = %s,
               slurm_reason = %s, restarts = greatest(restarts, %s),
               node_list = coalesce(%s, CASE WHEN %s THEN node_list END), exit_code = %s,
               started = coalesce(%s, CASE WHEN %s THEN started END), ends_at = %s,
               ended = CASE WHEN %s THEN coalesce(%s, clock_timestamp()) END,
               reason = CASE WHEN %s THEN %s END,
               missed = NULL, failures = 0, observed = clock_timestamp(),
               retry_at = CASE WHEN slurm_id IS NULL THEN NULL ELSE retry_at END
           WHERE id = %s::uuid AND status <> 'ENDED'""",
        (
            seen.status.value, seen.job, seen.state, seen.reason, seen.restarts, seen.nodes, ended, seen.exit_code,
            seen.started, ended, seen.ends_at, ended, seen.ended, ended, ended_because(seen), job.hex(),
        ),
    )  # fmt: skip


def ended_because(seen: Observation) -> str:
    """How Slurm says that it ended, in one line: `TIMEOUT`, `FAILED: NonZeroExitCode (exit 1:0)`."""
    reason = f": {seen.reason}" if seen.reason and states.is_of_an_end(seen.reason) else ""
    code = f" (exit {seen.exit_code})" if seen.exit_code and seen.exit_code != "0:0" else ""
    return f"{seen.state}{reason}{code}"


def observed(cursor: Cursor, jobs: Collection[bytes]) -> None:
    """Slurm told of these jobs."""
    cursor.execute(
        "UPDATE pyfi.job SET observed = clock_timestamp() WHERE id = ANY (%s::uuid[]) AND status <> 'ENDED'",
        ([job.hex() for job in jobs],),
    )


def drain(cursor: Cursor, job: bytes, seconds: float) -> None:
    """Ask its agents to end; in so many seconds it is cancelled."""
    cursor.execute(
        "UPDATE pyfi.agent SET stop_requested = true WHERE job_id = %s::uuid AND ended IS NULL", (job.hex(),)
    )
    _later(cursor, job, seconds)


def _later(cursor: Cursor, job: bytes, seconds: float) -> None:
    cursor.execute(
        "UPDATE pyfi.job SET retry_at = clock_timestamp() + %s * interval '1 second' WHERE id = %s::uuid",
        (seconds, job.hex()),
    )


def cancelled(cursor: Cursor, job: bytes, seconds: float) -> None:
    """Slurm was told to end it: ENDING; where it stays, told again in so many seconds."""
    cursor.execute(
        "UPDATE pyfi.job SET status = 'ENDING' WHERE id = %s::uuid AND status NOT IN ('ENDED', 'WANTED', 'SUBMITTING')",
        (job.hex(),),
    )
    _later(cursor, job, seconds)


def end(cursor: Cursor, job: bytes, reason: str) -> None:
    """It has ended."""
    cursor.execute(
        "UPDATE pyfi.job SET status = 'ENDED', reason = %s, ended = clock_timestamp()"
        " WHERE id = %s::uuid AND status <> 'ENDED'",
        (reason, job.hex()),
    )


def explain(cursor: Cursor, processor: bytes, what: str | None) -> None:
    """Show with the processor why it gets no pilots: FAILED where nothing of it runs. None: that is over."""
    if what is None:
        cursor.execute(
            "UPDATE pyfi.processor SET reason = NULL WHERE id = %s::uuid AND reason ? 'pilots'", (processor.hex(),)
        )
        return
    told = {"code": "E_SUBMIT", "what": what, "at": "pyfi ls jobs", "pilots": True}
    cursor.execute(
        """UPDATE pyfi.processor p SET reason = %s, status = CASE WHEN p.status NOT IN ('FAILED', 'REMOVED') AND
               NOT EXISTS (SELECT FROM pyfi.worker w WHERE w.processor_id = p.id AND w.status NOT IN ('EXITED', 'LOST'))
               THEN 'FAILED' ELSE p.status END
           WHERE p.id = %s::uuid RETURNING p.name""",
        (Json(told), processor.hex()),
    )
    if row := cursor.fetchone():
        event(cursor, "processor", processor, row[0], "gets no pilots", told)


def event(cursor: Cursor, kind: str, identity: bytes, name: str, what: str, detail: Any = None) -> None:
    """Put something on record for people."""
    cursor.execute(
        "INSERT INTO pyfi.event (kind, object_id, name, what, detail) VALUES (%s, %s::uuid, %s, %s, %s)",
        (kind, identity.hex(), name, what, Json(detail) if detail is not None else None),
    )


# for people, and for the files of jobs


@dataclass(frozen=True, slots=True)
class Standing:
    """How a job stands, and whether anybody leads its scheduler."""

    status: JobStatus
    slurm_id: str | None
    reason: str | None
    scheduler: str
    led: bool


def standing(cursor: Cursor, token: str) -> Standing:
    """How the job of that token stands. Raises E_NOT_FOUND."""
    cursor.execute(
        """SELECT j.status, j.slurm_id, j.reason, s.name, coalesce(s.lease_until >= clock_timestamp(), false)
           FROM pyfi.job j JOIN pyfi.scheduler s ON s.id = j.scheduler_id WHERE j.token = %s""",
        (token,),
    )
    row = cursor.fetchone()
    if row is None:
        raise BadInput.of("E_NOT_FOUND", "job", token, "the job's row is gone", cure="pyfi ls jobs")
    return Standing(JobStatus(row[0]), *row[1:])


def ask_processor(cursor: Cursor, network: str, name: str, shape: ResourceRequest) -> bytes:
    """The processor is wanted RUNNING with pilots of this shape, from now on; its id.

    Raises:
        BadInput: E_NOT_FOUND; E_BAD_TRANSITION, it was removed.
    """
    cursor.execute(
        """UPDATE pyfi.processor p SET requested_status = 'RUNNING', wanted_since = now(), shape = %s
           FROM pyfi.network n WHERE n.id = p.network_id AND n.name = %s AND p.name = %s AND p.status <> 'REMOVED'
           RETURNING uuid_send(p.id)""",
        (Json(shape.to_json()), network, name),
    )
    row = cursor.fetchone()
    if row is None:
        raise BadInput.of("E_NOT_FOUND", "processor", name, f"no processor {name!r}", cure="pyfi ls processors")
    return bytes(row[0])


@dataclass(frozen=True, slots=True)
class Wish:
    """What a processor is asked for, as one request found it."""

    requested: str
    since: datetime.datetime
    shape: dict[str, Any] | None


def wish(cursor: Cursor, network: str, name: str) -> Wish | None:
    """What the processor is asked for now, and nobody changes that while this transaction lasts; None for none."""
    cursor.execute(
        """SELECT p.requested_status, p.wanted_since, p.shape FROM pyfi.processor p
           JOIN pyfi.network n ON n.id = p.network_id WHERE n.name = %s AND p.name = %s FOR UPDATE OF p""",
        (network, name),
    )
    row = cursor.fetchone()
    return Wish(*row) if row else None


def withdraw(cursor: Cursor, token: str, before: Wish) -> bool:
    """Take a job that Slurm refused off the record; False where it stays: it was cancelled, or Slurm has it.

    Its processor is asked for what it was `before`, unless somebody has asked for something else since.
    """
    cursor.execute(
        """DELETE FROM pyfi.job WHERE token = %s AND status = 'ENDED' AND slurm_id IS NULL AND NOT cancel_requested
           RETURNING processor_id, created""",
        (token,),
    )
    row = cursor.fetchone()
    if row is None:
        return False
    cursor.execute(
        """UPDATE pyfi.processor SET requested_status = %s, wanted_since = %s, shape = %s
           WHERE id = %s AND wanted_since = %s AND status <> 'REMOVED'""",
        (before.requested, before.since, Json(before.shape) if before.shape is not None else None, *row),
    )
    return True


def lock_scheduler(cursor: Cursor, scheduler: str) -> None:
    """No pass plans while this transaction lasts."""
    cursor.execute("SELECT FROM pyfi.scheduler WHERE id = %s::uuid FOR UPDATE", (scheduler,))


def over(cursor: Cursor, tokens: Iterable[str]) -> set[str]:
    """Those of `tokens` whose jobs have ended."""
    cursor.execute("SELECT token FROM pyfi.job WHERE token = ANY (%s) AND status = 'ENDED'", (sorted(tokens),))
    return {row[0] for row in cursor.fetchall()}
