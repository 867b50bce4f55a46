"""What doctor says of processors: those that failed, and those that are wanted but have nobody to run their calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pyfi_hpc.control.reconcile import VERSION
from pyfi_hpc.doctor.findings import Finding, Mark

#: One that was asked for, or whose last job has ended, so recently is on its way.
SETTLE_SECONDS = 15.0

#: A row for each processor of network `:network`, as `Seen` has them. A worker counts while its agent has its lease.
QUERY = f"""
    WITH serving AS (
        SELECT a.id, a.node_id, n.name, n.host, NOT n.drain_requested AND NOT a.stop_requested AS accepts, a.job_id
        FROM pyfi.agent a JOIN pyfi.node n ON n.id = a.node_id JOIN pyfi.network w ON w.id = n.network_id
        WHERE w.name = :network AND a.ended IS NULL AND a.lease_until > now())
    SELECT p.name, p.requested_status::text, p.status::text, p.reason, p.host, p.cpus, p.gpus, p.workers,
        p.shape IS NOT NULL,
        greatest(p.wanted_since, (SELECT max(j.ended) FROM pyfi.job j WHERE j.processor_id = p.id))
            > now() - :settle * interval '1 second' OR coalesce(p.retry_at > now(), false),
        (SELECT count(*) FROM pyfi.worker o JOIN serving s ON s.id = o.agent_id
            WHERE o.processor_id = p.id AND o.status NOT IN ('EXITED', 'LOST')),
        (SELECT count(*) FROM pyfi.job j WHERE j.processor_id = p.id AND j.status <> 'ENDED'),
        (SELECT count(*) FROM serving s WHERE s.job_id IS NULL AND (p.host IS NULL OR p.host IN (s.name, s.host))),
        (SELECT count(*) FROM serving s
            WHERE s.job_id IS NULL AND s.accepts AND (p.host IS NULL OR p.host IN (s.name, s.host))),
        (SELECT count(*) FROM pyfi.worker o JOIN serving s ON s.id = o.agent_id
            WHERE o.processor_id = p.id AND o.status = 'READY' AND o.version <> {VERSION})
    FROM pyfi.processor p JOIN pyfi.network w ON w.id = p.network_id
    WHERE w.name = :network AND p.status <> 'REMOVED' ORDER BY p.name"""


@dataclass(frozen=True, slots=True)
class Seen:
    """A processor and what there is to run it.

    Attributes:
        host: the only node that it may be on; None: any.
        pilots: jobs are sent for it.
        settling: something is on its way, or held back for a moment.
        live: its workers, those on their way included.
        jobs: its jobs that have not ended, waiting ones included.
        agents: how many that were started by hand serve where it may be.
        accepting: of them, those that take new workers.
        older: of the live ones, those that are ready in another version than the one that is wanted.
    """

    name: str
    requested: str
    status: str
    reason: dict[str, Any] | None = None
    host: str | None = None
    cpus: int = 1
    gpus: int = 0
    workers: int | None = None
    pilots: bool = False
    settling: bool = False
    live: int = 0
    jobs: int = 0
    agents: int = 0
    accepting: int = 0
    older: int = 0


def judged(processors: Sequence[Seen], start: str) -> Iterator[Finding]:
    """What is wrong with some of them, and how many are as they should be; `start` is how an agent comes to serve."""
    wrong = [finding for each in processors if (finding := _wrong(each, start)) is not None]
    yield from wrong
    fine = len(processors) - len(wrong)
    if fine or not processors:
        yield Finding(Mark.GOOD, "processors", f"{fine} of {len(processors)} are as they should be")


def _wrong(seen: Seen, start: str) -> Finding | None:
    if seen.status == "FAILED":
        reason = seen.reason or {}
        why, cure = reason.get("what") or "no reason is on record", reason.get("try")
        goes_on = f" ({seen.older} of its workers go on in an older version)" if seen.older else ""
        what = f"{seen.name} FAILED{goes_on}: {why}"
        return Finding(Mark.BAD, "processor", what, cure or f"pyfi show processor {seen.name}")
    if seen.requested != "RUNNING" or seen.live or seen.jobs or seen.settling:
        return None
    why, cure = _without_pilots(seen) if seen.pilots else _unplaced(seen, start)
    return Finding(Mark.DOUBTFUL, "processor", f"{seen.name} is wanted RUNNING but has no worker: {why}", cure)


def _without_pilots(seen: Seen) -> tuple[str, str]:
    """Its last job has ended, or none was ever sent."""
    if what := (seen.reason or {}).get("what"):
        return str(what), f"pyfi ls jobs, then: pyfi proc start {seen.name}"
    if seen.workers is None:
        return "its last pilot has ended", f"another: pyfi proc start {seen.name}"
    return "no pilot is on record, its scheduler has not sent one", "pyfi ls schedulers"


def _unplaced(seen: Seen, start: str) -> tuple[str, str]:
    place = f"node {seen.host}" if seen.host else "this network"
    if not seen.agents:
        return f"no agent serves {place}", f"on {seen.host}: {start}" if seen.host else start
    if not seen.accepting:
        return f"the agents that serve {place} are asked to drain", "pyfi ls nodes, then: pyfi node resume NODE"
    needs = f"{seen.cpus} core{'s' if seen.cpus != 1 else ''}"
    needs += f" and {seen.gpus} GPU{'s' if seen.gpus != 1 else ''}" if seen.gpus else ""
    cure = f"pyfi ps shows who has them; fewer for another: pyfi update processor NAME --workers N; or {start}"
    return f"no agent of {place} has {needs} free", cure
