"""How often slurmctld is asked, with 1, 10 and 50 pilots: by the launcher's own count and by slurmctld's (`sdiag`)."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial

from psycopg2.extras import Json

from benchmarks.cluster import store
from benchmarks.cluster.report import Round, Surroundings
from pyfi_hpc.box.slurm import SlurmCluster
from pyfi_hpc.brokers.connect import connect
from pyfi_hpc.client.link import Link
from pyfi_hpc.control.pilots import Patience
from pyfi_hpc.control.scheduler import Scheduler
from pyfi_hpc.db.jobs import Wanted
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.db.schema import DEFAULT_NETWORK
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.processes import until
from pyfi_hpc.slurm.command_line import SlurmCommands
from pyfi_hpc.slurm.launcher import TOKEN_MARK, Submission

PILOTS = (1, 10, 50)
#: Setting `slurm.poll_seconds` where nobody sets it.
POLL_SECONDS = 10.0
#: So often at least Slurm is looked at while it is watched.
_LOOKS = 6
#: A pilot that needs little: what it asks Slurm once, at its start, is not what is measured.
_SCRIPT = "#!/bin/sh\nexec sleep 3600\n"
#: A line of `sdiag`, of a type of message. Source: sdiag(1), "Remote Procedure Call statistics by message type".
_TYPE = re.compile(r"^\s*(?P<type>[A-Z]\w+)\s*\(\s*\d+\)\s*count:(?P<count>\d+)", re.MULTILINE)
#: What nodes and `sdiag` itself say to slurmctld.
_OTHERS = ("MESSAGE_", "REQUEST_STATS_INFO", "REQUEST_COMPLETE", "REQUEST_STEP_COMPLETE")


@dataclass
class _Site:
    """A scheduler of its own on a Slurm of its own."""

    cluster: SlurmCluster
    launcher: SlurmCommands
    database: Link
    make: Callable[[], Scheduler]
    seconds: float
    poll: float

    def round(self) -> Round:
        """Each number of pilots, one after another."""
        return {f"{count} pilot{'s' * (count > 1)}": self._with(count) for count in PILOTS}

    def _with(self, count: int) -> dict[str, float]:
        _want(self.database, count)
        with _running(self.make()):
            self._reach(lambda: self._jobs("RUNNING") == count, f"{count} jobs do not run")
            figures = self._watch()
            _want(self.database, 0)
            self._reach(lambda: self._jobs() == 0, "jobs do not end")
        return figures

    def _watch(self) -> dict[str, float]:
        """What is asked while nothing happens, as if for a minute at the usual pace of looks."""
        commands, asked = sum(self.launcher.queries.values()), _asked(self.cluster)
        threading.Event().wait(self.seconds)
        commands, asked = sum(self.launcher.queries.values()) - commands, _asked(self.cluster) - asked
        a_minute = 60 / self.seconds * self.poll / POLL_SECONDS
        return {
            "commands a minute": commands * a_minute,
            "RPCs a minute (sdiag)": asked.total() * a_minute,
            **{f"of them {kind.removeprefix('REQUEST_')}": number * a_minute for kind, number in asked.items()},
        }

    def _jobs(self, status: str | None = None) -> int:
        def count(cursor: Cursor) -> int:
            cursor.execute(
                "SELECT count(*) FROM pyfi.job WHERE status <> 'ENDED' AND coalesce(status::text = %s, true)", (status,)
            )
            number: int = cursor.fetchone()[0]
            return number

        return self.database.run(count)

    def _reach(self, true: Callable[[], bool], what: str) -> None:
        if not until(true, 60.0, interval=0.1):
            raise RuntimeError(f"{what}: {self.cluster.ask('squeue')}")


@contextmanager
def open_queries(around: Surroundings) -> Iterator[Callable[[], Round]]:
    """See `report.Benchmark`."""
    poll = min(POLL_SECONDS, around.seconds / _LOOKS)
    with SlurmCluster(nodes=2, cpus=32, gpus=0) as cluster, store.database() as server:
        launcher = SlurmCommands(environment=cluster.environment)
        database = Link(server.uri(), "bench", patience=10.0)
        database.run(_furnish)
        with closing(database), closing(connect(None, database_uri=server.uri())) as broker:
            make = partial(
                Scheduler, database, broker, launcher, _prepare, lambda _: 1, network=DEFAULT_NETWORK, name="bench",
                folder=around.folder, patience=Patience(poll=poll),
            )  # fmt: skip
            yield _Site(cluster, launcher, database, make, around.seconds, poll).round


def _furnish(cursor: Cursor) -> None:
    cursor.execute(
        "INSERT INTO pyfi.scheduler (network_id, name) SELECT id, 'bench' FROM pyfi.network WHERE name = %s",
        (DEFAULT_NETWORK,),
    )
    cursor.execute(
        """INSERT INTO pyfi.processor (network_id, name, repository, commit, module, shape, requested_status)
           SELECT id, 'p', 'file:///none', %s, 'tasks', %s, 'STOPPED' FROM pyfi.network WHERE name = %s""",
        (store.COMMIT, Json(ResourceRequest(ntasks=1).to_json()), DEFAULT_NETWORK),
    )


def _want(database: Link, pilots: int) -> None:
    """So many pilots of one worker each are wanted."""
    database.run(
        lambda cursor: cursor.execute(
            """UPDATE pyfi.processor SET workers = nullif(%s, 0), wanted_since = now(),
                   requested_status = CASE %s WHEN 0 THEN 'STOPPED' ELSE 'RUNNING' END::pyfi.requested_status""",
            (pilots, pilots),
        )
    )


def _prepare(wanted: Wanted) -> tuple[Submission, str | None]:
    arguments = (f"--comment={TOKEN_MARK}{wanted.token}", "--ntasks=1", "--mem=10", "--output=/dev/null")
    return Submission(wanted.token, _SCRIPT, arguments), None


@contextmanager
def _running(scheduler: Scheduler) -> Iterator[None]:
    """Its loop runs, in a thread."""
    thread = threading.Thread(target=scheduler.run)
    thread.start()
    try:
        yield
    finally:
        scheduler.stop()
        thread.join()


def _asked(cluster: SlurmCluster) -> Counter[str]:
    """Type of message → how many of them slurmctld has had from clients."""
    told = _TYPE.findall(cluster.ask("sdiag"))
    return Counter({kind: int(count) for kind, count in told if not kind.startswith(_OTHERS)})
