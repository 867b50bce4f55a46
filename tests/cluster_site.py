"""A whole installation on a Slurm in a box, for a test: pilots, a scheduler's process, a client, and the checker."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2

from pyfi_hpc.agent import kernel
from pyfi_hpc.box.cluster import Cluster, Service, ini_text
from pyfi_hpc.box.network import Way
from pyfi_hpc.box.postgres import ADMIN, ROLE
from pyfi_hpc.control import submitting
from pyfi_hpc.db import jobs, schema
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.model.status import SPENDS_BUDGET
from pyfi_hpc.processes import end
from tests import hasty_scheduler
from tests.site import TASKS, AgentProcess, Site
from tests.support import eventually
from tests.support_git import make_repository

PYFI = Path(sys.executable).with_name("pyfi")


@dataclass(kw_only=True)
class ClusterSite(Site):
    """What tests work with: a database and a state directory of its own on a cluster that others may share.

    Its processor is `p`; every pilot that is sent is for it. Several tests may use one: each begins with `begin`, and
    ends with `settle`.
    """

    cluster: Cluster
    schedulers: list[AgentProcess] = field(default_factory=list)

    @property
    def ini(self) -> Path:
        """The settings of whoever submits."""
        return self.home / "pyfi.ini"

    def furnish(self) -> None:
        """Write the settings."""
        given = self.cluster.settings() | {
            "database.uri": self.database_uri,
            "broker.uri": self.broker_uri,
            "paths.state": str(self.home / "state"),
            "paths.blobs": str(self.home / "blobs"),
            # environments are built once for all tests of a cluster
            "paths.cache": str(self._shared / "cache"),
        }
        self.ini.write_text(ini_text(given))
        self.ini.chmod(0o600)

    @property
    def _shared(self) -> Path:
        assert self.cluster.home is not None
        return self.cluster.home

    @property
    def environment(self) -> dict[str, str]:
        others = {name: value for name, value in os.environ.items() if not name.startswith("PYFI_")}
        return {**others, **self.cluster.environment, "PYFI_INI": str(self.ini), **self.variables}

    @property
    def repository(self) -> str:
        """Of all tests of the cluster."""
        path = self._shared / "repository"
        return f"file://{path}" if path.exists() else make_repository(path, {"tasks.py": TASKS})[0]

    # what people type

    def pyfi(self, *arguments: str, code: int = 0, **variables: str) -> str:
        """What `pyfi …` prints; its exit status is `code`."""
        done = subprocess.run(
            [PYFI, *arguments], env=self.environment | variables, cwd=self.home, capture_output=True, text=True,
            timeout=120,
        )  # fmt: skip
        assert done.returncode == code, f"pyfi {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def scheduler(self, failpoint: str = "", **patience: float) -> AgentProcess:
        """`pyfi scheduler start`, or with `patience` (of `control.pilots`) one that waits less long for lost jobs."""
        hasty = [sys.executable, hasty_scheduler.__file__, *(f"{name}={value}" for name, value in patience.items())]
        log = self.home / f"scheduler-{len(self.schedulers)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                hasty if patience else [str(PYFI), "scheduler", "start"],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=self.home,
                env={**self.environment, "PYFI_FAILPOINT": failpoint},
                # a test run that is killed leaves none behind
                preexec_fn=partial(kernel.tie_to, os.getpid()),
            )  # fmt: skip
        self.schedulers.append(AgentProcess(process, log, "here"))
        return self.schedulers[-1]

    def leads(self, scheduler: AgentProcess, timeout: float = 30.0) -> AgentProcess:
        """The same, once it leads."""
        pid = scheduler.pid
        eventually(
            lambda: self.rows("SELECT FROM pyfi.scheduler WHERE holder LIKE %s AND lease_until > now()", f"%:{pid}:%"),
            timeout=timeout,
        )
        return scheduler

    def send(self, *options: str) -> Pilot:
        """`pyfi submit` for the processor."""
        return Pilot(self, self.pyfi("submit", "--parsable", "--processor", "p", *options).strip())

    def wanted(self, tasks: int = 2) -> str:
        """Put a pilot on record, as `pyfi submit` does before Slurm is asked; its token."""
        token, request = uuid.uuid4().hex, ResourceRequest(ntasks=tasks)

        def record(cursor: Any) -> None:
            scheduler = jobs.scheduler_id(cursor, "default", jobs.find_or_make_scheduler(cursor, "default", None))
            processor = jobs.ask_processor(cursor, "default", "p", request)
            jobs.want(cursor, scheduler, token=token, processor=processor, request=request, workers=tasks)

        self.client.session.link.run(record)
        self.client.session.broker.hint("default", submitting.HINT)
        return token

    def cancel(self, pilot: Pilot) -> None:
        """As a person does it with `pyfi cancel`."""
        self.client.network.cancel_job(pilot.id)

    def work(self, count: int = 60, seconds: float = 0.05) -> list[Any]:
        """Futures of so many calls, each of which takes so long; its value is twice its number."""
        return self.submit("p.work", [(number, str(self.runs), seconds) for number in range(count)])

    def under_way(self, futures: Sequence[Any], count: int = 6) -> None:
        """Wait until at least so many of these calls have begun."""
        eventually(lambda: self.runs_of(futures) >= count, timeout=30)

    def all_right(self, futures: Sequence[Any], *, again: int = 0, timeout: float = 60.0) -> None:
        """Each call has its one value; no more than `again` of them were run once more, and none spent its budget."""
        assert [future.result(timeout=timeout) for future in futures] == [2 * number for number in range(len(futures))]
        self.quiet()
        runs = self.runs_of(futures)
        assert len(futures) <= runs <= len(futures) + again, f"{runs} runs of {len(futures)} calls"
        assert not {cause for future in futures for cause in self.causes(future)} & {
            str(each) for each in SPENDS_BUDGET
        }

    def runs_of(self, futures: Sequence[Any]) -> int:
        """How often these calls were run, all together."""
        executions = self.executions()
        return sum(executions.get(future.id, 0) for future in futures)

    def change(self, statement: str, *values: object) -> None:
        """Change rows."""
        with closing(psycopg2.connect(self.database_uri)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)

    @contextmanager
    def blocked(self, node: str, service: Service, way: Way = "both") -> Iterator[None]:
        """Meanwhile nothing comes through between the node and the service, or only one way."""
        self.cluster.block(node, service, way)
        try:
            yield
        finally:
            self.cluster.unblock(node, service, way)

    # looking

    def pilots(self) -> list[Pilot]:
        """Every job on record that Slurm has, oldest first."""
        rows = self.rows("SELECT slurm_id FROM pyfi.job WHERE slurm_id IS NOT NULL ORDER BY created")
        return [Pilot(self, slurm_id) for (slurm_id,) in rows]

    def submissions(self) -> list[str]:
        """The token of every job of this site that Slurm knows, of ended ones too: one for each submission."""
        shown = self.cluster.slurm.ask("squeue", "--noheader", "--states=all", "--Format=Comment:200")
        known = {token for (token,) in self.rows("SELECT token FROM pyfi.job")}
        said = [line.strip().removeprefix("pyfi:").partition(" ")[0] for line in shown.splitlines()]
        return sorted(token for token in said if token in known)

    def serving(self) -> list[tuple[str, str, int]]:
        """(Slurm's job, host, incarnation) of every live agent."""
        return self.rows(
            "SELECT j.slurm_id, n.host, a.incarnation FROM pyfi.agent a JOIN pyfi.node n ON n.id = a.node_id"
            " JOIN pyfi.job j ON j.id = a.job_id WHERE a.ended IS NULL ORDER BY 1, 2"
        )

    def ready(self, workers: int = 1, timeout: float = 60.0) -> list[int]:
        """Wait for at least so many workers; their pids, as their hosts count."""

        def pids() -> list[int]:
            return [pid for (pid,) in self.rows("SELECT pid FROM pyfi.worker WHERE status = 'READY' ORDER BY created")]

        eventually(lambda: len(pids()) >= workers, timeout=timeout)
        return pids()

    def processes(self, *words: str) -> list[int]:
        """The processes, on whichever host of the box, that work for this site and have `words` in their arguments."""
        return [pid for pid, line in self._processes() if all(word in line for word in words)]

    def _processes(self) -> Iterator[tuple[int, str]]:
        tokens = [token for (token,) in self.rows("SELECT token FROM pyfi.job")]
        marks = [str(self.home), *tokens]
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                line = _read(entry / "cmdline").replace("\0", " ")
                if line and any(mark in line or mark in _read(entry / "environ") for mark in marks):
                    yield int(entry.name), line

    # checking

    def begin(self, **patience: Any) -> None:
        """Somebody leads."""
        if not any(scheduler.process.poll() is None for scheduler in self.schedulers):
            self.leads(self.scheduler(**patience))

    def settle(self) -> None:
        """Every pilot has ended, each was submitted once, every call has its one outcome, and nothing is left over."""
        try:
            self.begin()
            self._end_pilots()
            self.one_submission_each()
            eventually(lambda: self.left_behind() == [], timeout=30, interval=0.1)
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *self.left_behind(), *self.tails()])) from None

    def _end_pilots(self) -> None:
        # or the scheduler sends another for each that ended
        self.client.network.stop("p")
        eventually(lambda: not self.rows("SELECT FROM pyfi.job WHERE status <> 'ENDED'"), timeout=90, interval=0.2)

    def one_submission_each(self) -> None:
        """Slurm has no job twice, as far as it knows them still."""
        submissions = self.submissions()
        assert submissions == sorted(set(submissions)), f"submitted more than once: {submissions}"

    def left_behind(self) -> list[str]:
        """What there is still of pilots that have ended, and of agents in them."""
        serving = [pid for scheduler in self.schedulers if (pid := scheduler.pid) and scheduler.process.poll() is None]
        found = [f"job {job}" for job in self.queued()]
        found += [f"agent {host}" for _, host, _ in self.serving()]
        found += [
            f"worker {pid}"
            for (pid,) in self.rows("SELECT pid FROM pyfi.worker WHERE status NOT IN ('EXITED', 'LOST')")
        ]
        found += [f"process {pid} {line[:200]}" for pid, line in self._processes() if pid not in serving]
        found += [f"file {path}" for path in (self.home / "state").rglob("*") if not path.is_dir() and _stray(path)]
        rows = self.rows("SELECT client_addr FROM pg_stat_activity WHERE datname = current_database()"
                         " AND application_name = 'pyfi-agent'")  # fmt: skip
        return found + [f"session of {address}" for (address,) in rows]

    def queued(self) -> list[str]:
        """The jobs of this site that Slurm has not ended."""
        mine = {pilot.id for pilot in self.pilots()}
        return [job for job in self.cluster.slurm.ask("squeue", "--noheader", "--format=%A").split() if job in mine]

    def tails(self) -> list[str]:
        logs = [*self.home.glob("scheduler-*.log"), *self.home.glob("state/jobs/*.out")]
        return [f"{log.name}: {line}" for log in logs for line in log.read_text(errors="replace").splitlines()[-40:]]

    def close(self) -> None:
        """End all of it, however it stands."""
        try:
            for scheduler in self.schedulers:
                scheduler.stop()
        finally:
            if "client" in self.__dict__:
                self.client.close()
            if jobs := self.queued():
                self.cluster.slurm.run("scancel", *jobs, check=False)
                eventually(lambda: self.queued() == [], timeout=30)
            for pid, _ in self._processes():
                end(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Pilot:
    """A job that Slurm has, by Slurm's id."""

    site: ClusterSite
    id: str

    def row(self, column: str) -> Any:
        """One column of its row; of the newest, where Slurm gave the number twice."""
        ((value,),) = self.site.rows(
            f"SELECT {column} FROM pyfi.job WHERE slurm_id = %s ORDER BY created DESC LIMIT 1", self.id
        )
        return value

    @property
    def state(self) -> str:
        """Slurm's own word for it."""
        return self.site.cluster.slurm.ask("squeue", "--noheader", "--states=all", "--jobs", self.id, "--format=%T")

    def serving(self) -> list[tuple[str, int]]:
        """(host, incarnation) of each live agent of it."""
        return [(host, incarnation) for job, host, incarnation in self.site.serving() if job == self.id]

    def serves(self, *hosts: str, incarnation: int = 0, timeout: float = 60.0) -> None:
        """Wait until exactly these nodes have an agent of it, of that incarnation."""
        wanted = [(host, incarnation) for host in hosts]
        eventually(lambda: self.serving() == wanted, timeout=timeout)

    def nodes(self) -> list[str]:
        """The nodes that it runs on."""
        shown = self.site.cluster.slurm.ask("squeue", "--noheader", "--jobs", self.id, "--format=%N")
        return self.site.cluster.slurm.ask("scontrol", "show", "hostnames", shown).split() if shown else []

    def nodes_and_others(self) -> list[str]:
        """All nodes of the cluster, those that it runs on first."""
        mine = self.nodes()
        return mine + [node for node in self.site.cluster.slurm.nodes if node not in mine]

    def step(self, code: int = 0) -> str:
        """What another step of it prints that starts the agent once more; its exit status is `code`."""
        agent = [sys.executable, "-P", "-m", "pyfi_hpc.agent.main", "--job", self.row("token")]
        ini = self.site.home / "state" / "jobs" / f"{self.row('token')}.ini"
        done = self.site.cluster.slurm.run(
            "srun", "--overlap", f"--jobid={self.id}", "-N1", "-n1", *agent, check=False, env={"PYFI_INI": str(ini)}
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def becomes(self, status: str, timeout: float = 60.0) -> None:
        """Wait until its row has that status."""
        eventually(lambda: self.row("status") == status, timeout=timeout)

    def agents(self) -> list[int]:
        """The processes of its agents, their parents not among them, on whichever host of the box."""
        return self.site.processes("pyfi_hpc.agent.main", self.row("token"), "--parent")


@contextmanager
def site_on(cluster: Cluster, *tasks: str, broker_uri: str | None = None, **shape: Any) -> Iterator[ClusterSite]:
    """A site with a database of its own on `cluster`, and RabbitMQ unless `broker_uri` is empty.

    Processor `p` has `tasks` and `shape`.
    """
    # short, for unix sockets
    home = Path(tempfile.mkdtemp(prefix="pyfi-site-", dir="/tmp"))
    name = f"test_{uuid.uuid4().hex[:10]}"
    with closing(psycopg2.connect(cluster.postgres.uri(ADMIN, "postgres"))) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name}")
    schema.init(cluster.postgres.uri(ADMIN, name), grant_to=ROLE)
    uri = cluster.rabbitmq.uri if broker_uri is None else broker_uri
    site = ClusterSite(home, cluster.postgres.uri(ROLE, name), uri, cluster=cluster)
    site.furnish()
    try:
        site.processor(*tasks, **shape)
        yield site
    finally:
        site.close()
        shutil.rmtree(home, ignore_errors=True)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _stray(path: Path) -> bool:
    """Whether a file of the state directory should have gone with its job: outputs stay."""
    return path.parent.name != "jobs" or path.suffix == ".ini"
