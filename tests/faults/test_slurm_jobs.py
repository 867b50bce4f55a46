"""What happens to the jobs of pilots: cancelled, requeued, held, warned, their agents killed (matrix 17, 20, 21)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from pyfi_hpc.box.cluster import Cluster
from tests.cluster_site import ClusterSite, Pilot, site_on
from tests.support import eventually


@pytest.fixture(scope="module")
def installation(shared_cluster: Cluster) -> Iterator[ClusterSite]:
    """Of all tests here: they wait for each other's calls, not for each other's start."""
    with site_on(shared_cluster, "work", workers=2) as site:
        yield site


@pytest.fixture(scope="module", autouse=True)
def minute(shared_cluster: Cluster) -> Iterator[ClusterSite]:
    """A pilot for a minute, the shortest that Slurm knows, with a call that takes longer: they run beside the tests."""
    with site_on(shared_cluster, "once_slow", workers=1) as site:
        site.begin()
        site.send("-n", "1", "-t", "1", "--signal=B:USR2@10")
        site.submit("p.once_slow", [(3, str(site.runs), str(site.home / "begun"), 300.0)])
        yield site
        site.settle()


@pytest.fixture
def site(installation: ClusterSite) -> Iterator[ClusterSite]:
    """With a scheduler that leads, and no pilot."""
    installation.begin()
    yield installation
    installation.settle()


def next_pilot(site: ClusterSite, *known: Pilot) -> Pilot:
    """The one that the scheduler sends by itself."""
    eventually(lambda: len(site.pilots()) > len(known) and site.pilots()[-1] not in known, timeout=30)
    return site.pilots()[-1]


def test_a_pilot_that_is_cancelled_under_load_gives_its_calls_to_another(site: ClusterSite) -> None:
    first, second = site.send("-n", "2"), site.send("-n", "2")
    site.ready(4)
    futures = site.work()
    site.under_way(futures)

    site.cancel(first)

    first.becomes("ENDED")
    site.all_right(futures)
    assert second.state == "RUNNING"


def test_a_pilot_that_an_admin_cancels_is_followed_by_another(site: ClusterSite) -> None:
    pilot = site.send("-n", "2")
    site.ready(2)
    futures = site.work(20, 0.5)
    site.under_way(futures)

    site.cluster.slurm.run("scancel", pilot.id)

    pilot.becomes("ENDED")
    assert pilot.row("reason").startswith("CANCELLED")
    assert next_pilot(site, pilot) != pilot
    site.all_right(futures, again=2)


def test_a_pilot_that_is_requeued_and_held_says_so_and_serves_again_when_it_is_released(site: ClusterSite) -> None:
    pilot = site.send("-n", "2")
    pilot.serves(*pilot.nodes())
    site.ready(2)
    futures = site.work(20, 0.5)
    site.under_way(futures)

    site.cluster.slurm.run("scontrol", "requeuehold", pilot.id)

    pilot.becomes("PENDING")
    eventually(lambda: "held" in site.pyfi("show", "job", pilot.id), timeout=20)
    site.cluster.slurm.run("scontrol", "release", pilot.id)
    eventually(lambda: pilot.serving() == [(node, 1) for node in pilot.nodes()] != [], timeout=60)
    site.all_right(futures, again=2)
    assert pilot.row("restarts") == 1


def test_a_pilot_that_is_warned_of_its_time_limit_drains_and_another_takes_over(site: ClusterSite) -> None:
    pilot = site.send("-n", "2", "-t", "10")
    site.ready(2)
    futures = site.work(20, 0.5)
    site.under_way(futures)

    # as Slurm does it, to the batch shell alone
    site.cluster.slurm.run("scancel", "--signal=USR2", "--batch", pilot.id)

    pilot.becomes("ENDED")
    assert pilot.row("exit_code") == "0:0"
    next_pilot(site, pilot)
    site.all_right(futures)


def test_an_agent_that_is_killed_in_its_step_takes_its_workers_along_and_is_started_again(site: ClusterSite) -> None:
    pilot = site.send("-n", "2")
    workers = site.ready(2)
    (agent,) = pilot.agents()
    futures = site.work(20, 0.5)
    site.under_way(futures)

    os.kill(agent, signal.SIGKILL)

    eventually(lambda: pilot.agents() not in ([], [agent]), timeout=10)
    eventually(lambda: len(site.ready(2)) == 2 and not set(site.ready(2)) & set(workers), timeout=30)
    # those that ran, and those that had and were not committed yet
    site.all_right(futures, again=4)
    assert pilot.state == "RUNNING"


def test_a_second_agent_of_a_job_on_its_node_is_refused(site: ClusterSite) -> None:
    pilot = site.send("-n", "2")
    site.ready(2)

    said = pilot.step(code=2)

    assert "E_NODE_LEASED" in said
    assert site.client.call("p.work", 4, str(site.runs), timeout=30) == 8


@pytest.mark.parametrize("point", ["submit_after_intent", "submit_after_sbatch"])
def test_a_submission_whose_sender_dies_in_the_midst_of_it_is_made_once(site: ClusterSite, point: str) -> None:
    for scheduler in site.schedulers:
        scheduler.stop()

    site.pyfi("submit", "-n", "2", "--processor", "p", code=-signal.SIGKILL, PYFI_FAILPOINT=f"{point}:crash")
    assert site.rows("SELECT slurm_id FROM pyfi.job WHERE status = 'SUBMITTING'") == [(None,)]
    # its lease would lapse a quarter of a minute later
    site.change("UPDATE pyfi.scheduler SET lease_until = NULL")
    site.leads(site.scheduler(poll=1, missing=2))

    site.ready(2)
    site.one_submission_each()
    site.all_right(site.work(10, 0.0))


def test_a_second_scheduler_takes_over_from_one_that_stalls_and_the_first_does_nothing_more(site: ClusterSite) -> None:
    first = next(each for each in site.schedulers if each.process.poll() is None)
    second = site.scheduler()

    first.stall()

    # its lease would lapse a quarter of a minute later
    site.change("UPDATE pyfi.scheduler SET lease_until = NULL")
    site.leads(second)
    pilots = [site.send("-n", "1")]
    first.wake()
    pilots += [site.send("-n", "1") for _ in range(2)]

    site.ready(3)
    site.one_submission_each()
    assert "another process leads" in first.log.read_text()
    first.stop()
    site.all_right(site.work(10, 0.0))


@pytest.mark.slow
def test_a_call_that_a_time_limit_does_not_leave_time_for_is_run_by_the_next_pilot_at_no_cost(
    minute: ClusterSite,
) -> None:
    future = minute.client.future(minute.accepted[0])

    assert future.result(timeout=150) == 6
    minute.quiet()
    assert minute.causes(future) == ["walltime"]
    assert minute.executions() == {future.id: 2}
    first, *others = minute.pilots()
    assert (first.row("slurm_state"), first.row("exit_code")) == ("COMPLETED", "0:0"), "it ended before it was killed"
    assert others
