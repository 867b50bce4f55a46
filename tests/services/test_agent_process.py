"""The agent as a process: one for each node, started again when it dies, and nothing of it is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pyfi_hpc.agent.cores import cores_for
from pyfi_hpc.db import schema
from pyfi_hpc.db.embedded import ADMIN, ROLE, EmbeddedPostgres
from pyfi_hpc.errors import BadInput
from pyfi_hpc.processes import alive, children, end, fingerprint
from tests.support import eventually

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """An embedded database with our schema."""
    postgres = EmbeddedPostgres.start(tmp_path_factory.mktemp("agents"))
    try:
        schema.init(postgres.uri(ADMIN), grant_to=ROLE)
        yield postgres
    finally:
        postgres.remove()


@pytest.fixture
def start(server: EmbeddedPostgres) -> Iterator[Start]:
    """Starts agents; what a test leaves running is ended."""
    started: list[subprocess.Popen[str]] = []

    def spawn(*arguments: str, extra: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pyfi_hpc.agent.main", *arguments]
        env = os.environ | {"PYFI_HOME": str(server.state_dir)} | dict(extra or {})
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return started[-1]

    yield spawn
    for process in started:
        below = children(process.pid)
        process.terminate()
        process.communicate(timeout=30)
        for pid in below:
            end(pid, signal.SIGKILL)


def agents(server: EmbeddedPostgres, host: str) -> list[Any]:
    """The pids of live agents of `host`, by the database."""
    question = (
        "SELECT a.pid, a.cores FROM pyfi.agent a JOIN pyfi.node n ON n.id = a.node_id"
        " WHERE n.host = %s AND a.ended IS NULL"
    )
    with closing(psycopg2.connect(server.uri())) as connection, connection, connection.cursor() as cursor:
        cursor.execute(question, (host,))
        return cursor.fetchall()


def one_agent(server: EmbeddedPostgres, host: str, other_than: int = 0) -> int:
    """The pid of the one live agent of `host`, once it has registered."""

    def registered() -> int:
        found = [pid for pid, _ in agents(server, host)]
        return found[0] if len(found) == 1 and found[0] != other_than and alive(found[0]) else 0

    return eventually(registered, timeout=20)


def test_a_second_agent_of_a_node_is_refused_and_the_first_goes_on(server: EmbeddedPostgres, start: Start) -> None:
    first = start("--host", "shared")
    pid = one_agent(server, "shared")

    second = start("--host", "shared")
    said, _ = second.communicate(timeout=20)

    assert second.returncode == 2
    assert "E_NODE_LEASED" in said
    assert f"process {pid}" in said
    assert (first.poll(), one_agent(server, "shared")) == (None, pid)


def test_a_second_agent_is_refused_from_another_state_directory_too(
    server: EmbeddedPostgres, start: Start, tmp_path: Path
) -> None:
    first = start("--host", "one_node")
    pid = one_agent(server, "one_node")

    second = start("--host", "one_node", extra={"PYFI_HOME": str(tmp_path), "PYFI_DATABASE_URI": server.uri()})
    said, _ = second.communicate(timeout=20)

    assert (second.returncode, first.poll()) == (2, None)
    assert "E_NODE_LEASED" in said
    assert f"process {pid}" in said


def test_a_process_that_only_has_the_number_of_a_lost_agent_is_not_taken_for_it(
    server: EmbeddedPostgres, start: Start
) -> None:
    start("--host", "bystander")
    pid = one_agent(server, "bystander")
    with closing(psycopg2.connect(server.uri())) as connection, connection, connection.cursor() as cursor:
        # another boot of the machine, and another pid namespace of this one
        for other in (f"{uuid.uuid4()}:1:{pid}:1", fingerprint(pid).replace(":", ":9", 1)):
            cursor.execute(
                """WITH n AS (INSERT INTO pyfi.node (network_id, name, host) SELECT id, 'lost', 'lost' FROM pyfi.network
                              ON CONFLICT (network_id, name) DO UPDATE SET host = 'lost' RETURNING id)
                   INSERT INTO pyfi.agent (node_id, pid, process, cores, version, lease_until)
                   SELECT id, %s, %s, '{0}', '', now() + interval '1 hour' FROM n""",
                (pid, other),
            )

    start("--host", "lost")

    assert one_agent(server, "lost", other_than=pid) != pid


def test_an_agent_that_is_told_to_stop_leaves_the_node_free(server: EmbeddedPostgres, start: Start) -> None:
    agent = start("--host", "stopped", "--cores", "0")
    one_agent(server, "stopped")
    assert agents(server, "stopped")[0][1] == [0]

    agent.terminate()

    assert agent.wait(20) == 0
    assert agents(server, "stopped") == []


def test_a_killed_agent_is_back_within_five_seconds(server: EmbeddedPostgres, start: Start) -> None:
    parent = start("--host", "respawned", "--respawn")
    pid = one_agent(server, "respawned")
    assert children(parent.pid) == [pid]

    os.kill(pid, signal.SIGKILL)

    eventually(lambda: one_agent(server, "respawned", other_than=pid), timeout=5)
    assert parent.poll() is None


def test_the_parent_passes_a_stop_on_and_ends_with_its_agent(server: EmbeddedPostgres, start: Start) -> None:
    parent = start("--host", "told", "--respawn")
    pid = one_agent(server, "told")

    parent.terminate()

    assert parent.wait(20) == 0
    assert not alive(pid)
    assert agents(server, "told") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_parent_that_is_told_again_and_again_before_its_child_listens_ends_well(number: signal.Signals) -> None:
    program = (
        "import sys; from pyfi_hpc.agent.respawn import Respawner; "
        "sys.exit(Respawner([sys.executable, '-c', 'print(1, flush=True); import time; time.sleep(600)'], {}).run())"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    parent.stdout.readline()

    def told_again() -> bool:
        parent.send_signal(number)
        return parent.poll() is not None

    eventually(told_again, timeout=20, interval=0.001)
    assert parent.returncode == 0
    parent.stdout.close()


def test_an_agent_ends_with_its_killed_parent(server: EmbeddedPostgres, start: Start) -> None:
    parent = start("--host", "orphaned", "--respawn")
    pid = one_agent(server, "orphaned")

    parent.kill()

    eventually(lambda: not alive(pid))


def test_the_parent_ends_where_another_start_cannot_help(server: EmbeddedPostgres, start: Start) -> None:
    start("--host", "taken")
    one_agent(server, "taken")
    parent = start("--host", "taken", "--respawn")
    assert parent.wait(20) == 2


def test_orphans_of_a_dead_agent_are_ended() -> None:
    program = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        print(os.getpid(), flush=True)\n"
        "        os.close(1)\n"
        "        time.sleep(600)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "sys.exit(0)\n"
    )
    parent = (
        "import sys; from pyfi_hpc.agent.respawn import Respawner; "
        "sys.exit(Respawner([sys.executable, '-c', sys.argv[1]], {}).run())"
    )
    done = subprocess.run([sys.executable, "-c", parent, program], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    assert not alive(int(done.stdout))


def test_a_private_process_cannot_be_looked_into() -> None:
    # 3 is PR_GET_DUMPABLE; the kernel refuses ptrace and /proc/PID/environ where it says 0. Source: prctl(2)
    ask = "ctypes.CDLL(None).prctl(3)"
    program = f"import ctypes; from pyfi_hpc.agent import kernel; print({ask}); kernel.keep_private(); print({ask})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "0"]


@pytest.mark.parametrize(
    ("text", "cores"), [("", (0, 1, 2, 3, 8)), ("0-2", (0, 1, 2)), ("8, 0-1", (0, 1, 8)), ("3", (3,))]
)
def test_cores_are_those_that_were_named(text: str, cores: tuple[int, ...]) -> None:
    assert cores_for(text, {0, 1, 2, 3, 8}) == cores


@pytest.mark.parametrize("text", ["a", "3-1", "0-", "-1", "4", "0,,1", "0-99999"])
def test_cores_that_are_not_there_are_refused(text: str) -> None:
    with pytest.raises(BadInput) as refused:
        cores_for(text, {0, 1, 2, 3, 8})
    assert refused.value.code == "E_RANGE"
