"""Slurm's own daemons fail: the controller dies, stalls, loses its state; a node's daemon stalls (matrix 18, 19)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyfi_hpc.box.cluster import Cluster
from pyfi_hpc.box.slurm import SlurmCluster
from tests.cluster_site import ClusterSite, site_on
from tests.support import eventually


@pytest.fixture(scope="module")
def installation(shared_cluster: Cluster) -> Iterator[ClusterSite]:
    """Of all tests here."""
    with site_on(shared_cluster, "work", workers=2) as site:
        yield site


@pytest.fixture
def site(installation: ClusterSite) -> Iterator[ClusterSite]:
    """With a scheduler that leads and is soon sure that a job is lost, and no pilot."""
    installation.begin(poll=1, missing=2, lost=4)
    yield installation
    installation.settle()


@pytest.fixture
def slurm(site: ClusterSite) -> SlurmCluster:
    """Slurm, whose daemons a test may hurt."""
    return site.cluster.slurm


def silent(site: ClusterSite) -> bool:
    """Whether the scheduler knows that Slurm does not answer."""
    return "no answer" in site.pyfi("ls", "schedulers", "-o", "wide")


def test_work_goes_on_while_the_controller_is_away_and_what_is_sent_meanwhile_is_sent_once(
    site: ClusterSite, slurm: SlurmCluster
) -> None:
    pilot = site.send("-n", "2")
    site.ready(2)
    slurm.wait_saved(pilot.id)

    slurm.kill_slurmctld()

    futures = site.work()
    eventually(lambda: silent(site), timeout=30)
    site.all_right(futures)
    assert pilot.row("status") == "RUNNING"
    token = site.wanted()
    slurm.start_slurmctld()
    site.ready(4)
    site.one_submission_each()
    assert site.rows("SELECT status FROM pyfi.job ORDER BY created DESC LIMIT 2") == [("RUNNING",), ("RUNNING",)]
    assert token in site.submissions()


def test_a_submission_that_a_stalled_controller_answers_too_late_is_adopted(
    site: ClusterSite, slurm: SlurmCluster
) -> None:
    slurm.stall("slurmctld")
    site.wanted()
    eventually(lambda: site.rows("SELECT FROM pyfi.job WHERE status = 'SUBMITTING' AND reason IS NOT NULL"), timeout=60)

    slurm.resume("slurmctld")

    site.ready(2)
    site.one_submission_each()
    site.all_right(site.work(10, 0.0))


def test_a_job_whose_nodes_daemon_stalls_runs_elsewhere_and_its_old_agent_gives_way(
    site: ClusterSite, slurm: SlurmCluster
) -> None:
    pilot = site.send("-n", "2")
    site.ready(2)
    (node,) = pilot.nodes()
    (old,) = pilot.agents()
    futures = site.work(100, 0.3)

    slurm.stall_slurmd(node)

    (other,) = {*slurm.nodes} - {node}
    pilot.serves(other, incarnation=1)
    slurm.resume_slurmd(node)
    eventually(lambda: old not in pilot.agents(), timeout=40)
    site.all_right(futures, again=2)
    slurm.wait_up(node)
    assert pilot.row("restarts") == 1


def test_jobs_that_a_controller_lost_with_its_state_are_sent_again_once_their_agents_are_gone(
    site: ClusterSite, slurm: SlurmCluster
) -> None:
    pilot = site.send("-n", "2")
    site.ready(2)
    token = pilot.row("token")
    futures = site.work(40, 0.2)
    site.under_way(futures)

    slurm.kill_slurmctld()
    slurm.lose_state()
    slurm.start_slurmctld()

    eventually(lambda: site.rows("SELECT FROM pyfi.job WHERE token = %s AND status = 'ENDED'", token), timeout=90)
    site.all_right(futures, again=4, timeout=90)
    (reason,) = site.rows("SELECT reason FROM pyfi.job WHERE token = %s", token)
    assert "does not know it any more" in reason[0]
