"""What the agent does in the database besides committing: registers, renews its leases, reads what is wanted of it.

Every function is one short transaction's work on the committer's cursor.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec

from pyfi_hpc.agent import devices
from pyfi_hpc.agent.commit.ways import Way
from pyfi_hpc.agent.lots import Served
from pyfi_hpc.agent.registering import AGENT_LEASE_SECONDS, Application, Identity, register
from pyfi_hpc.brokers.base import TaskQueue
from pyfi_hpc.control import reconcile
from pyfi_hpc.db import record, topology
from pyfi_hpc.db.record import Cursor, Due
from pyfi_hpc.gpu.sampling import Sample
from pyfi_hpc.model import priority
from pyfi_hpc.model.status import Requested, WorkerStatus

LONG_CALL_LEASE_SECONDS = 30.0
_MOST_DUE = 200


class OwnWorker(msgspec.Struct, frozen=True):
    """A worker row of this agent that has not ended."""

    id: bytes
    processor: bytes
    cores: tuple[int, ...]
    devices: tuple[str, ...]
    status: WorkerStatus
    version: str


class LongCall(msgspec.Struct, frozen=True):
    """The call that a worker runs, and for how many seconds by now; both None where it runs none that is long."""

    worker: bytes
    call: bytes | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Program:
    """What a processor's workers run, and within which limits."""

    id: bytes
    name: str
    repository: str
    commit: str
    module: str
    requirements: str | None
    python: str | None
    mem_mib: int | None
    timeout_seconds: float | None
    requested: Requested


class Sibling(NamedTuple):
    """Another agent of the same job, as it is on record: where it listens, its key, and what its workers run."""

    agent: bytes
    endpoint: str
    key: bytes
    processors: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class View:
    """What the database wants of this agent now.

    Attributes:
        superseded: its lease is gone, it must not go on.
        outdated: its job was started again, and this is the earlier incarnation.
        seconds_left: until Slurm ends its job; None: not known, never, or by hand.
    """

    superseded: bool
    stop_requested: bool
    workers: tuple[OwnWorker, ...]
    programs: dict[bytes, Program]
    sockets: dict[bytes, Served]
    due: tuple[Due, ...]
    #: seconds until a hold row comes due; None when none waits
    next_due_seconds: float | None = None
    #: seconds until a processor may start again; None when none waits
    next_start_seconds: float | None = None
    #: in how many seconds to look again, with the same wish; None: a pass has seen to it
    again_seconds: float | None = None
    #: every queue that the broker should have
    queues: tuple[TaskQueue, ...] = ()
    outdated: bool = False
    #: plugs whose results go through the broker, whoever is near
    by_broker: frozenset[bytes] = frozenset()
    seconds_left: float | None = None
    #: other agents of the job that have pipes between nodes; none for an agent that has not
    siblings: tuple[Sibling, ...] = ()


def stopping(cursor: Cursor, agent: bytes) -> None:
    """This agent drains: no pass is to plan another worker for it."""
    cursor.execute("UPDATE pyfi.agent SET stop_requested = true WHERE id = %s::uuid AND ended IS NULL", (agent.hex(),))


def deregister(cursor: Cursor, agent: bytes) -> None:
    """This agent ends: its workers have."""
    cursor.execute("UPDATE pyfi.agent SET ended = now() WHERE id = %s::uuid AND ended IS NULL", (agent.hex(),))
    reconcile.close_workers(cursor, [agent.hex()], WorkerStatus.EXITED, "its agent was stopped")


def arrive(cursor: Cursor, application: Application, wished: float) -> tuple[Identity, View] | None:
    """Register, and take the first look in the same transaction; None: as `register` has it. `wished`: see `look`."""
    identity = register(cursor, application)
    if identity is None:
        return None
    return identity, look(cursor, application.post.network, application.agent, {}, wished=wished)


def look(
    cursor: Cursor,
    network: str,
    agent: bytes,
    calls: Mapping[bytes, int],
    samples: Sequence[Sample] = (),
    ways: Mapping[bytes, Way] | None = None,
    wished: float | None = None,
    between: bool = False,
) -> View:
    """Renew the leases, run a reconcile pass where one is due, and read what this agent is to do.

    `calls`: worker row -> how many calls it has run, where that changed since the last look. `samples`: of its GPUs.
    `ways`: plug -> which way its results have gone since the last look.
    `wished`: when something changed that asks for a pass, on the monotonic clock. `between`: it has pipes to other
    nodes of its job.
    """
    cursor.execute(
        """UPDATE pyfi.agent SET lease_until = now() + %s * interval '1 second'
           WHERE id = %s::uuid AND ended IS NULL RETURNING stop_requested""",
        (AGENT_LEASE_SECONDS, agent.hex()),
    )
    row = cursor.fetchone()
    outdated, seconds_left = _of_job(cursor, agent)
    if row is None:
        return View(True, True, (), {}, {}, (), outdated=outdated)
    record.renew_leases(cursor, agent, LONG_CALL_LEASE_SECONDS)
    for worker, count in calls.items():
        cursor.execute("UPDATE pyfi.worker SET calls = %s WHERE id = %s::uuid", (count, worker.hex()))
    devices.note(cursor, agent, samples)
    note_ways(cursor, ways or {})
    wish_seconds = None if wished is None else time.monotonic() - wished
    again_seconds = reconcile.reconcile_if_due(cursor, network, wish_seconds)
    due = tuple(record.take_due(cursor, _MOST_DUE))
    return View(
        superseded=False,
        stop_requested=row[0],
        workers=_own_workers(cursor, agent),
        programs=_programs(cursor, network),
        sockets=_served(cursor, network),
        due=due,
        next_due_seconds=record.next_due(cursor),
        next_start_seconds=reconcile.next_start(cursor, network),
        again_seconds=again_seconds,
        queues=topology.task_queues(cursor, network),
        outdated=outdated,
        by_broker=topology.by_broker(cursor, network),
        seconds_left=seconds_left,
        siblings=_siblings(cursor, agent) if between else (),
    )


def _siblings(cursor: Cursor, agent: bytes) -> tuple[Sibling, ...]:
    """The live agents of the same incarnation of its job and of the same owner that have pipes between nodes too."""
    cursor.execute(
        """SELECT uuid_send(o.id), o.pipe_address, o.pipe_key,
               ARRAY(SELECT DISTINCT uuid_send(w.processor_id) FROM pyfi.worker w
                     WHERE w.agent_id = o.id AND w.status = 'READY')
           FROM pyfi.agent a JOIN pyfi.agent o ON o.job_id = a.job_id AND o.incarnation = a.incarnation
               AND o.owner = a.owner AND o.id <> a.id
           WHERE a.id = %s::uuid AND a.pipe_key IS NOT NULL AND o.pipe_key IS NOT NULL AND o.ended IS NULL
               AND o.lease_until > now() ORDER BY o.id""",
        (agent.hex(),),
    )
    return tuple(
        Sibling(bytes(row[0]), row[1], row[2].encode(), frozenset(map(bytes, row[3]))) for row in cursor.fetchall()
    )


def note_ways(cursor: Cursor, ways: Mapping[bytes, Way]) -> None:
    """Add to what is known of these plugs, always in the same order: other agents do so too."""
    for plug, way in sorted(ways.items()):
        cursor.execute(
            """UPDATE pyfi.plug SET piped = piped + %s, queued = queued + %s,
                   piped_at = CASE WHEN %s > 0 THEN now() ELSE piped_at END,
                   queued_at = CASE WHEN %s > 0 THEN now() ELSE queued_at END,
                   far = far + %s, far_at = CASE WHEN %s > 0 THEN now() ELSE far_at END WHERE id = %s::uuid""",
            (way.piped, way.queued, way.piped, way.queued, way.far, way.far, plug.hex()),
        )


def note_long_calls(cursor: Cursor, calls: Sequence[LongCall]) -> None:
    """Say of these workers what they run."""
    cursor.execute(
        """UPDATE pyfi.worker w SET running = c.call, running_since = now() - c.seconds * interval '1 second'
           FROM unnest(%s::uuid[], %s::uuid[], %s::float8[]) AS c (worker, call, seconds)
           WHERE w.id = c.worker AND w.status NOT IN ('EXITED', 'LOST')""",
        (
            [each.worker.hex() for each in calls],
            [each.call.hex() if each.call else None for each in calls],
            [each.seconds for each in calls],
        ),
    )


def _of_job(cursor: Cursor, agent: bytes) -> tuple[bool, float | None]:
    """Whether the agent's job runs in a later incarnation, and in how many seconds Slurm ends it."""
    cursor.execute(
        f"""SELECT j.restarts > a.incarnation
               OR EXISTS (SELECT FROM pyfi.agent o WHERE o.job_id = j.id AND o.incarnation > a.incarnation),
               extract(epoch FROM {reconcile.ENDS_AT} - now())::float8
           FROM pyfi.agent a JOIN pyfi.job j ON j.id = a.job_id WHERE a.id = %s::uuid""",
        (agent.hex(),),
    )
    return cursor.fetchone() or (False, None)


def _own_workers(cursor: Cursor, agent: bytes) -> tuple[OwnWorker, ...]:
    cursor.execute(
        """SELECT uuid_send(id), uuid_send(processor_id), cores, devices, status, version FROM pyfi.worker
           WHERE agent_id = %s::uuid AND status NOT IN ('EXITED', 'LOST') ORDER BY created, id""",
        (agent.hex(),),
    )
    return tuple(
        OwnWorker(bytes(row[0]), bytes(row[1]), tuple(row[2]), tuple(row[3]), WorkerStatus(row[4]), row[5])
        for row in cursor.fetchall()
    )


def _programs(cursor: Cursor, network: str) -> dict[bytes, Program]:
    cursor.execute(
        """SELECT uuid_send(p.id), p.name, p.repository, p.commit, p.module, p.requirements, p.python, p.mem_mib,
               p.timeout_seconds, p.requested_status
           FROM pyfi.processor p JOIN pyfi.network n ON n.id = p.network_id
           WHERE n.name = %s AND p.status <> 'REMOVED'""",
        (network,),
    )
    return {
        bytes(row[0]): Program(
            bytes(row[0]), row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8], Requested(row[9])
        )
        for row in cursor.fetchall()
    }


def _served(cursor: Cursor, network: str) -> dict[bytes, Served]:
    routes = topology.routes(cursor, network)
    cursor.execute(
        """SELECT uuid_send(s.id), s.name, s.owner, uuid_send(s.processor_id), s.task, q.name, s.task_key,
               t.generation, coalesce(s.timeout_seconds, p.timeout_seconds), p.max_attempts, p.retry_delay_seconds,
               (SELECT json_object_agg(l.task_key, l.generation) FROM pyfi.task_queue l WHERE l.queue_id = s.queue_id
                AND l.task_key IN (s.task_key || '.high', s.task_key || '.low'))
           FROM pyfi.socket s JOIN pyfi.processor p ON p.id = s.processor_id JOIN pyfi.queue q ON q.id = s.queue_id
           JOIN pyfi.task_queue t ON t.queue_id = s.queue_id AND t.task_key = s.task_key
           JOIN pyfi.network n ON n.id = s.network_id WHERE n.name = %s AND p.status <> 'REMOVED'""",
        (network,),
    )
    served = {}
    for row in cursor.fetchall():
        queue = topology.task_queue(network, row[5], row[6], row[7])
        identity = bytes(row[0])
        socket = Served(
            identity, row[1], row[2], bytes(row[3]), row[4], queue.name, queue.exchange, queue.key, queue.generation,
            row[8], row[9], row[10], routes.get(identity, ()),
        )  # fmt: skip
        levels = [topology.task_queue(network, row[5], *level) for level in (row[11] or {}).items()]
        served[identity] = replace(socket, others=tuple(_at_level(socket, level) for level in levels))
    return served


def _at_level(socket: Served, queue: TaskQueue) -> Served:
    """The socket, served from the queue of another priority."""
    found = priority.of_key(queue.key)
    return replace(socket, queue=queue.name, key=queue.key, generation=queue.generation, priority=found)


def worker_launching(cursor: Cursor, worker: bytes) -> bool:
    """Take a planned worker up; False when it is not wanted any more.

    One that is LAUNCHING was taken up by an earlier try of the same transaction, whose commit was uncertain.
    """
    cursor.execute(
        "UPDATE pyfi.worker SET status = 'LAUNCHING' WHERE id = %s::uuid AND status IN ('PLANNED', 'LAUNCHING')",
        (worker.hex(),),
    )
    return bool(cursor.rowcount)


def worker_ready(cursor: Cursor, worker: bytes, processor: bytes, pid: int, environment: str) -> None:
    """The worker said hello."""
    cursor.execute(
        "UPDATE pyfi.worker SET status = 'READY', pid = %s, environment = %s"
        " WHERE id = %s::uuid AND status = 'LAUNCHING'",
        (pid, environment, worker.hex()),
    )
    reconcile.processor_works(cursor, processor)


def worker_ended(cursor: Cursor, worker: bytes, reason: str, calls: int) -> None:
    """The worker's process is gone."""
    cursor.execute(
        "UPDATE pyfi.worker SET status = 'EXITED', reason = %s, calls = %s, ended = now(), running = NULL,"
        " running_since = NULL"
        " WHERE id = %s::uuid AND status <> 'EXITED'",
        (reason[:500], calls, worker.hex()),
    )


def crashes(cursor: Cursor, processor: bytes, minutes: float) -> int:
    """How many workers of `processor` died by themselves in the last `minutes`."""
    cursor.execute(
        "SELECT count(*) FROM pyfi.worker WHERE processor_id = %s::uuid AND status = 'EXITED'"
        " AND reason LIKE 'crashed:%%' AND ended > now() - %s * interval '1 minute'"
        " AND ended > (SELECT coalesce(max(at), '-infinity') FROM pyfi.event"
        "              WHERE object_id = %s::uuid AND what = 'FAILED')",
        (processor.hex(), minutes, processor.hex()),
    )
    return int(cursor.fetchone()[0])
