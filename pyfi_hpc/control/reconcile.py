"""One reconcile pass: read what is wanted and what is, let `placement.plan` decide, write what it says.

Any agent may run a pass; a transaction-level lock keeps two from planning at once, and two that did would be harmless:
every write names the state that it starts from. How often they do is up to `pacing`: what a pass costs grows with the
network, and so does the number of agents that might make one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pyfi_hpc.control import pacing
from pyfi_hpc.control.pacing import LastPass
from pyfi_hpc.control.placement import plan
from pyfi_hpc.control.records import (
    Action,
    Become,
    Drain,
    ExistingWorker,
    ServingNode,
    Slot,
    Start,
    WantedProcessor,
)
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.model.status import ProcessorStatus, Requested, WorkerStatus

_PASS_LOCK = 0x70796669_0001
#: What a worker's version is made of: it is replaced when any of this changes.
VERSION = "md5(concat_ws(':', p.commit, p.module, p.requirements, p.python, p.cpus, p.gpus, p.restarts))"
#: An agent whose job ends so soon takes nothing new: its drain needs the time.
ENDING_SECONDS = 30.0
#: When Slurm ends the job `j` that agent `a` is in: as its scheduler saw last, since a person may change it.
ENDS_AT = "coalesce(CASE WHEN j.restarts = a.incarnation THEN j.ends_at END, a.ends_at)"
#: The job that agent `a` is in has gone on without it, ends, or is to end.
_ENDING = f"""coalesce(j.restarts > a.incarnation OR j.cancel_requested
    OR (j.restarts = a.incarnation AND j.status IN ('ENDING', 'ENDED'))
    OR {ENDS_AT} < now() + {ENDING_SECONDS:g} * interval '1 second', false)"""


def reconcile(cursor: Cursor, network: str) -> int:
    """Run one pass over `network`, unless somebody else is at it. Returns how many actions were written."""
    return _pass(cursor, network) if _alone(cursor) else 0


def reconcile_if_due(cursor: Cursor, network: str, wish_seconds: float | None = None) -> float | None:
    """Run a pass unless there was one lately. `wish_seconds`: how long ago something changed that asks for one.

    Returns in how many seconds to ask again, with the same wish: no pass has seen what changed. None: there is no need.
    """
    wait = _wait(cursor, network, wish_seconds)
    if wait.seconds <= 0 and _alone(cursor):
        # somebody else's may have ended between the two questions
        wait = _wait(cursor, network, wish_seconds)
        if wait.seconds <= 0:
            _pass(cursor, network)
            return None
    return max(wait.seconds, wait.busy_seconds) if wait.wished else None


def _wait(cursor: Cursor, network: str, wish_seconds: float | None) -> pacing.Wait:
    cursor.execute(
        "SELECT extract(epoch FROM clock_timestamp() - passed)::float8, pass_seconds FROM pyfi.network"
        " WHERE name = %s AND passed IS NOT NULL",
        (network,),
    )
    row = cursor.fetchone()
    return pacing.wait(LastPass(*row) if row else None, wish_seconds)


def _alone(cursor: Cursor) -> bool:
    """Whether nobody else makes a pass, until this transaction ends."""
    cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", (_PASS_LOCK,))
    return bool(cursor.fetchone()[0])


def _pass(cursor: Cursor, network: str) -> int:
    began = time.monotonic()
    bury(cursor)
    actions = plan(_processors(cursor, network), _nodes(cursor, network), _workers(cursor, network))
    _write(cursor, actions)
    took = time.monotonic() - began
    cursor.execute(
        "UPDATE pyfi.network SET passed = clock_timestamp() - %s * interval '1 second', pass_seconds = %s"
        " WHERE name = %s",
        (took, took, network),
    )
    return len(actions)


def bury(cursor: Cursor) -> None:
    """Agents whose lease has lapsed, by the database's clock, are gone: so are their workers."""
    cursor.execute(
        "UPDATE pyfi.agent SET ended = now(), lost = 'agent_lost' WHERE ended IS NULL AND lease_until < now()"
        " RETURNING id::text"
    )
    gone = [row[0] for row in cursor.fetchall()]
    if gone:
        close_workers(cursor, gone, WorkerStatus.LOST, "its agent's lease lapsed")


def close_workers(cursor: Cursor, agents: Sequence[str], status: WorkerStatus, reason: str) -> None:
    """The workers of these agents have ended, and nodes without another live agent are down.

    What LOST ones ran stays on their rows: `losses` asks for it, once it is known what took them.
    """
    cursor.execute(
        """UPDATE pyfi.worker SET status = %s::pyfi.worker_status, reason = %s, ended = now(),
               running = CASE WHEN %s THEN running END, running_since = CASE WHEN %s THEN running_since END
           WHERE agent_id = ANY (%s::uuid[]) AND status NOT IN ('EXITED', 'LOST')""",
        (status.value, reason, status is WorkerStatus.LOST, status is WorkerStatus.LOST, list(agents)),
    )
    cursor.execute(
        "UPDATE pyfi.node n SET status = 'DOWN' FROM pyfi.agent a WHERE a.id = ANY (%s::uuid[]) AND n.id = a.node_id"
        " AND NOT EXISTS (SELECT FROM pyfi.agent o WHERE o.node_id = n.id AND o.ended IS NULL)",
        (list(agents),),
    )


def _processors(cursor: Cursor, network: str) -> list[WantedProcessor]:
    cursor.execute(
        f"""SELECT uuid_send(p.id), p.name, p.requested_status, p.status, p.workers, p.cpus, p.host, {VERSION},
                p.retry_at IS NULL OR p.retry_at <= now() OR p.generation <> p.observed_generation, p.gpus,
                p.shape IS NOT NULL
            FROM pyfi.processor p JOIN pyfi.network n ON n.id = p.network_id
            WHERE n.name = %s AND p.status <> 'REMOVED' ORDER BY p.created, p.id""",
        (network,),
    )
    return [
        WantedProcessor(bytes(identity), name, Requested(requested), ProcessorStatus(status), *rest)
        for identity, name, requested, status, *rest in cursor.fetchall()
    ]


def _nodes(cursor: Cursor, network: str) -> list[ServingNode]:
    cursor.execute(
        f"""SELECT uuid_send(n.id), uuid_send(a.id), n.name, n.host, a.cores, n.shared_cores,
                n.drain_requested OR a.stop_requested, a.slots, d.uuids, uuid_send(a.job_id),
                uuid_send(j.processor_id), {_ENDING}
           FROM pyfi.agent a JOIN pyfi.node n ON n.id = a.node_id JOIN pyfi.network w ON w.id = n.network_id
           LEFT JOIN pyfi.job j ON j.id = a.job_id
           LEFT JOIN (SELECT node_id, array_agg(uuid ORDER BY uuid) AS uuids FROM pyfi.device GROUP BY node_id) d
               ON d.node_id = n.id AND a.job_id IS NULL
           WHERE w.name = %s AND a.ended IS NULL ORDER BY n.name, a.started, a.id""",
        (network,),
    )
    return [_node(*row) for row in cursor.fetchall()]


def _node(
    identity: Any, agent: Any, name: str, host: str, cores: Sequence[int], shared: bool, draining: bool,
    slots: Sequence[Any] | None, devices: Sequence[str] | None, job: Any, processor: Any, ending: bool,
) -> ServingNode:  # fmt: skip
    return ServingNode(
        bytes(identity), bytes(agent), name, host, tuple(cores), shared, draining,
        slots=tuple(Slot(tuple(slot["cores"]), tuple(slot.get("devices", ()))) for slot in slots or ()),
        devices=tuple(devices or ()), job=_bytes(job), for_processor=_bytes(processor), ending=ending,
    )  # fmt: skip


def _bytes(identity: Any) -> bytes | None:
    return None if identity is None else bytes(identity)


def _workers(cursor: Cursor, network: str) -> list[ExistingWorker]:
    cursor.execute(
        """SELECT uuid_send(w.id), uuid_send(w.processor_id), uuid_send(w.agent_id), w.cores, w.status, w.version,
               w.slot, w.devices, w.running IS NOT NULL
           FROM pyfi.worker w JOIN pyfi.processor p ON p.id = w.processor_id JOIN pyfi.network n ON n.id = p.network_id
           WHERE n.name = %s AND w.status NOT IN ('EXITED', 'LOST') ORDER BY w.created, w.id""",
        (network,),
    )
    return [
        ExistingWorker(
            bytes(row[0]), bytes(row[1]), bytes(row[2]), tuple(row[3]), WorkerStatus(row[4]), row[5], row[6],
            tuple(row[7]), row[8],
        )
        for row in cursor.fetchall()
    ]  # fmt: skip


def _write(cursor: Cursor, actions: Sequence[Action]) -> None:
    _drain(cursor, [action.worker for action in actions if isinstance(action, Drain)])
    for action in actions:
        match action:
            case Start():
                _start(cursor, action)
            case Become():
                _become(cursor, action)


def _drain(cursor: Cursor, workers: Sequence[bytes]) -> None:
    if workers:
        cursor.execute(
            "UPDATE pyfi.worker SET status = CASE status WHEN 'PLANNED' THEN 'EXITED' ELSE 'DRAINING' END"
            "::pyfi.worker_status WHERE id = ANY (%s::uuid[]) AND status IN ('PLANNED', 'LAUNCHING', 'READY')",
            ([worker.hex() for worker in workers],),
        )


def _start(cursor: Cursor, start: Start) -> None:
    cursor.execute(
        f"""INSERT INTO pyfi.worker (processor_id, node_id, agent_id, cores, slot, devices, commit, version)
            SELECT p.id, %s::uuid, %s::uuid, %s, %s, %s::text[], p.commit, {VERSION} FROM pyfi.processor p
            WHERE p.id = %s::uuid""",
        (start.node.hex(), start.agent.hex(), list(start.cores), start.slot, list(start.devices),
         start.processor.hex()),
    )  # fmt: skip


def _become(cursor: Cursor, action: Become) -> None:
    cursor.execute(
        """UPDATE pyfi.processor SET status = %s::pyfi.processor_status, observed_generation = generation,
               reason = CASE WHEN %s IN ('RUNNING', 'STOPPED') THEN NULL ELSE reason END,
               retry_at = CASE WHEN %s = 'RUNNING' THEN NULL ELSE retry_at END
           WHERE id = %s::uuid AND status = %s::pyfi.processor_status RETURNING name""",
        (action.status.value, action.status.value, action.status.value, action.processor.hex(), action.before.value),
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
