"""Nodes that are hosts of their own: cut off from what they need, or without power (fault matrix 15, 19)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyfi_hpc.box.cluster import Cluster, Service
from tests.cluster_site import ClusterSite, site_on
from tests.support import eventually

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def installation() -> Iterator[ClusterSite]:
    """Two nodes in namespaces of their own, which every test leaves whole."""
    with Cluster(2, cpus=4, gpus=0, profile="netns") as cluster, site_on(cluster, "work", workers=2) as site:
        yield site


@pytest.fixture
def site(installation: ClusterSite) -> Iterator[ClusterSite]:
    """With a scheduler that leads, and a pilot of one worker on each node."""
    installation.begin()
    installation.send("-N", "2", "-n", "2")
    installation.ready(2)
    yield installation
    installation.settle()


@pytest.mark.parametrize("service", ["broker", "database", "slurmctld"])
def test_a_node_that_loses_sight_of_a_service_for_a_moment_repeats_nothing(site: ClusterSite, service: Service) -> None:
    (pilot,) = site.live()
    futures = site.work(60, 0.1)
    site.under_way(futures)

    with site.blocked("n1", service):
        seen = site.runs_of(futures)
        eventually(lambda: site.runs_of(futures) > seen + 10)

    site.all_right(futures)
    assert pilot.serving() == [("n1", 0), ("n2", 0)]


def test_a_node_that_the_broker_lost_for_long_commits_once_what_another_runs_too(site: ClusterSite) -> None:
    (pilot,) = site.live()
    futures = site.work(8, 6.0)
    site.under_way(futures, 2)

    with site.blocked("n1", "broker"):
        # the broker has given n1's calls to others
        eventually(lambda: site.given_again(futures), timeout=60)

    site.all_right(futures, again=4)
    assert pilot.serving() == [("n1", 0), ("n2", 0)]


def test_a_node_that_loses_the_database_until_its_lease_lapses_keeps_what_it_has_done(site: ClusterSite) -> None:
    (pilot,) = site.live()
    futures = site.work(30, 0.5)
    site.under_way(futures)

    with site.blocked("n1", "database"):
        # half a minute later without this; the node cannot renew it
        site.change("UPDATE pyfi.agent a SET lease_until = now() FROM pyfi.node n WHERE n.id = a.node_id"
                    " AND n.host = 'n1' AND a.ended IS NULL")  # fmt: skip
        eventually(lambda: pilot.serving() == [("n2", 0)], timeout=30)

    site.all_right(futures, again=2)
    eventually(lambda: pilot.serving() == [("n1", 0), ("n2", 0)], timeout=60)


def test_a_node_that_is_cut_off_from_everything_is_replaced_and_what_it_does_late_loses(site: ClusterSite) -> None:
    site.send("-n", "1", "-w", "n2")
    site.ready(3)
    (pilot, _) = site.live()
    futures = site.work(12, 3.0)
    site.under_way(futures, 3)
    old = [pid for pid in pilot.agents() if site.host_of(pid) == "n1"]

    site.cluster.slurm.disconnect("n1")

    # Slurm has noticed: the job waits for a second node, and its agents are to end
    pilot.becomes("PENDING", timeout=60)
    assert [pid for pid in pilot.agents() if pid in old], "it runs on"
    site.cluster.slurm.connect("n1")
    eventually(lambda: pilot.serving() == [("n1", 1), ("n2", 1)], timeout=60)
    site.all_right(futures, again=6)
    assert not [pid for pid in pilot.agents() if pid in old]


def test_a_node_that_loses_its_power_under_load_gives_its_calls_to_others(site: ClusterSite) -> None:
    site.send("-n", "1", "-w", "n2")
    site.ready(3)
    (pilot, other) = site.live()
    futures = site.work(60, 0.5)
    site.under_way(futures)

    site.cluster.slurm.disconnect("n1")  # nobody is told
    site.cluster.slurm.power_off("n1")

    site.all_right(futures, again=6, timeout=90)
    pilot.becomes("PENDING", timeout=60)
    assert other.state == "RUNNING"
    site.cluster.slurm.power_on("n1")
    eventually(lambda: pilot.serving() == [("n1", 1), ("n2", 1)], timeout=60)
