"""Where the demo on a cluster plays: the cluster in a box, and pilots on three of its nodes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pyfi_hpc.box.cluster import Cluster
from pyfi_hpc.box.slurm import Profile
from pyfi_hpc.client.client import Client
from pyfi_hpc.client.session import ACCEPTED_LOG
from pyfi_hpc.config import Settings
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.demo.code import add_processor, variable
from pyfi_hpc.demo.findings import calls_by_node
from pyfi_hpc.errors import Fault
from pyfi_hpc.processes import end

NODES = 3
TASKS = 6


class ClusterStage:
    """Slurm with three nodes, RabbitMQ and Postgres, a scheduler, and one job whose agents serve all nodes.

    As root each node is a host of its own, and is really powered off; as anybody else the nodes share this machine, and
    everything of one is killed.
    """

    def __init__(self, profile: Profile) -> None:
        self.cluster = Cluster(NODES, gpus=0, profile=profile, tell=lambda line: print(f"{line} …", flush=True))
        self.opening = f"Starting a cluster in a box: Slurm with {NODES} nodes, RabbitMQ, Postgres …"
        # its nodes' processes may be in namespaces of their own
        self.host: str | None = None
        self.settings = Settings()

    @property
    def accepted(self) -> Path:
        """In the cluster's own folder."""
        return self.cluster.ini.with_name("accepted")

    @contextmanager
    def open(self) -> Iterator[Client]:
        """A client of the running cluster, whose scheduler runs."""
        with ExitStack() as stack:
            stack.enter_context(self.cluster)
            for name, value in self.cluster.environment.items():
                stack.enter_context(variable(name, value))
            stack.enter_context(variable(ACCEPTED_LOG, str(self.accepted)))
            self.settings = Settings.load()
            stack.enter_context(self._scheduler())
            yield stack.enter_context(Client(self.settings))

    @contextmanager
    def _scheduler(self) -> Iterator[None]:
        self._pyfi("add", "scheduler", "-n", "sched1")
        with self.cluster.ini.with_name("scheduler.log").open("wb") as log:
            process = subprocess.Popen(_command("scheduler", "start", "-n", "sched1"), stdout=log, stderr=log)
            try:
                yield
            finally:
                end(process.pid)
                process.wait()

    def build(self, client: Client) -> Sequence[str]:
        """A processor, and a pilot for it on every node."""
        folder = self.cluster.ini.with_name("analysis")
        made = add_processor(client, folder)
        # as on sbatch, which spreads tasks over nodes only when told so
        each = f"--slurm-arg=--ntasks-per-node={TASKS // NODES}"
        sizes = ["-N", str(NODES), "-n", str(TASKS), each, "-t", "10"]
        submitted = self._pyfi("submit", *sizes, "--processor", "analysis")
        return [made, submitted.rstrip()]

    def harm(self, cursor: Cursor) -> str:
        """Power off a node that runs calls."""
        cursor.execute(
            "SELECT n.host, count(*) FROM pyfi.worker w JOIN pyfi.node n ON n.id = w.node_id"
            " WHERE w.status = 'READY' GROUP BY n.host ORDER BY n.host DESC"
        )
        found = cursor.fetchone()
        if found is None:
            raise Fault("E_INTERNAL", "no node runs a worker")
        self.cluster.slurm.power_off(found[0])
        return f"powered off node {found[0]} with its {found[1]} workers"

    def shares(self, cursor: Cursor) -> str:
        """By node and core."""
        return calls_by_node(cursor)

    def _pyfi(self, *words: str) -> str:
        done = subprocess.run(_command(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise Fault("E_INTERNAL", f"pyfi {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout


def _command(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "pyfi_hpc", *words]
