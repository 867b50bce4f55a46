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
    services: tuple[Service, ...] = ("broker", "database", "slurmctld")
    for service in services:
        futures = site.work(60, 0.1)
        site.under_way(futures)

        with site.blocked("n1", service):
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


def test_a_job_of_two_nodes_goes_on_with_the_one_that_is_left(site: ClusterSite) -> None:
    pilot = site.send("-N", "2", "-n", "2")
    site.ready(2)
    futures = site.work(40, 0.5)
    site.under_way(futures)

    # the job's script is on the first
    site.cluster.slurm.power_off("n2")

    site.all_right(futures, again=1)
    assert ("n1", 0) in pilot.serving()
