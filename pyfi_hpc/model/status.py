"""The statuses of every object, and where each may go from where.

The database enforces these same tables (`db.guards` writes its triggers from them), so nothing can be set by hand to a
value, or along a way, that does not stand here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from pyfi_hpc.errors import BadInput


class Requested(StrEnum):
    """What a person asked of a processor."""

    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    PAUSED = "PAUSED"
    REMOVED = "REMOVED"


class ProcessorStatus(StrEnum):
    """What the control plane saw of a processor."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    MOVING = "MOVING"
    STOPPING = "STOPPING"
    FAILED = "FAILED"
    REMOVED = "REMOVED"


class WorkerStatus(StrEnum):
    """A worker process, from plan to end."""

    PLANNED = "PLANNED"
    LAUNCHING = "LAUNCHING"
    READY = "READY"
    DRAINING = "DRAINING"
    EXITED = "EXITED"
    LOST = "LOST"


class JobStatus(StrEnum):
    """A request to Slurm and the job that came of it, from intent to end. Slurm's own word is its *state*."""

    WANTED = "WANTED"  # on record, Slurm has not been asked
    SUBMITTING = "SUBMITTING"  # Slurm is being asked; left by a crash, it is settled by the job's token
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    ENDING = "ENDING"
    ENDED = "ENDED"
    UNKNOWN = "UNKNOWN"  # the controller does not answer, or gives a state that we have never seen


class NodeStatus(StrEnum):
    """A host, as its agent's lease tells."""

    UP = "UP"
    DRAINING = "DRAINING"
    DOWN = "DOWN"


class OutcomeStatus(StrEnum):
    """What came of an invocation; REOPENED only by an operator's requeue of a dead one."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    DEAD = "DEAD"
    REOPENED = "REOPENED"


class HoldState(StrEnum):
    """Where an invocation is that could not go the straight way."""

    LEASED = "LEASED"  # an agent runs it and has acked its delivery
    DUE = "DUE"  # to be published at `due`
    OUT = "OUT"  # published; the broker holds it again
    DEAD = "DEAD"  # kept for an operator to look at


class AttemptStatus(StrEnum):
    """One execution of one invocation."""

    STARTED = "STARTED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class Cause(StrEnum):
    """Why an attempt did not give a value."""

    USER_ERROR = "user_error"
    TIMEOUT = "timeout"
    HOST_OOM = "host_oom"
    GPU_OOM = "gpu_oom"
    SIGNAL = "signal"
    WORKER_LOST = "worker_lost"
    AGENT_LOST = "agent_lost"
    RETURNED = "returned"
    DRAINED = "drained"
    PREEMPTED = "preempted"
    WALLTIME = "walltime"
    NODE_FAILED = "node_failed"
    ENVIRONMENT = "environment"
    REFUSED = "refused"


class QueueType(StrEnum):
    """How a logical queue of the original spreads what is sent to it."""

    DIRECT = "direct"
    TOPIC = "topic"
    FANOUT = "fanout"


class QueueKind(StrEnum):
    """How RabbitMQ keeps a durable queue; the embedded broker knows one kind only."""

    QUORUM = "quorum"
    CLASSIC = "classic"


#: Causes that spend the retry budget. AGENT_LOST does: it is only ever charged to a call that ran alone.
SPENDS_BUDGET = frozenset(
    {Cause.USER_ERROR, Cause.TIMEOUT, Cause.HOST_OOM, Cause.GPU_OOM, Cause.SIGNAL, Cause.WORKER_LOST, Cause.AGENT_LOST}
)
#: Causes that another try cannot mend: the outcome is FAILED at once.
NEVER_RETRIED = frozenset({Cause.REFUSED})

_P, _W, _O, _J = ProcessorStatus, WorkerStatus, OutcomeStatus, JobStatus

PROCESSOR_NEXT: Mapping[ProcessorStatus, frozenset[ProcessorStatus]] = {
    _P.STOPPED: frozenset({_P.STARTING, _P.REMOVED, _P.FAILED}),
    _P.STARTING: frozenset({_P.RUNNING, _P.STOPPING, _P.FAILED}),
    _P.RUNNING: frozenset({_P.PAUSED, _P.MOVING, _P.STOPPING, _P.FAILED}),
    _P.PAUSED: frozenset({_P.RUNNING, _P.STOPPING, _P.FAILED}),
    _P.MOVING: frozenset({_P.RUNNING, _P.STOPPING, _P.FAILED}),
    _P.STOPPING: frozenset({_P.STOPPED, _P.FAILED}),
    # a failed start is tried again with back-off, or at once when the processor is changed; stopping it needs no worker
    _P.FAILED: frozenset({_P.STARTING, _P.STOPPED}),
    _P.REMOVED: frozenset(),
}

WORKER_NEXT: Mapping[WorkerStatus, frozenset[WorkerStatus]] = {
    _W.PLANNED: frozenset({_W.LAUNCHING, _W.EXITED, _W.LOST}),
    _W.LAUNCHING: frozenset({_W.READY, _W.DRAINING, _W.EXITED, _W.LOST}),
    _W.READY: frozenset({_W.DRAINING, _W.EXITED, _W.LOST}),
    _W.DRAINING: frozenset({_W.EXITED, _W.LOST}),
    # never back to READY: a process that returns registers as a new worker
    _W.LOST: frozenset({_W.EXITED}),
    _W.EXITED: frozenset(),
}

JOB_NEXT: Mapping[JobStatus, frozenset[JobStatus]] = {
    _J.WANTED: frozenset({_J.SUBMITTING, _J.ENDED}),
    # back to WANTED: its token was not found twice, so Slurm never heard of it
    _J.SUBMITTING: frozenset({_J.WANTED, _J.PENDING, _J.RUNNING, _J.ENDING, _J.ENDED, _J.UNKNOWN}),
    _J.PENDING: frozenset({_J.RUNNING, _J.ENDING, _J.ENDED, _J.UNKNOWN}),
    # back to PENDING: requeued, with another incarnation
    _J.RUNNING: frozenset({_J.PENDING, _J.ENDING, _J.ENDED, _J.UNKNOWN}),
    _J.ENDING: frozenset({_J.PENDING, _J.RUNNING, _J.ENDED, _J.UNKNOWN}),
    _J.UNKNOWN: frozenset({_J.PENDING, _J.RUNNING, _J.ENDING, _J.ENDED}),
    _J.ENDED: frozenset(),
}

OUTCOME_NEXT: Mapping[OutcomeStatus, frozenset[OutcomeStatus]] = {
    _O.SUCCEEDED: frozenset(),
    _O.FAILED: frozenset(),
    _O.CANCELLED: frozenset(),
    _O.DEAD: frozenset({_O.REOPENED}),
    _O.REOPENED: frozenset({_O.SUCCEEDED, _O.FAILED, _O.CANCELLED, _O.DEAD}),
}

REQUESTED_NEXT: Mapping[Requested, frozenset[Requested]] = {
    Requested.RUNNING: frozenset({Requested.STOPPED, Requested.PAUSED, Requested.REMOVED}),
    Requested.STOPPED: frozenset({Requested.RUNNING, Requested.REMOVED}),
    Requested.PAUSED: frozenset({Requested.RUNNING, Requested.STOPPED, Requested.REMOVED}),
    Requested.REMOVED: frozenset(),
}


def request(current: Requested, to: Requested, name: str) -> Requested:
    """`to`, when a person may ask that of processor `name` now.

    Raises:
        BadInput: E_BAD_TRANSITION.
    """
    if to is current or to in REQUESTED_NEXT[current]:
        return to
    why = f"processor {name!r} is {current}: it cannot become {to}"
    raise BadInput.of("E_BAD_TRANSITION", "requested_status", to, why)
