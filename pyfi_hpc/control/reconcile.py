"""One reconcile pass: read what is wanted and what is, let `placement.plan` decide, write what it says.

Any agent may run a pass; a transaction-level lock keeps two from planning at once, and two that did would be harmless:
every write names the state that it starts from.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyfi_hpc.control.placement import (
    Action,
    Become,
    Drain,
    ExistingWorker,
    ServingNode,
    Start,
    WantedProcessor,
    plan,
)
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.model.status import ProcessorStatus, Requested, WorkerStatus

_PASS_LOCK = 0x70796669_0001
#: What a worker's version is made of: it is replaced when any of this changes.
VERSION = "md5(concat_ws(':', p.commit, p.module, p.requirements, p.python, p.cpus, p.restarts))"


def reconcile(cursor: Cursor, network: str) -> int:
    """Run one pass over `network`, unless somebody else is at it. Returns how many actions were written."""
    cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", (_PASS_LOCK,))
    if not cursor.fetchone()[0]:
        return 0
    bury(cursor)
    actions = plan(_processors(cursor, network), _nodes(cursor, network), _workers(cursor, network))
    _write(cursor, actions)
    return len(actions)


def bury(cursor: Cursor) -> None:
    """Agents whose lease has lapsed, by the database's clock, are gone: so are their workers."""
    cursor.execute("UPDATE pyfi.agent SET ended = now() WHERE ended IS NULL AND lease_until < now() RETURNING id::text")
    gone = [row[0] for row in cursor.fetchall()]
    if gone:
        close_workers(cursor, gone, WorkerStatus.LOST, "its agent's lease lapsed")


def close_workers(cursor: Cursor, agents: Sequence[str], status: WorkerStatus, reason: str) -> None:
    """The workers of these agents have ended, and nodes without another live agent are down."""
    cursor.execute(
        "UPDATE pyfi.worker SET status = %s::pyfi.worker_status, reason = %s, ended = now()"
        " WHERE agent_id = ANY (%s::uuid[]) AND status NOT IN ('EXITED', 'LOST')",
        (status.value, reason, list(agents)),
    )
    cursor.execute(
        "UPDATE pyfi.node n SET status = 'DOWN' FROM pyfi.agent a WHERE a.id = ANY (%s::uuid[]) AND n.id = a.node_id"
        " AND NOT EXISTS (SELECT FROM pyfi.agent o WHERE o.node_id = n.id AND o.ended IS NULL)",
        (list(agents),),
    )


def _processors(cursor: Cursor, network: str) -> list[WantedProcessor]:
    cursor.execute(
        f"""SELECT uuid_send(p.id), p.name, p.requested_status, p.status, p.workers, p.cpus, p.host, {VERSION},
                p.retry_at IS NULL OR p.retry_at <= now() OR p.generation <> p.observed_generation
            FROM pyfi.processor p JOIN pyfi.network n ON n.id = p.network_id
            WHERE n.name = %s AND p.status <> 'REMOVED' ORDER BY p.created, p.id""",
        (network,),
    )
    return [
        WantedProcessor(
            bytes(row[0]), row[1], Requested(row[2]), ProcessorStatus(row[3]), row[4], row[5], row[6], row[7], row[8]
        )
        for row in cursor.fetchall()
    ]


def _nodes(cursor: Cursor, network: str) -> list[ServingNode]:
    cursor.execute(
        """SELECT uuid_send(n.id), uuid_send(a.id), n.name, n.host, a.cores, n.shared_cores,
                n.drain_requested OR a.stop_requested
           FROM pyfi.agent a JOIN pyfi.node n ON n.id = a.node_id JOIN pyfi.network w ON w.id = n.network_id
           WHERE w.name = %s AND a.ended IS NULL ORDER BY n.name""",
        (network,),
    )
    return [
        ServingNode(bytes(row[0]), bytes(row[1]), row[2], row[3], tuple(row[4]), row[5], row[6])
        for row in cursor.fetchall()
    ]


def _workers(cursor: Cursor, network: str) -> list[ExistingWorker]:
    cursor.execute(
        """SELECT uuid_send(w.id), uuid_send(w.processor_id), uuid_send(w.agent_id), w.cores, w.status, w.version
           FROM pyfi.worker w JOIN pyfi.processor p ON p.id = w.processor_id JOIN pyfi.network n ON n.id = p.network_id
           WHERE n.name = %s AND w.status NOT IN ('EXITED', 'LOST') ORDER BY w.created, w.id""",
        (network,),
    )
    return [
        ExistingWorker(bytes(row[0]), bytes(row[1]), bytes(row[2]), tuple(row[3]), WorkerStatus(row[4]), row[5])
        for row in cursor.fetchall()
    ]


def _write(cursor: Cursor, actions: Sequence[Action]) -> None:
    for action in actions:
        match action:
            case Start():
                cursor.execute(
                    f"""INSERT INTO pyfi.worker (processor_id, node_id, agent_id, cores, commit, version)
                        SELECT p.id, %s::uuid, %s::uuid, %s, p.commit, {VERSION} FROM pyfi.processor p
                        WHERE p.id = %s::uuid""",
                    (action.node.hex(), action.agent.hex(), list(action.cores), action.processor.hex()),
                )
            case Drain():
                cursor.execute(
                    "UPDATE pyfi.worker SET status = CASE status WHEN 'PLANNED' THEN 'EXITED' ELSE 'DRAINING' END"
                    "::pyfi.worker_status WHERE id = %s::uuid AND status IN ('PLANNED', 'LAUNCHING', 'READY')",
                    (action.worker.hex(),),
                )
            case Become():
                _become(cursor, action)


def _become(cursor: Cursor, action: Become) -> None:
    cursor.execute(
        """UPDATE pyfi.processor SET status = %s::pyfi.processor_status, observed_generation = generation,
               reason = CASE WHEN %s IN ('RUNNING', 'STOPPED') THEN NULL ELSE reason END
           WHERE id = %s::uuid AND status = %s::pyfi.processor_status RETURNING name""",
        (action.status.value, action.status.value, action.processor.hex(), action.before.value),
    )
    if row := cursor.fetchone():
        cursor.execute(
            "INSERT INTO pyfi.event (kind, object_id, name, what) VALUES ('processor', %s::uuid, %s, %s)",
            (action.processor.hex(), row[0], action.status.value),
        )


def processor_failed(cursor: Cursor, processor: bytes, reason: str, *, first_delay_seconds: float = 5.0) -> None:
    """`processor` cannot run: FAILED with the reason (JSON text), tried again with back-off or when it is changed.

    Workers that fail together count once: the first of them has put the next try off.
    """
    cursor.execute(
        """UPDATE pyfi.processor SET status = 'FAILED', reason = %s::jsonb, failures = failures + 1,
               observed_generation = generation,
               retry_at = now() + least(300, %s * 2 ^ least(failures, 10)) * interval '1 second'
           WHERE id = %s::uuid AND status <> 'REMOVED' AND (status <> 'FAILED' OR retry_at <= now()) RETURNING name""",
        (reason, first_delay_seconds, processor.hex()),
    )
    if row := cursor.fetchone():
        cursor.execute(
            "INSERT INTO pyfi.event (kind, object_id, name, what, detail) VALUES"
            " ('processor', %s::uuid, %s, 'FAILED', %s::jsonb)",
            (processor.hex(), row[0], reason),
        )


def next_start(cursor: Cursor, network: str) -> float | None:
    """Seconds until a processor that waits to be started again may be; None when none waits."""
    cursor.execute(
        """SELECT extract(epoch FROM min(p.retry_at) - clock_timestamp())::float8 FROM pyfi.processor p
           JOIN pyfi.network n ON n.id = p.network_id
           WHERE n.name = %s AND p.retry_at > now() AND p.requested_status = 'RUNNING'""",
        (network,),
    )
    seconds: float | None = cursor.fetchone()[0]
    return seconds


def hold_back(cursor: Cursor, processor: bytes, seconds: float) -> None:
    """Start no worker of `processor` before so many seconds have passed."""
    cursor.execute(
        "UPDATE pyfi.processor SET retry_at = now() + %s * interval '1 second' WHERE id = %s::uuid",
        (seconds, processor.hex()),
    )


def processor_works(cursor: Cursor, processor: bytes) -> None:
    """A worker of `processor` is ready: earlier failures are forgotten."""
    cursor.execute(
        "UPDATE pyfi.processor SET failures = 0, retry_at = NULL WHERE id = %s::uuid"
        " AND (failures <> 0 OR retry_at IS NOT NULL)",
        (processor.hex(),),
    )
