"""A whole installation for a test: database, broker, repository, real agents, a client, and the checker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pyfi_hpc import verify
from pyfi_hpc.brokers.connect import connect
from pyfi_hpc.client.client import Client
from pyfi_hpc.config import Settings
from pyfi_hpc.processes import alive, arguments, end
from tests.support import eventually
from tests.support_git import make_repository

#: Every task notes each of its runs in a file, so that a test can count executions.
TASKS = '''
import ctypes
import os
import signal
import time

from pyfi_hpc import current


def note(log):
    me = current()
    with open(log, "a") as file:
        file.write(f"{me.id} {me.serial}\\n")


def work(x, log, seconds=0.0):
    """Twice x, after a while."""
    note(log)
    time.sleep(seconds)
    return x * 2


def double(x):
    return x * 2


def prints(x):
    print("out", x)
    os.write(2, b"err\\n")
    return x


def follow(x):
    return x + 1


def raises(x, log):
    note(log)
    raise ValueError(f"never {x}")


def killed(x, log):
    note(log)
    os.kill(os.getpid(), signal.SIGKILL)


def segfaults(x, log):
    note(log)
    ctypes.string_at(0)


def aborts(x, log):
    note(log)
    os.abort()


def leaves(x, log):
    note(log)
    os._exit(3)


def never_ends(x, log):
    note(log)
    while True:
        time.sleep(0.05)


def huge(x, log):
    note(log)
    return bytes(2_000_000)


def larger(x):
    return bytes(4_000_000)


def hungry(x, log, mib):
    note(log)
    held = []
    for _ in range(mib):
        held.append(bytearray(os.urandom(1 << 20)))
        time.sleep(0.002)
    return len(held)


def sees(name):
    """A variable of the worker's environment."""
    return os.environ.get(name)


def kills_agent(x, log, bad):
    """Ends the agent where x is the bad one."""
    note(log)
    if x == bad:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return x * 2


def counts(n, log, seconds=0.0, flag=None, bad=None):
    """Yields 0 to n - 1; at the first run with `flag`, or always with `bad`, it ends with an error at that item."""
    note(log)
    for number in range(n):
        time.sleep(seconds)
        if number == bad:
            raise ValueError(f"no item {bad}")
        if flag and number == n // 2 and not os.path.exists(flag):
            open(flag, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        yield number


def counts_for_ever(log):
    note(log)
    number = 0
    while True:
        yield bytes(10_000)
        number += 1
        with open(log + ".count", "w") as file:
            file.write(str(number))


async def counts_later(n):
    for number in range(n):
        yield number


def needs(x, log, file):
    """Works where that file is there."""
    note(log)
    os.stat(file)
    return x


def waits(x, log, file):
    """Twice x, once that file is there."""
    note(log)
    while not os.path.exists(file):
        time.sleep(0.05)
    return x * 2


def once_slow(x, log, flag, seconds):
    """Takes so long at its first run, then no time."""
    note(log)
    if not os.path.exists(flag):
        open(flag, "w").close()
        time.sleep(seconds)
    return x * 2


def passes(what):
    """What the next task is to do."""
    return what


def does(what):
    """["gives", x], ["says", x], ["waits", file, x], ["raises"] or ["kills"]."""
    word, *given = what
    if word == "says":
        print(given[0])
    if word == "raises":
        raise ValueError("as it was told")
    if word == "kills":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "waits":
        while not os.path.exists(given[0]):
            time.sleep(0.01)
    return given[-1]


def in_turn(x, log, trouble=""):
    """Says when it begins and ends. At the first run with `trouble` it raises, or its worker or agent is killed."""
    with open(log, "a") as file:
        file.write(f"begins {x}\\n")
    if trouble and not os.path.exists(f"{log}.{trouble}"):
        open(f"{log}.{trouble}", "w").close()
        if trouble == "raises":
            raise ValueError(x)
        os.kill(os.getpid() if trouble == "worker" else os.getppid(), signal.SIGKILL)
        time.sleep(60)
    time.sleep(0.002)
    with open(log, "a") as file:
        file.write(f"ends {x}\\n")
    return x


def counts_in_turn(x, n, log, trouble=""):
    """Yields [number, log] n times, from x * n on; says so in the log as `in_turn` does, and has the same troubles."""
    with open(log, "a") as file:
        file.write(f"begins {x}\\n")
    for number in range(x * n, x * n + n):
        if trouble and number == x * n + n // 2 and not os.path.exists(f"{log}.{trouble}"):
            open(f"{log}.{trouble}", "w").close()
            if trouble == "raises":
                raise ValueError(x)
            os.kill(os.getpid() if trouble == "worker" else os.getppid(), signal.SIGKILL)
            time.sleep(60)
        yield [number, log]
    with open(log, "a") as file:
        file.write(f"ends {x}\\n")


def notes(what):
    """Writes the number that it is given."""
    number, log = what
    with open(log + ".notes", "a") as file:
        file.write(f"{number}\\n")
    return number


def once_killed(x, log, flag):
    """Dies at its first run, then works."""
    note(log)
    if not os.path.exists(flag):
        open(flag, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return x
'''


@dataclass
class AgentProcess:
    """An agent that runs; `log` is what it wrote."""

    process: subprocess.Popen[bytes]
    log: Path
    host: str

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait(10)

    def stall(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def ended(self, timeout: float = 20.0) -> int:
        """Its exit status, once it has ended."""
        return self.process.wait(timeout)

    def stop(self) -> int:
        """SIGTERM: drain; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        return self.process.wait(45)


@dataclass
class Site:
    """What a test works with. `broker_uri` empty: the embedded broker."""

    home: Path
    database_uri: str
    broker_uri: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    agents: list[AgentProcess] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every process of the site."""
        own = {
            "PYFI_HOME": str(self.home / "state"),
            # what a killed agent leaves there goes with the site
            "XDG_RUNTIME_DIR": str(self.home),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "PYFI_PATHS_BLOBS": str(self.home / "blobs"),
            "PYFI_DATABASE_URI": self.database_uri,
            "PYFI_BROKER_URI": self.broker_uri,
            "PYFI_GIT_ALLOW": f"file://{self.home}",
            "PYFI_AGENT_POLL_SECONDS": "0.5",
            "PYFI_AGENT_SHARED_CORES": "yes",
        }
        return {**os.environ, **own, **self.variables}

    @cached_property
    def settings(self) -> Settings:
        before = dict(os.environ)
        os.environ.update(self.environment)
        try:
            return Settings.load()
        finally:
            os.environ.clear()
            os.environ.update(before)

    @cached_property
    def client(self) -> Client:
        return Client(self.settings)

    @cached_property
    def repository(self) -> str:
        url, _ = make_repository(self.home / "repository", {"tasks.py": TASKS})
        return url

    @cached_property
    def queue(self) -> str:
        """A queue of the site's own: a broker may be shared by many."""
        name = f"q{uuid.uuid4().hex[:10]}"
        self.client.network.add_queue(name=name)
        return name

    @property
    def runs(self) -> Path:
        """Where tasks note their runs."""
        return self.home / "runs"

    def processor(self, *tasks: str, name: str = "p", **shape: Any) -> None:
        """Add a processor with a socket `<name>.<task>` for each task, all on the site's queue."""
        shape.setdefault("retry_delay_seconds", 0.1)
        self.client.network.add_processor(name=name, gitrepo=self.repository, module="tasks", **shape)
        for task in tasks:
            self.client.network.add_socket(name=f"{name}.{task}", queue=self.queue, processor=name, task=task)

    def agent(
        self,
        failpoint: str = "",
        host: str = "host1",
        *,
        respawn: bool = False,
        job: str = "",
        through: Sequence[str] = (),
        **variables: str,
    ) -> AgentProcess:
        """Start an agent, with `PYFI_FAILPOINT` set to `failpoint`; with `respawn` under the parent that keeps it.

        `job`: the token of the job that it runs in. `through`: what starts it elsewhere, such as in another network.
        """
        log = self.home / f"agent-{len(self.agents)}.log"
        environment = {**self.environment, "PYFI_FAILPOINT": failpoint, **variables}
        # tied to this process: a test run that is killed leaves no agent behind
        tied = ["--parent", str(os.getpid())]
        command = [*through, sys.executable, "-P", "-m", "pyfi_hpc.agent.main", "--host", host, *tied]
        command += ["--respawn"] if respawn else []
        command += ["--job", job] if job else []
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)
        agent = AgentProcess(process, log, host)
        self.agents.append(agent)
        return agent

    def submit(self, socket: str, inputs: Iterable[object]) -> list[Any]:
        """Futures of these calls; their ids are on the site's list of accepted ones."""
        futures = self.client.submit_many(socket, inputs)
        self.accepted += [future.id for future in futures]
        return futures

    # looking

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """What the database answers."""
        with closing(psycopg2.connect(self.database_uri)) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall())

    def rows_changed(self, statement: str, *values: object) -> int:
        """How many rows the statement changed."""
        with closing(psycopg2.connect(self.database_uri)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return int(cursor.rowcount)

    def worker_pids(self) -> list[int]:
        """The live workers' processes."""
        rows = self.rows("SELECT pid FROM pyfi.worker WHERE status IN ('READY', 'DRAINING') AND pid IS NOT NULL")
        return [pid for (pid,) in rows if alive(pid)]

    def ready(self, workers: int = 1, timeout: float = 30.0) -> list[int]:
        """The pids of at least so many ready workers."""
        eventually(lambda: len(self.worker_pids()) >= workers, timeout=timeout)
        return self.worker_pids()

    def executions(self) -> dict[str, int]:
        """Invocation id -> how often it was run."""
        counts: dict[str, int] = {}
        for line in self.runs.read_text().splitlines() if self.runs.exists() else ():
            identity = line.split()[0]
            counts[identity] = counts.get(identity, 0) + 1
        return counts

    def causes(self, future: Any) -> list[str]:
        """The causes of an invocation's failed attempts, in order."""
        rows = self.rows(
            "SELECT cause FROM pyfi.attempt WHERE id = %s AND status = 'FAILED' ORDER BY serial", future.id
        )
        return [cause for (cause,) in rows]

    def outcomes(self) -> dict[str, str]:
        """Invocation id -> status of its outcome."""
        return {str(identity): status for identity, status in self.rows("SELECT id, status FROM pyfi.outcome")}

    # checking

    def quiet(self, timeout: float = 60.0) -> None:
        """Wait until every accepted id is decided and nothing is under way."""
        try:
            eventually(lambda: self.check().quiet, timeout=timeout, interval=0.2)
        except AssertionError:
            raise AssertionError("\n".join([*self.check().lines, *self.tails()])) from None

    def check(self) -> verify.Report:
        """The invariants, over every accepted id."""
        broker = connect(self.broker_uri or None, database_uri=self.database_uri)
        try:
            with closing(psycopg2.connect(self.database_uri)) as connection:
                accepted = [uuid.UUID(identity).bytes for identity in self.accepted]
                return verify.check(connection, accepted, broker=broker, blob_dir=self.settings.blob_dir)
        finally:
            broker.close()

    def left_behind(self) -> list[str]:
        """What is there of agents that have ended: worker processes, sockets, files in scratch folders."""
        pids = [pid for (pid,) in self.rows("SELECT pid FROM pyfi.worker WHERE pid IS NOT NULL")]
        strays = [f"process {pid}" for pid in pids if alive(pid) and "pyfi_hpc.worker" in arguments(pid)]
        sockets = [str(path) for path in self.home.rglob("*") if path.is_socket()]
        return strays + sockets + [str(path) for path in self.home.glob("state/nodes/*/*/scratch/*")]

    def tails(self) -> list[str]:
        """The last lines that each agent wrote, for a failed test's report."""
        return [
            f"{agent.log.name}: {line}" for agent in self.agents for line in agent.log.read_text().splitlines()[-15:]
        ]

    def close(self) -> None:
        """Stop everything that the site started, and see that nothing is left."""
        pids = self.worker_pids()
        try:
            for agent in self.agents:
                agent.stop()
            try:
                eventually(lambda: self.left_behind() == [], timeout=10)
            except AssertionError:
                raise AssertionError("\n".join([*self.left_behind(), *self.tails()])) from None
        finally:
            if "client" in self.__dict__:
                self.client.close()
            for pid in pids:
                if alive(pid) and "pyfi_hpc.worker" in arguments(pid):
                    end(pid, signal.SIGKILL)


#: For tests of what a broker has no part in.
embedded_broker_only = pytest.mark.parametrize("broker_uri", ["postgres"], indirect=True)


def soon(seconds: float) -> float:
    """The monotonic time in so many seconds."""
    return time.monotonic() + seconds
