"""A reconcile pass over 1,000 nodes and 10,000 workers, in parts: what only thinks, and the whole with its database.

Ten workers on each node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.cluster import store
from benchmarks.cluster.report import Round, Surroundings, cost
from benchmarks.cluster.synthetic import World, fleet, world
from pyfi_hpc.box.postgres import ADMIN
from pyfi_hpc.control import pilots, placement
from pyfi_hpc.control.reconcile import reconcile
from pyfi_hpc.db.schema import DEFAULT_NETWORK

SIZES = (100, 300, 1000)
JOBS = (50, 1000)
IDLE, MISSING = "nothing to do", "a tenth is missing"
#: How often each worker has ended before: those rows stay, beside those of the live ones.
LIVES = 10
#: Every tenth worker, or job.
PART = 10
_TIMES = 5


@contextmanager
def open_passes(around: Surroundings) -> Iterator[Callable[[], Round]]:
    """The rows are made once; see `report.Benchmark`."""
    worlds = [world(nodes) for nodes in SIZES]
    whole = worlds[-1]
    with store.database() as server:
        store.fill(server, whole, LIVES)
        with store.session(server.uri()) as connection, store.session(server.uri(ADMIN)) as admin:
            passes = _Passes(connection, admin, whole)
            yield lambda: {
                **{f"placement.plan, {_size(each)}": _plan(each) for each in worlds},
                **{f"pilots.plan, {count:,} jobs": _pilots(count) for count in JOBS},
                f"reconcile, {_size(whole)}, PostgreSQL": passes.both(),
            }


def _size(these: World) -> str:
    return f"{len(these.nodes):,} nodes"


def _plan(whole: World) -> dict[str, float]:
    def measure(what: str, these: World) -> dict[str, float]:
        def once() -> None:
            _expect(what, len(placement.plan(these.processors, these.nodes, these.workers)))

        return cost(what, once, _TIMES)

    return measure(IDLE, whole) | measure(MISSING, whole.less(PART))


def _pilots(count: int) -> dict[str, float]:
    these = fleet(count)

    def measure(what: str, jobs: Sequence[pilots.PilotJob]) -> dict[str, float]:
        def once() -> None:
            _expect(what, len(pilots.plan(these.processors, jobs, these.seen, these.now)))

        return cost(what, once, _TIMES)

    most = [job for number, job in enumerate(these.jobs) if number % PART]
    return measure(IDLE, these.jobs) | measure(MISSING, most)


@dataclass
class _Passes:
    """Whole passes, each with its commit; one that misses workers plans as many as a pass may."""

    connection: Any
    admin: Any
    whole: World

    def both(self) -> dict[str, float]:
        """With every worker there, and without some."""
        gone = self.whole.workers[::PART]
        idle = self._measure(IDLE)
        with self.admin, self.admin.cursor() as cursor:
            store.take_away(cursor, gone)
        missing = self._measure(MISSING)
        with self.admin, self.admin.cursor() as cursor:
            store.put_back(cursor, self.whole.nodes, gone)
        return idle | missing

    def _measure(self, what: str) -> dict[str, float]:
        def once() -> None:
            with self.connection, self.connection.cursor() as cursor:
                _expect(what, reconcile(cursor, DEFAULT_NETWORK))

        return cost(what, once, _TIMES, [self.connection.info.backend_pid])


def _expect(what: str, actions: int) -> None:
    """A pass that does something else than was meant would be another figure."""
    if (actions > 0) is not (what == MISSING):
        raise RuntimeError(f"{what}, and a pass does {actions} things")
