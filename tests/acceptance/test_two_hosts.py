"""The original's commands on two hosts with real RabbitMQ and Postgres, and one of them cut off."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from pyfi_hpc.client.client import Client
from pyfi_hpc.config import Settings
from tests.acceptance.two_hosts import Cluster, two_hosts
from tests.support import eventually

pytestmark = [pytest.mark.root, pytest.mark.slow]

CUT_SECONDS = 12.0

#: What a person types, on either host; `{}` is the repository.
COMMANDS = """
add queue -n pyfi.queue1 -t direct
add processor -n proc1 -g {} -m pyfi.processors.sample
add socket -n proc1.socket1 -q pyfi.queue1 -pn proc1 -t do_something
add socket -n proc1.socket2 -q pyfi.queue1 -pn proc1 -t do_this
add queue -n pyfi.queue2 -t direct
add processor -n proc2 -g {} -m pyfi.processors.sample -t do_this
add outlet -n proc2.outlet1 -q pyfi.queue2 -pn proc2
add plug -n plug1 -q pyfi.queue2 -pn proc1 -s proc1.socket1
add queue -n pyfi.queue3 -t fanout
add outlet -n proc2.outlet2 -q pyfi.queue3 -pn proc2 -t do_this
add outlet -n proc2.outlet3 -q pyfi.queue3 -pn proc2 -t do_something
add plug -n plug2 -q pyfi.queue3 -pn proc1 -s proc1.socket2
add queue -n pyfi.queue4
add processor -n left -g {} -m pyfi.processors.sample -h host1 -w 1
add processor -n right -g {} -m pyfi.processors.sample -h host2 -w 1
add socket -n left.in -q pyfi.queue4 -pn left -t do_something
add socket -n right.in -q pyfi.queue4 -pn right -t do_something
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two hosts that serve the network of `COMMANDS`, typed on one host and the other in turn."""
    folder = Path(tempfile.mkdtemp(prefix="pyfi-hosts-"))
    try:
        with two_hosts(folder) as made:
            for number, line in enumerate(COMMANDS.strip().splitlines()):
                words = line.format(f"file://{made.repository}").split()
                made.hosts[number % 2].pyfi(*words)
            for host in made.hosts:
                host.start_agent()
            yield made
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    """A client beside the servers."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.services.items():
            patch.setenv(name, value)
        settings = Settings.load()
    with Client(settings) as made:
        yield made


def results(cluster: Cluster, socket: str) -> int:
    """How many calls of `socket` have a value."""
    query = (
        "SELECT count(*) FROM pyfi.outcome o JOIN pyfi.socket s ON s.id = o.socket_id"
        " WHERE s.name = %s AND o.status = 'SUCCEEDED'"
    )
    return int(str(ask(cluster, query, socket)[0][0]))


def ran_on(cluster: Cluster, since: str = "-infinity") -> dict[str, int]:
    """Host -> how many calls it has decided since then."""
    query = (
        "SELECT n.host, count(*) FROM pyfi.outcome o JOIN pyfi.worker w ON w.id = o.worker_id"
        " JOIN pyfi.node n ON n.id = w.node_id WHERE o.committed > %s::timestamptz GROUP BY n.host"
    )
    return {str(host): int(str(count)) for host, count in ask(cluster, query, since)}


def now(cluster: Cluster) -> str:
    """The database's time."""
    return str(ask(cluster, "SELECT clock_timestamp()::text")[0][0])


def ask(cluster: Cluster, query: str, *values: object) -> list[tuple[object, ...]]:
    """What the database answers."""
    with closing(psycopg2.connect(cluster.database_uri)) as connection, connection.cursor() as cursor:
        cursor.execute(query, values or None)
        return list(cursor.fetchall())


def test_a_call_from_either_host_prints_its_value_and_flows_on(cluster: Cluster) -> None:
    for host in cluster.hosts:
        said = host.pyfi("call", "proc1.socket1", '"Hello World !"')
        assert "Did something with Hello World !" in said, host.log
    # the pipeline of two
    eventually(lambda: results(cluster, "proc2.outlet1") == 2, timeout=30)

    assert "Did this: 7" in cluster.hosts[1].pyfi("call", "proc1.socket2", "7")
    # the fan-out to two
    eventually(lambda: results(cluster, "proc2.outlet2") == results(cluster, "proc2.outlet3") == 1, timeout=30)


def test_two_processors_on_two_hosts_compete_for_one_queue(cluster: Cluster, client: Client) -> None:
    since = now(cluster)
    eventually(lambda: len(ask(cluster, WORKERS)) == 2, timeout=60)
    futures = client.submit_many("left.in", range(400))
    assert [future.result(timeout=60) for future in futures] == [f"Did something with {x}" for x in range(400)]
    assert sum(ran_on(cluster, since).values()) == 400
    assert ran_on(cluster, since).keys() == {"host1", "host2"}


WORKERS = (
    "SELECT FROM pyfi.worker w JOIN pyfi.processor p ON p.id = w.processor_id"
    " WHERE p.name IN ('left', 'right') AND w.status = 'READY'"
)


def test_nothing_is_lost_when_a_host_is_cut_off_under_load(cluster: Cluster, client: Client, tmp_path: Path) -> None:
    host = cluster.hosts[1]
    futures = client.submit_many("left.in", range(200))
    cut, healed = time.monotonic(), ""
    host.cut()
    try:
        while time.monotonic() - cut < CUT_SECONDS:
            futures += client.submit_many("left.in", range(20))
            time.sleep(0.05)  # a steady load
    finally:
        host.heal()
        healed = now(cluster)

    def host_works_again() -> bool:
        futures.extend(client.submit_many("left.in", range(20)))
        return ran_on(cluster, healed).get(host.name, 0) > 0

    eventually(host_works_again, timeout=60, interval=0.2)
    assert all(str(future.result(timeout=60)).startswith("Did something") for future in futures), host.log

    accepted = tmp_path / "accepted"
    accepted.write_text("".join(f"{future.id}\n" for future in futures))
    assert f"sent {len(futures):,}  done {len(futures):,}  lost 0  recorded twice 0" in eventually(
        lambda: cluster.hosts[0].pyfi("verify", "--accepted", str(accepted)), timeout=40
    )


def test_doctor_is_content_on_either_host(cluster: Cluster) -> None:
    for host in cluster.hosts:
        said = host.pyfi("doctor")
        assert "✗" not in said
        assert "host1 has its lease" in said and "host2 has its lease" in said
