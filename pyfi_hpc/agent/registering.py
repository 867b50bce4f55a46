"""An agent's first transaction: its node's row, the end of whoever served its post before, its own row, its devices."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg2.extras import Json

from pyfi_hpc.agent import devices
from pyfi_hpc.agent.lock import Post
from pyfi_hpc.agent.pilot import Pilot
from pyfi_hpc.agent.slots import Slot
from pyfi_hpc.control import reconcile
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.errors import BadInput
from pyfi_hpc.gpu.inventory import Device
from pyfi_hpc.model.status import WorkerStatus

AGENT_LEASE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Application:
    """What an agent says of itself.

    Attributes:
        pilot: its job; None by hand.
        node_cpus, mem_mib: of the whole machine, also where a job was granted a part.
        process: `processes.fingerprint` of it.
        slots: what a job was granted; None by hand.
        ends_at: when Slurm ends the job, by its clock.
        devices: GPUs that this process can open.
        pipe_address, pipe_key: where it listens to other agents of its job, and the public key that they know it by.
    """

    agent: bytes
    post: Post
    pilot: Pilot | None
    cores: Sequence[int]
    node_cpus: int
    mem_mib: int
    shared_cores: bool
    pid: int
    process: str
    version: str
    slots: Sequence[Slot] | None = None
    ends_at: datetime.datetime | None = None
    devices: Sequence[Device] = ()
    pipe_address: str | None = None
    pipe_key: str | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """This incarnation of the agent."""

    id: bytes
    node: bytes
    node_name: str


def register(cursor: Cursor, application: Application) -> Identity | None:
    """Make this agent the one of its post, ending earlier ones; None: it is itself the earlier one.

    The caller holds the post's lock. Raises BadInput (E_NOT_FOUND) where the network is gone.
    """
    pilot = application.pilot
    if pilot is not None and _overtaken(cursor, pilot):
        return None
    node, name = _node(cursor, application)
    earlier = _end_earlier(cursor, pilot, node)
    _insert(cursor, application, node)
    if earlier:
        reconcile.close_workers(cursor, earlier, WorkerStatus.LOST, "a new agent took over")
    devices.store(cursor, node, application.devices, complete=pilot is None)
    return Identity(application.agent, bytes.fromhex(node.replace("-", "")), name)


def _overtaken(cursor: Cursor, pilot: Pilot) -> bool:
    cursor.execute(
        "SELECT restarts > %s OR EXISTS (SELECT FROM pyfi.agent a WHERE a.job_id = j.id AND a.incarnation > %s)"
        " FROM pyfi.job j WHERE j.id = %s::uuid FOR SHARE",
        (pilot.incarnation, pilot.incarnation, pilot.job.hex()),
    )
    return bool(cursor.fetchone()[0])


def _node(cursor: Cursor, application: Application) -> tuple[str, str]:
    """Id and name of the node's row: the one of this cluster and host, one added by hand, or a new one."""
    post, pilot = application.post, application.pilot
    cluster = _adopted(cursor, post, pilot.cluster) if pilot else _cluster_by_hand(cursor, post)
    cursor.execute(
        """INSERT INTO pyfi.node AS n
               (network_id, name, cluster, host, scheduler_id, cpus, mem_mib, shared_cores, status)
           SELECT w.id, CASE WHEN EXISTS (SELECT FROM pyfi.node o WHERE o.network_id = w.id AND o.name = %(short)s)
                   THEN %(long)s ELSE %(short)s END,
               %(cluster)s, %(host)s, %(scheduler)s::uuid, %(cpus)s, %(mem_mib)s, %(shared)s, 'UP'
           FROM pyfi.network w WHERE w.name = %(network)s
           ON CONFLICT (network_id, cluster, host) DO UPDATE SET cpus = excluded.cpus, mem_mib = excluded.mem_mib,
               shared_cores = CASE WHEN %(by_hand)s THEN excluded.shared_cores ELSE n.shared_cores END,
               status = CASE WHEN n.drain_requested THEN 'DRAINING' ELSE 'UP' END::pyfi.node_status,
               scheduler_id = coalesce(n.scheduler_id, excluded.scheduler_id)
           RETURNING id::text, name""",
        {
            "short": _name(post.host),
            "long": _name(f"{cluster or 'node'}-{post.host}"),
            "cluster": cluster,
            "host": post.host,
            "scheduler": pilot.scheduler.hex() if pilot else None,
            "cpus": application.node_cpus,
            "mem_mib": application.mem_mib,
            "shared": application.shared_cores,
            "network": post.network,
            "by_hand": pilot is None,
        },
    )
    if (row := cursor.fetchone()) is None:
        what = f"no network {post.network!r}"
        raise BadInput.of("E_NOT_FOUND", "network", post.network, what, cure="pyfi add network")
    return row[0], row[1]


def _name(host: str) -> str:
    return host if host[:1].isalpha() else f"n{host}"


def _adopted(cursor: Cursor, post: Post, cluster: str) -> str:
    """The cluster; a node of this host that a person has added is the cluster's from now on."""
    cursor.execute(
        """UPDATE pyfi.node n SET cluster = %(cluster)s FROM pyfi.network w
           WHERE w.id = n.network_id AND w.name = %(network)s AND n.host = %(host)s AND n.cluster = ''
             AND NOT EXISTS (SELECT FROM pyfi.node o WHERE o.network_id = w.id AND o.host = %(host)s
                                                       AND o.cluster = %(cluster)s)""",
        {"cluster": cluster, "network": post.network, "host": post.host},
    )
    return cluster


def _cluster_by_hand(cursor: Cursor, post: Post) -> str:
    """The cluster of the one node with this host name; '' where there is none, or nobody can tell which."""
    cursor.execute(
        "SELECT DISTINCT n.cluster FROM pyfi.node n JOIN pyfi.network w ON w.id = n.network_id"
        " WHERE w.name = %s AND n.host = %s",
        (post.network, post.host),
    )
    clusters = [row[0] for row in cursor.fetchall()]
    return clusters[0] if len(clusters) == 1 else ""


def _end_earlier(cursor: Cursor, pilot: Pilot | None, node: str) -> list[str]:
    """By hand: the node's earlier agent. In a job: its earlier incarnations, wherever they are, and this one's here."""
    if pilot is None:
        where, values = "node_id = %s::uuid AND job_id IS NULL", (node,)
    else:
        where = "job_id = %s::uuid AND (incarnation < %s OR node_id = %s::uuid)"
        values = (pilot.job.hex(), pilot.incarnation, node)  # type: ignore[assignment]
    cursor.execute(
        f"UPDATE pyfi.agent SET ended = now(), lost = 'agent_lost' WHERE ended IS NULL AND {where} RETURNING id::text",
        values,
    )
    return [row[0] for row in cursor.fetchall()]


def _insert(cursor: Cursor, application: Application, node: str) -> None:
    pilot, slots = application.pilot, application.slots
    cursor.execute(
        """INSERT INTO pyfi.agent (id, node_id, pid, process, cores, version, lease_until, job_id, incarnation, ends_at,
               slots, pipe_address, pipe_key)
           VALUES (%s::uuid, %s::uuid, %s, %s, %s, %s, now() + %s * interval '1 second', %s::uuid, %s,
               %s, %s, %s, %s)""",
        (
            application.agent.hex(), node, application.pid, application.process, list(application.cores),
            application.version, AGENT_LEASE_SECONDS,
            pilot.job.hex() if pilot else None, pilot.incarnation if pilot else 0,
            application.ends_at, None if slots is None else Json([slot.to_json() for slot in slots]),
            application.pipe_address, application.pipe_key,
        ),
    )  # fmt: skip
