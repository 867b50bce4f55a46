"""What took the agents that did not end by themselves, and what that means for the calls that they ran.

The broker gives a lost agent's calls to others long before Slurm says that a node failed: until then a start that the
agent had announced is charged to its call as `agent_lost`, which spends the retry budget. Once Slurm has said it, the
charge is taken back, and what the node is known to have run gets an attempt that says so. Each pass of a leading
scheduler looks at all that is still in doubt, so that none needs to be told, and doing it again changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyfi_hpc.db import record
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.logs import logger
from pyfi_hpc.model.status import Cause, HoldState, JobStatus
from pyfi_hpc.slurm.detail import in_hostlist
from pyfi_hpc.wire.ids import id_text
from pyfi_hpc.wire.messages import ErrorRecord

log = logger("pyfi.scheduler")

#: So many charges are looked at in one pass.
_MOST = 500
_WORDS = {
    Cause.NODE_FAILED: "its node failed",
    Cause.PREEMPTED: "Slurm ended its job before the call could be given back",
    Cause.WALLTIME: "its job's time limit passed before the call could be given back",
}


@dataclass(frozen=True, slots=True)
class Lost:
    """An agent in a job that did not end by itself, and how its job stands now.

    Attributes:
        host: Slurm's name of its node.
        told: it had begun to drain.
        replaced: another agent started after it on the same node, in the same incarnation of the job.
        overtaken: the job was started again since.
        state: Slurm's word for the job; "" where there is none.
        nodes: Slurm's list of the job's nodes now; None while it has none.
    """

    agent: str
    host: str
    told: bool
    replaced: bool
    overtaken: bool
    status: JobStatus
    state: str = ""
    nodes: str | None = None


def cause_of(lost: Lost) -> Cause:
    """What took the agent, as far as Slurm has said it by now; AGENT_LOST: nothing of Slurm's is known to have."""
    if lost.replaced:
        return Cause.AGENT_LOST  # its parent was there to start another
    over = lost.overtaken or lost.status is JobStatus.ENDED
    if lost.told and over:
        timed_out = not lost.overtaken and any(word in lost.state for word in ("TIMEOUT", "DEADLINE"))
        return Cause.WALLTIME if timed_out else Cause.PREEMPTED
    if lost.overtaken or "NODE_FAIL" in lost.state:
        return Cause.NODE_FAILED
    # a job that goes on without one of its nodes does not have that node any more
    gone_on = lost.status is JobStatus.RUNNING and bool(lost.nodes) and not in_hostlist(lost.host, lost.nodes or "")
    return Cause.NODE_FAILED if gone_on else Cause.AGENT_LOST


def error_of(cause: Cause) -> ErrorRecord:
    """What is said of a call whose agent went away for that cause."""
    words = _WORDS.get(cause, "the agent that ran it went away")
    return ErrorRecord(type="pyfi_hpc.errors.WorkerLost", message=words, code="E_WORKER_LOST", cause=cause)


def judge(cursor: Cursor, scheduler: str) -> None:
    """Put on record what took the agents in this scheduler's jobs, and put right what was said of their calls."""
    for lost in _doubtful(cursor, scheduler):
        cause = cause_of(lost)
        if cause is not Cause.AGENT_LOST:
            log.warning("an agent was lost", host=lost.host, cause=cause.value)
            _settle(cursor, lost.agent, cause)
    _take_back_charges(cursor)
    _close_started(cursor)


def _doubtful(cursor: Cursor, scheduler: str) -> list[Lost]:
    later = "SELECT FROM pyfi.agent o WHERE o.job_id = a.job_id"
    cursor.execute(
        f"""SELECT a.id::text, n.host, a.stop_requested,
               EXISTS ({later} AND o.incarnation = a.incarnation AND o.node_id = a.node_id AND o.started > a.started),
               j.restarts > a.incarnation OR EXISTS ({later} AND o.incarnation > a.incarnation),
               j.status, coalesce(j.slurm_state, ''), j.node_list
           FROM pyfi.agent a JOIN pyfi.job j ON j.id = a.job_id JOIN pyfi.node n ON n.id = a.node_id
           WHERE a.lost = 'agent_lost' AND j.scheduler_id = %s::uuid
               -- Slurm says nothing more of a job that ended long ago
               AND (j.status <> 'ENDED' OR j.observed > now() - interval '1 day')
           ORDER BY a.started, a.id""",
        (scheduler,),
    )
    return [
        Lost(agent, host, told, replaced, overtaken, JobStatus(status), state, nodes)
        for agent, host, told, replaced, overtaken, status, state, nodes in cursor.fetchall()
    ]


def _settle(cursor: Cursor, agent: str, cause: Cause) -> None:
    """It is known what took this agent: each call that its workers ran has an attempt.

    One whose start was announced has a row already, one whose outcome it committed needs none.
    """
    cursor.execute("UPDATE pyfi.agent SET lost = %s WHERE id = %s::uuid", (cause.value, agent))
    cursor.execute(
        """INSERT INTO pyfi.attempt (owner, id, serial, status, cause, error, socket_id, worker_id, agent_id, started,
               ended)
           SELECT s.owner, w.running, 0, 'FAILED', g.lost, %s, coalesce(o.socket_id, h.socket_id), w.id, g.id,
               w.running_since, least(g.ended, g.lease_until)
           FROM pyfi.agent g JOIN pyfi.worker w ON w.agent_id = g.id
           CROSS JOIN LATERAL (
               SELECT s.owner FROM pyfi.socket s WHERE s.processor_id = w.processor_id ORDER BY s.created LIMIT 1) AS s
           LEFT JOIN pyfi.outcome o ON o.owner = s.owner AND o.id = w.running
           LEFT JOIN pyfi.hold h ON h.owner = s.owner AND h.id = w.running
           WHERE g.id = %s::uuid AND w.status = 'LOST' AND w.running IS NOT NULL
               AND o.worker_id IS DISTINCT FROM w.id
               AND NOT EXISTS (SELECT FROM pyfi.attempt a WHERE a.owner = s.owner AND a.id = w.running
                               AND a.agent_id = g.id)
           ON CONFLICT (owner, id, serial) DO NOTHING""",
        (record.failed(error_of(cause)), agent),
    )


#: Attempt `a` was made by agent `g`, of which it is known by now that something of Slurm's took it.
_EXCUSED = "FROM pyfi.attempt a JOIN pyfi.agent g ON g.id = a.agent_id WHERE g.lost <> 'agent_lost'"


def _take_back_charges(cursor: Cursor) -> None:
    """Attempts that were charged as `agent_lost`: they get the true cause, and their calls the budget back."""
    cursor.execute(
        f"""SELECT a.owner, uuid_send(a.id), a.serial, g.lost {_EXCUSED} AND a.cause = 'agent_lost'
            ORDER BY a.owner, a.id, a.serial LIMIT {_MOST}"""
    )
    charges = [(owner, bytes(identity), serial, Cause(lost)) for owner, identity, serial, lost in cursor.fetchall()]
    keys = [(owner, identity) for owner, identity, *_ in charges]
    # the rows are locked in the order of a commit: first what is held, then the attempts
    held = record.holds(cursor, keys, lock=True)
    for owner, identity, serial, cause in charges:
        before = held.get((owner, identity))
        if not _corrected(cursor, owner, identity, serial, cause) or before is None:
            continue
        if before.state == HoldState.DEAD:
            # its outcome is final: only a person may open it again
            log.warning("a call is dead of what was not its fault", owner=owner, id=id_text(identity),
                        cause=cause.value, cure=f"pyfi dead requeue {id_text(identity)}")  # fmt: skip
        else:
            _give_back(cursor, owner, identity, serial)


def _corrected(cursor: Cursor, owner: str, identity: bytes, serial: int, cause: Cause) -> bool:
    cursor.execute(
        """UPDATE pyfi.attempt SET cause = %s, error = %s
           WHERE owner = %s AND id = %s::uuid AND serial = %s AND cause = 'agent_lost'""",
        (cause.value, record.failed(error_of(cause)), owner, identity.hex(), serial),
    )
    return bool(cursor.rowcount)


def _give_back(cursor: Cursor, owner: str, identity: bytes, serial: int) -> None:
    """One try of the budget becomes a return at no cost, unless a person has given the call a new budget since."""
    cursor.execute(
        """UPDATE pyfi.hold h SET used = greatest(0, h.used - 1), returns = h.returns + 1
           WHERE h.owner = %s AND h.id = %s::uuid AND NOT EXISTS (
               SELECT FROM pyfi.outcome o WHERE o.owner = h.owner AND o.id = h.id AND o.status = 'REOPENED'
                   AND o.serial > %s)""",
        (owner, identity.hex(), serial),
    )


def _close_started(cursor: Cursor) -> None:
    """Starts that were announced and that nobody will end: the call is decided, or a later attempt is planned.

    The others are ended by whoever gets their delivery: from now on that costs the call nothing.
    """
    cursor.execute(
        f"""SELECT a.owner, uuid_send(a.id), a.serial, g.lost {_EXCUSED} AND a.status = 'STARTED' AND (
               EXISTS (SELECT FROM pyfi.outcome o WHERE o.owner = a.owner AND o.id = a.id AND o.status <> 'REOPENED')
               OR EXISTS (SELECT FROM pyfi.hold h WHERE h.owner = a.owner AND h.id = a.id AND h.serial > a.serial))
           ORDER BY a.owner, a.id, a.serial LIMIT {_MOST} FOR UPDATE OF a SKIP LOCKED"""
    )
    for owner, identity, serial, cause in cursor.fetchall():
        cursor.execute(
            """UPDATE pyfi.attempt SET status = 'FAILED', cause = %s, error = %s, ended = now()
               WHERE owner = %s AND id = %s::uuid AND serial = %s AND status = 'STARTED'""",
            (cause, record.failed(error_of(Cause(cause))), owner, bytes(identity).hex(), serial),
        )
