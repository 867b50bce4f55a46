"""Pipes between nodes of one job: each result once, whatever dies on the way, and nobody else comes in."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import zmq

from pyfi_hpc.agent import keeper
from pyfi_hpc.pipes import curve, sockets
from pyfi_hpc.wire.ids import new_id
from tests.faults.test_pipes import given, streaming, warm, workers_of
from tests.pilots import Job, job
from tests.site import AgentProcess, Site
from tests.support import eventually

pytestmark = pytest.mark.parametrize("broker_uri", ["postgres"], indirect=True)

#: One machine stands for both nodes.
ON = {"PYFI_AGENT_NODE_PIPES": "yes", "PYFI_AGENT_NODE_PIPES_NETWORK": "127.0.0.0/8"}


def across(site: Site, source: str = "double", target: str = "follow", **shape: Any) -> Job:
    """Processor p of node n1 is plugged to q of node n2; the job that has both nodes."""
    network = site.client.network
    for name, task, host in (("p", source, "n1"), ("q", target, "n2")):
        network.add_queue(name=f"{site.queue}.{name}")
        own = {"workers": 1, "retry_delay_seconds": 0.1, "host": host, **shape}
        network.add_processor(name=name, gitrepo=site.repository, module="tasks", **own)
        network.add_socket(name=f"{name}.{task}", queue=f"{site.queue}.{name}", processor=name, task=task)
    network.add_plug(name="p-q", queue=f"{site.queue}.q", processor="p")
    return job(site, None, nodes=2, ntasks=2)


def serve(site: Site, both: Job) -> tuple[AgentProcess, AgentProcess]:
    """An agent of the job on each node, ready."""
    agents = both.agent("n1", variables=ON), both.agent("n2", variables=ON)
    site.ready(2)
    return agents


def far(site: Site) -> int:
    """How many results of p have gone to the other node by pipe, as far as its agent has told."""
    ((count,),) = site.rows("SELECT far FROM pyfi.plug WHERE name = 'p-q'")
    return int(count)


def test_only_agents_that_live_in_the_same_incarnation_of_the_job_and_are_of_the_same_owner_are_siblings(
    site: Site,
) -> None:
    both, (own, other, anothers) = job(site, None, nodes=2), (new_id(), new_id(), new_id())
    with closing(psycopg2.connect(site.database_uri)) as connection, connection.cursor() as cursor:
        for agent, owner in ((own, "ann"), (other, "ann"), (anothers, "bob")):
            cursor.execute(AGENT, {"host": agent.hex(), "agent": agent.hex(), "token": both.token, "owner": owner})
        assert [each.agent for each in keeper._siblings(cursor, own)] == [other]
        for away in ("ended = now()", "incarnation = 1", "lease_until = now()", "pipe_key = NULL", "job_id = NULL"):
            cursor.execute("SAVEPOINT before")
            cursor.execute(f"UPDATE pyfi.agent SET {away} WHERE id = %s::uuid", (other.hex(),))
            assert keeper._siblings(cursor, own) == (), away
            cursor.execute("ROLLBACK TO SAVEPOINT before")
        cursor.execute("UPDATE pyfi.agent SET pipe_key = NULL WHERE id = %s::uuid", (own.hex(),))
        assert keeper._siblings(cursor, own) == ()
        connection.rollback()


AGENT = """
    WITH node AS (INSERT INTO pyfi.node (network_id, name, host, cluster, cpus, mem_mib)
                  SELECT id, 'n' || %(host)s, %(host)s, 'box', 2, 100 FROM pyfi.network RETURNING id)
    INSERT INTO pyfi.agent (id, owner, node_id, pid, cores, version, lease_until, job_id, pipe_address, pipe_key)
    SELECT %(agent)s::uuid, %(owner)s, node.id, 1, '{0}', '1', now() + interval '1 minute', j.id, 'tcp://n:1', 'k'
    FROM node, pyfi.job j WHERE j.token = %(token)s
"""


# strangers


@pytest.fixture
def stranger() -> Iterator[Callable[..., Any]]:
    """Somebody who connects to an endpoint, again and again, with a key of its own or with none."""
    context = sockets.context()
    made: list[Any] = []

    def connect(endpoint: str, server: bytes | None = None) -> Any:
        line = context.socket(zmq.DEALER)
        for option, value in ((zmq.LINGER, 0), (zmq.IMMEDIATE, 1), (zmq.RECONNECT_IVL, 200)):
            line.setsockopt(option, value)
        if server is not None:
            curve.identify(line, curve.fresh(), server)
        line.connect(endpoint)
        made.append(line)
        return line

    yield connect
    for line in made:
        line.close()
    context.term()


def port_of(pid: int) -> int:
    """Where this process listens. Source: proc(5), /proc/net/tcp: 0A is LISTEN."""
    inodes = {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (port,) = [int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]
    return port


def test_results_go_to_the_other_node_by_a_pipe_and_on_there_and_strangers_are_let_in_nowhere(
    site: Site, stranger: Callable[..., Any]
) -> None:
    network, both = site.client.network, across(site)
    # what has come from the other node goes on to a neighbour
    network.add_queue(name=f"{site.queue}.r")
    network.add_processor(name="r", gitrepo=site.repository, module="tasks", workers=1, host="n2")
    network.add_socket(name="r.double", queue=f"{site.queue}.r", processor="r", task="double")
    network.add_plug(name="q-r", queue=f"{site.queue}.r", processor="q")
    _, theirs = serve(site, both)
    site.ready(3)
    zeros = warm(site, "p.double", 0)
    eventually(lambda: far(site) > 0)
    assert "stranger" not in theirs.log.read_text()
    ((endpoint, key),) = site.rows(
        "SELECT a.pipe_address, a.pipe_key FROM pyfi.agent a JOIN pyfi.node n ON n.id = a.node_id WHERE n.host = 'n2'"
    )
    (worker,) = workers_of(site, "q")
    lines = [stranger(endpoint, key.encode()), stranger(endpoint), stranger(f"tcp://127.0.0.1:{port_of(worker)}")]

    def told() -> bool:
        log = theirs.log.read_text()
        return all(words in log for words in ("not on the list", "does not speak CURVE", f"pid={worker}", "127.0.0.1"))

    eventually(told, timeout=60, interval=0.1)
    assert all(not line.getsockopt(zmq.EVENTS) & zmq.POLLOUT for line in lines)
    futures = site.submit("p.double", [(number,) for number in range(1, 501)])

    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(1, 501)]
    site.quiet()
    assert given(site, "q.follow") == [1] * zeros + [2 * number + 1 for number in range(1, 501)]
    assert given(site, "r.double") == [2] * zeros + [4 * number + 2 for number in range(1, 501)]
    assert [network.show("plug", name)["way"] in ways for name, ways in
            (("p-q", ("tcp pipe", "mixed")), ("q-r", ("pipe", "mixed")))] == [True, True]  # fmt: skip
    assert site.rows("SELECT far FROM pyfi.plug WHERE name = 'q-r'") == [(0,)]


def test_what_goes_wrong_on_the_other_node_is_charged_to_that_call_alone(site: Site) -> None:
    serve(site, across(site, "passes", "does", retries=1, timeout_seconds=2.0))
    good = warm(site, "p.passes", ["gives", 0])
    never = str(site.home / "never")

    futures = site.submit("p.passes", [(what,) for what in [["gives", 1], ["raises"], ["kills"], ["says", 2]]])
    for future in futures:
        future.result(timeout=60)
    eventually(lambda: len(given(site, "q.does")) == good + 2, timeout=60)
    site.submit("p.passes", [(["waits", never, 7],)])[0].result(timeout=60)
    site.quiet()

    attempts = site.rows(
        "SELECT a.cause, count(DISTINCT a.id), count(*) FROM pyfi.attempt a JOIN pyfi.socket s ON s.id = a.socket_id"
        " WHERE s.name = 'q.does' AND a.status = 'FAILED' AND a.cause IN ('user_error', 'signal', 'timeout')"
        " GROUP BY a.cause"
    )
    assert sorted(attempts) == [("signal", 1, 2), ("timeout", 1, 2), ("user_error", 1, 2)]
    assert given(site, "q.does") == [0] * good + [1, 2]
    assert far(site) > 0


def test_large_values_get_to_the_other_node_and_a_call_there_is_cancelled_where_it_runs(site: Site) -> None:
    serve(site, across(site, "passes", "does"))
    warm(site, "p.passes", ["gives", 0])
    # too large for a message: a claim check goes
    large, before = "x" * 500_000, far(site)
    for future in site.submit("p.passes", [(["gives", large, 7],)] * 3):
        future.result(timeout=60)
    site.quiet()
    assert given(site, "q.does").count(7) == 3
    eventually(lambda: far(site) > before)
    (future,) = site.submit("p.passes", [(["waits", str(site.home / "never"), 7],)])
    # it has become a lease, and is said to run
    future.result(timeout=60)
    ((child,),) = eventually(lambda: site.rows("SELECT id FROM pyfi.hold WHERE state = 'LEASED'"))
    eventually(lambda: site.rows("SELECT running FROM pyfi.worker WHERE running = %s", child))

    site.client.cancel(str(child))

    eventually(lambda: site.outcomes().get(str(child)) == "CANCELLED", timeout=60)
    site.quiet()
    assert site.rows("SELECT count(*) FROM pyfi.worker WHERE status = 'EXITED'") == [(0,)]


def test_workers_and_agents_of_either_node_die_and_stand_still_in_mid_stream(site: Site) -> None:
    both = across(site)
    ours, theirs = serve(site, both)
    zeros = warm(site, "p.double", 0)

    with streaming(site, "p.double") as futures:

        def goes_on(calls: int = 100) -> None:
            mark = len(futures) + calls
            eventually(lambda: len(futures) >= mark, timeout=120)

        def flows() -> None:
            """More than an agent had not told of yet."""
            before = far(site)
            eventually(lambda: far(site) >= before + 300, timeout=60)

        flows()
        os.kill(eventually(lambda: workers_of(site, "q"))[0], signal.SIGKILL)
        goes_on()
        flows()
        stopped = eventually(lambda: workers_of(site, "q"))[0]
        os.kill(stopped, signal.SIGSTOP)
        goes_on()
        os.kill(stopped, signal.SIGCONT)
        flows()
        theirs.stall()
        goes_on()
        theirs.wake()
        flows()
        theirs.kill()
        goes_on()
        both.agent("n2", variables=ON)
        flows()
        ours.kill()
        last = both.agent("n1", variables=ON)
        flows()
        assert last.stop() == 0
        both.agent("n1", variables=ON)
        goes_on()

    sent = len(futures)
    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(1, sent + 1)]
    site.quiet()
    assert given(site, "q.follow") == [1] * zeros + [2 * number + 1 for number in range(1, sent + 1)]
