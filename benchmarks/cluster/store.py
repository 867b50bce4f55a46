"""A synthetic cluster as rows of a real database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2.extras import Json, execute_values

from benchmarks.cluster.synthetic import World
from pyfi_hpc.box.postgres import ADMIN, ROLE, Postgres
from pyfi_hpc.control.reconcile import VERSION
from pyfi_hpc.control.records import ExistingWorker, ServingNode
from pyfi_hpc.db import schema
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.model.request import ResourceRequest

COMMIT = "0" * 40


@contextmanager
def database() -> Iterator[Postgres]:
    """A server with our schema."""
    with Postgres() as server:
        schema.init(server.uri(ADMIN), grant_to=ROLE)
        yield server


@contextmanager
def session(uri: str) -> Iterator[Any]:
    """A connection; what is under way at the end is undone."""
    connection = psycopg2.connect(uri)
    try:
        yield connection
    finally:
        connection.close()


def fill(server: Postgres, world: World, lives: int) -> None:
    """Put the world on record, as a server has it after a while: each worker has ended so many times before."""
    with session(server.uri()) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT id::text FROM pyfi.network WHERE name = %s", (schema.DEFAULT_NETWORK,))
        network = cursor.fetchone()[0]
        _processors(cursor, network, world)
        _jobs(cursor, network, world)
        _nodes(cursor, network, world)
        insert_workers(cursor, world.nodes, world.workers)
    with session(server.uri(ADMIN)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        # what they name is there: no need to look for it each time
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(
            """INSERT INTO pyfi.worker (processor_id, node_id, agent_id, cores, commit, version, status, ended)
               SELECT processor_id, node_id, agent_id, cores, commit, version, 'EXITED', now()
               FROM pyfi.worker, generate_series(1, %s)""",
            (lives,),
        )
        cursor.execute("VACUUM ANALYZE")


def _processors(cursor: Cursor, network: str, world: World) -> None:
    shape = Json(ResourceRequest(nodes=10, ntasks=100).to_json())
    _insert(
        cursor,
        "processor (network_id, id, name, repository, commit, module, workers, gpus, status, shape)",
        [
            (network, p.id.hex(), p.name, "file:///none", COMMIT, "tasks", p.workers, p.gpus, "RUNNING",
             shape if p.shape else None)
            for p in world.processors
        ],
    )  # fmt: skip


def _jobs(cursor: Cursor, network: str, world: World) -> None:
    cursor.execute("INSERT INTO pyfi.scheduler (network_id, name) VALUES (%s, 'bench') RETURNING id::text", (network,))
    scheduler = cursor.fetchone()[0]
    jobs = {node.job: node for node in world.nodes if node.job}
    _insert(
        cursor,
        "job (network_id, scheduler_id, id, processor_id, token, request, workers, status, slurm_id)",
        [
            (network, scheduler, job.hex(), (node.for_processor or b"").hex(), job.hex(), Json({"nodes": 10}),
             10 * len(node.slots), "RUNNING", str(number))
            for number, (job, node) in enumerate(jobs.items(), 1)
        ],
    )  # fmt: skip


def _nodes(cursor: Cursor, network: str, world: World) -> None:
    _insert(
        cursor,
        "node (network_id, id, name, host, cpus, status)",
        [(network, node.id.hex(), node.name, node.host, len(node.cores), "UP") for node in world.nodes],
    )
    _insert(
        cursor,
        "agent (id, node_id, pid, cores, version, lease_until, job_id, slots)",
        [
            (node.agent.hex(), node.id.hex(), 1, list(node.cores), "bench", "infinity", node.job and node.job.hex(),
             Json([{"cores": slot.cores, "devices": slot.devices} for slot in node.slots]) if node.job else None)
            for node in world.nodes
        ],
    )  # fmt: skip
    _insert(
        cursor,
        "device (node_id, uuid, model, mem_mib)",
        [(node.id.hex(), device, "H100", 80_000) for node in world.nodes for device in node.devices],
    )


def insert_workers(cursor: Cursor, nodes: Sequence[ServingNode], workers: Sequence[ExistingWorker]) -> None:
    """These workers are there, each of its processor's version."""
    node_of = {node.agent: node.id.hex() for node in nodes}
    cursor.execute(f"SELECT uuid_send(p.id), {VERSION} FROM pyfi.processor p")
    version_of = {bytes(processor): version for processor, version in cursor.fetchall()}
    _insert(
        cursor,
        "worker (id, processor_id, node_id, agent_id, cores, slot, devices, commit, version, status)",
        [
            (w.id.hex(), w.processor.hex(), node_of[w.agent], w.agent.hex(), list(w.cores), w.slot, list(w.devices),
             COMMIT, version_of[w.processor], "READY")
            for w in workers
        ],
        "(%s::uuid, %s::uuid, %s::uuid, %s::uuid, %s, %s, %s::text[], %s, %s, %s)",
    )  # fmt: skip


def take_away(cursor: Cursor, workers: Sequence[ExistingWorker]) -> None:
    """These workers are gone without a trace."""
    cursor.execute("DELETE FROM pyfi.worker WHERE id = ANY (%s::uuid[])", ([worker.id.hex() for worker in workers],))


def put_back(cursor: Cursor, nodes: Sequence[ServingNode], workers: Sequence[ExistingWorker]) -> None:
    """These are there again, and none that was planned in their place."""
    cursor.execute("DELETE FROM pyfi.worker WHERE status = 'PLANNED'")
    insert_workers(cursor, nodes, workers)


def _insert(cursor: Cursor, into: str, rows: Sequence[tuple[Any, ...]], template: str | None = None) -> None:
    execute_values(cursor, f"INSERT INTO pyfi.{into} VALUES %s", rows, template, page_size=1000)
