"""Nodes that are hosts of their own: cut off from what they need, or without power (fault matrix 15, 19)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pyfi_hpc.box.cluster import Cluster, Service
from pyfi_hpc.box.network import Way
from pyfi_hpc.wire import values
from tests.cluster_site import ClusterSite, site_on
from tests.support import eventually

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def installation() -> Iterator[ClusterSite]:
    """Two nodes in namespaces of their own, which every test leaves whole."""
    with (
        Cluster(2, cpus=4, gpus=0, profile="netns") as cluster,
        site_on(cluster, "work", "waits", "passes", "does", workers=2) as site,
    ):
        # before somebody leads
        site.ini.write_text(site.ini.read_text().replace("[agent]\n", "[agent]\nnode_pipes = yes\n"))
        yield site


@pytest.fixture
def site(installation: ClusterSite) -> Iterator[ClusterSite]:
    """With a scheduler that leads, and no pilot."""
    installation.begin()
    yield installation
    for node in installation.cluster.slurm.nodes:
        installation.cluster.slurm.power_on(node)
        installation.cluster.slurm.connect(node)
        installation.cluster.slurm.wait_up(node)
    installation.settle()


def test_nodes_that_lose_sight_of_a_service_for_a_moment_repeat_nothing(site: ClusterSite) -> None:
    pilot = site.send("-N", "2", "-n", "2")
    site.ready(2)
    cuts: tuple[tuple[Service, Way], ...] = (
        ("broker", "both"), ("broker", "in"), ("broker", "out"),
        ("database", "both"), ("database", "in"), ("database", "out"), ("slurmctld", "both"),
    )  # fmt: skip
    for service, way in cuts:
        futures = site.work(60, 0.1)
        site.under_way(futures)

        with site.blocked("n1", service, way):
            site.under_way(futures, site.runs_of(futures) + 10)

        site.all_right(futures)
    assert pilot.serving() == [("n1", 0), ("n2", 0)]


def test_what_a_node_goes_on_with_that_the_broker_has_lost_has_one_outcome(site: ClusterSite) -> None:
    pilot = site.send("-n", "1")
    site.ready()
    node, other = pilot.nodes_and_others()
    futures = site.work(1, 18.0)
    site.under_way(futures, 1)

    with site.blocked(node, "broker"):
        site.send("-n", "1", "-w", other)
        # the broker has given the call to the other one as well
        eventually(lambda: site.runs_of(futures) == 2, timeout=60)

    site.all_right(futures, again=1)
    pilot.serves(node)


def test_a_node_that_loses_the_database_until_its_lease_lapses_keeps_what_it_has_done(site: ClusterSite) -> None:
    pilot = site.send("-N", "2", "-n", "2")
    site.ready(2)
    futures = site.work(30, 0.5)
    site.under_way(futures)

    with site.blocked("n1", "database"):
        # half a minute later without this; the node cannot renew it
        site.change("UPDATE pyfi.agent a SET lease_until = now() FROM pyfi.node n WHERE n.id = a.node_id"
                    " AND n.host = 'n1' AND a.ended IS NULL")  # fmt: skip
        pilot.serves("n2")

    site.all_right(futures, again=2)
    pilot.serves("n1", "n2")


def test_a_node_that_is_cut_off_from_everything_is_replaced_and_what_it_commits_late_loses(site: ClusterSite) -> None:
    pilot = site.send("-n", "1")
    site.ready()
    node, other = pilot.nodes_and_others()
    (old,) = pilot.agents()
    futures = site.work(1, 6.0)
    site.under_way(futures, 1)

    site.cluster.slurm.disconnect(node)
    site.send("-n", "1", "-w", other)

    # both Slurm and the broker have given it up
    pilot.serves(other, incarnation=1)
    site.all_right(futures, again=1)
    assert site.runs_of(futures) == 2
    assert old in pilot.agents(), "it is alive, and has an outcome of its own"
    site.cluster.slurm.connect(node)
    eventually(lambda: old not in pilot.agents(), timeout=60)
    site.all_right(futures, again=1)


def test_a_node_that_loses_its_power_under_load_gives_its_job_and_its_calls_to_others(site: ClusterSite) -> None:
    pilot = site.send("-n", "1")
    site.ready()
    node, other = pilot.nodes_and_others()
    second = site.send("-n", "1", "-w", other)
    site.ready(2)
    futures = site.work(40, 0.5)
    site.under_way(futures)

    site.cluster.slurm.disconnect(node)  # nobody is told
    site.cluster.slurm.power_off(node)

    pilot.serves(other, incarnation=1)
    # what it had in hand, and has run without anybody hearing of it
    site.all_right(futures, again=4)
    assert second.serving() == [(other, 0)]


def test_a_call_that_was_alone_on_a_node_that_failed_has_its_budget_back(site: ClusterSite) -> None:
    pilot = site.send("-n", "2")
    site.ready(2)
    node, other = pilot.nodes_and_others()
    gate = site.home / "alone"
    (call,) = futures = site.submit("p.waits", [(0, str(site.runs), str(gate))])
    site.under_way(futures, 1)
    (agent,) = pilot.agents()
    os.kill(agent, signal.SIGKILL)
    # its next start is announced: the death of an agent is the call's fault from now on, while nobody knows better
    eventually(lambda: attempts(site, call.id) == [("STARTED", None, node)], timeout=60)

    site.cluster.slurm.power_off(node)

    eventually(lambda: attempts(site, call.id)[:1] == [("FAILED", "node_failed", node)], timeout=60)
    assert site.rows("SELECT used, returns FROM pyfi.hold WHERE id = %s", call.id) == [(0, 1)]
    gate.touch()
    site.all_right(futures, again=2)
    assert site.causes(call) == ["node_failed"]
    pilot.serves(other, incarnation=1)


def test_a_job_of_two_nodes_goes_on_with_the_one_that_is_left_and_tells_what_the_other_ran(site: ClusterSite) -> None:
    pilot = site.send("-N", "2", "-n", "2")
    site.ready(2)
    gate = site.home / "two"
    # one message each, so that both nodes have some
    futures = [site.submit("p.waits", [(number, str(site.runs), str(gate))])[0] for number in range(6)]
    eventually(lambda: set(running(site)) == {"n1", "n2"}, timeout=60)
    lost = running(site)["n2"]

    # the job's script is on the first
    site.cluster.slurm.power_off("n2")
    # half a minute later without this
    site.change("UPDATE pyfi.agent a SET lease_until = now() FROM pyfi.node n WHERE n.id = a.node_id"
                " AND n.host = 'n2' AND a.ended IS NULL")  # fmt: skip

    # nothing was on record of it before, and it has not been run again yet
    eventually(lambda: attempts(site, lost) == [("FAILED", "node_failed", "n2")], timeout=60)
    gate.touch()
    site.all_right(futures, again=1)
    assert attempts(site, lost) == [("FAILED", "node_failed", "n2"), ("SUCCEEDED", None, "n1")]
    assert "node_failed" in site.pyfi("ps", lost)
    assert pilot.serving() == [("n1", 0)]


def running(site: ClusterSite) -> dict[str, str]:
    """Host -> the call that its agent says it runs."""
    rows = site.rows("SELECT n.host, w.running FROM pyfi.worker w JOIN pyfi.node n ON n.id = w.node_id"
                     " WHERE w.running IS NOT NULL AND w.status = 'READY'")  # fmt: skip
    return dict(rows)


def attempts(site: ClusterSite, call: str) -> list[tuple[str, str | None, str]]:
    """Status, cause and node of each attempt, as people are shown them."""
    return [(each["status"], each["cause"], each["node"]) for each in site.client.operations.attempts(call)]


class Sniffer:
    """Everything that goes over the wire between two addresses meanwhile, as a host beside the cable sees it."""

    PROGRAM = """
import socket, sys
pair = {socket.inet_aton(name) for name in sys.argv[1:]}
line = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
print("ready", flush=True)
while True:
    packet = line.recv(65536)
    if {packet[12:16], packet[16:20]} == pair:
        sys.stdout.buffer.write(packet)
        sys.stdout.buffer.flush()
"""

    def __init__(self, host: int, *addresses: str) -> None:
        """`host`: a process in whose network it listens."""
        enter = ["nsenter", f"--target={host}", "--net", sys.executable, "-c", self.PROGRAM, *addresses]
        self._process = subprocess.Popen(enter, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def heard(self) -> bytes:
        """All of it; nothing more is heard."""
        self._process.terminate()
        return self._process.communicate()[0]


def test_results_go_from_node_to_node_of_a_pilot_by_a_pipe_that_nobody_can_read_and_that_may_be_cut(
    site: ClusterSite,
) -> None:
    network, secret = site.client.network, "nobody-else-reads-this"
    network.add_queue(name="onward")
    network.add_socket(name="p.onward", queue="onward", processor="p", task="does")
    network.add_plug(name="onward", queue="onward", processor="p", source="p.passes")

    def far() -> int:
        ((count,),) = site.rows("SELECT far FROM pyfi.plug")
        return int(count)

    def flows(word: str) -> None:
        before = far()

        def more() -> bool:
            for future in site.submit("p.passes", [(["gives", word],)] * 5):
                future.result(timeout=60)
            return far() > before

        eventually(more, timeout=60, interval=0.2)

    site.send("-N", "2", "-n", "2")
    site.ready(2)
    n1, n2 = (node.address for node in site.cluster.slurm.plan.nodes)
    sniffer = Sniffer(site.cluster.slurm.hosts["n1"].pid, n1, n2)
    flows(secret)
    site.cluster.slurm.places.block("n1", n2, None, "both")
    cut = site.submit("p.passes", [(["gives", number],) for number in range(200)])
    for future in cut:
        future.result(timeout=60)
    site.quiet()
    site.cluster.slurm.places.unblock("n1", n2, None, "both")
    flows(secret)

    site.quiet()
    heard = sniffer.heard()
    assert b"CURVE" in heard and b"READY" in heard
    assert secret.encode() not in heard
    gave: list[Any] = [values.decode(bytes(value)) for (value,) in site.rows(OF_ONWARD)]
    assert sorted(value for value in gave if value != secret) == list(range(200))
    assert site.client.network.show("plug", "onward")["way"] in ("tcp pipe", "mixed")


OF_ONWARD = """SELECT o.value FROM pyfi.outcome o JOIN pyfi.socket s ON s.id = o.socket_id WHERE s.name = 'p.onward'"""
