"""A pilot makes way for a job of higher rank (fault matrix 22)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyfi_hpc.box.cluster import Cluster
from tests.cluster_site import ClusterSite, site_on
from tests.support import eventually


@pytest.fixture
def site() -> Iterator[ClusterSite]:
    """A node whose Slurm keeps accounts, and where QOS `high` preempts the others, which are requeued."""
    with Cluster(1, cpus=4, gpus=0, accounting=True) as cluster, site_on(cluster, "work", workers=2) as site:
        site.begin()
        yield site
        site.settle()


def test_a_preempted_pilot_gives_its_calls_back_at_no_cost_and_serves_again_later(site: ClusterSite) -> None:
    pilot = site.send("-n", "2", "--slurm-arg=--exclusive")
    site.ready(2)
    futures = site.work(6, 4.0)
    site.under_way(futures, 2)

    site.cluster.slurm.run("srun", "--qos=high", "--exclusive", "true")

    pilot.becomes("PENDING")
    eventually(lambda: pilot.serving() == [("n1", 1)], timeout=60)
    site.all_right(futures, again=2)
    causes = [cause for future in futures for cause in site.causes(future)]
    assert causes == ["preempted", "preempted"]
    assert pilot.row("restarts") == 1
