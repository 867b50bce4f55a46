"""A reconcile pass over 1,000 nodes and 10,000 workers, in parts: what only thinks, and the whole with its database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.cluster import store
from benchmarks.cluster.report import Round, Surroundings, milliseconds
from benchmarks.cluster.synthetic import World, fleet, world
from pyfi_hpc.box.postgres import ADMIN
from pyfi_hpc.control import pilots, placement
from pyfi_hpc.control.reconcile import reconcile
from pyfi_hpc.db.schema import DEFAULT_NETWORK

SIZES = (100, 300, 1000)
JOBS = (50, 1000)
IDLE, MISSING = "nothing to do, ms", "a tenth is missing, ms"
#: Every tenth worker, or job.
PART = 10
_TIMES = 5


@contextmanager
def open_passes(around: Surroundings) -> Iterator[Callable[[], Round]]:
    """The rows are made once; see `report.Benchmark`."""
    worlds = [world(nodes) for nodes in SIZES]
    whole = worlds[-1]
    with store.database() as server:
        store.fill(server, whole)
        with store.session(server.uri()) as connection, store.session(server.uri(ADMIN)) as admin:
            yield lambda: {
                **{f"placement.plan, {_size(each)}": _plan(each) for each in worlds},
                **{f"pilots.plan, {count:,} jobs": _pilots(count) for count in JOBS},
                f"reconcile, {_size(whole)}": _reconcile(connection, admin, whole),
            }


def _size(these: World) -> str:
    return f"{len(these.nodes):,} nodes, {len(these.workers):,} workers"


def _plan(whole: World) -> dict[str, float]:
    def time(these: World) -> float:
        return milliseconds(lambda: placement.plan(these.processors, these.nodes, these.workers), _TIMES)

    return {IDLE: time(whole), MISSING: time(whole.less(PART))}


def _pilots(count: int) -> dict[str, float]:
    these = fleet(count)

    def time(those: Sequence[pilots.PilotJob]) -> float:
        return milliseconds(lambda: pilots.plan(these.processors, those, these.seen, these.now), _TIMES)

    return {IDLE: time(these.jobs), MISSING: time([job for number, job in enumerate(these.jobs) if number % PART])}


def _reconcile(connection: Any, admin: Any, whole: World) -> dict[str, float]:
    """With commit; each pass that misses workers plans as many as a pass may."""

    def once() -> None:
        with connection, connection.cursor() as cursor:
            reconcile(cursor, DEFAULT_NETWORK)

    gone = whole.workers[::PART]
    idle = milliseconds(once, _TIMES)
    with admin, admin.cursor() as cursor:
        store.take_away(cursor, gone)
    missing = milliseconds(once, _TIMES)
    with admin, admin.cursor() as cursor:
        store.put_back(cursor, whole.nodes, gone)
    return {IDLE: idle, MISSING: missing}
