"""An agent dies at each point between receive and ack: one outcome each, and no more executions than allowed."""

from __future__ import annotations

import pytest

from tests.site import Site

#: fail point -> how many extra executions of a lone call it may cost
POINTS = {
    "agent_after_receive": 1,
    "agent_after_run": 1,
    "agent_after_commit": 0,
    "agent_after_forward": 0,
}


@pytest.mark.parametrize("point", POINTS)
def test_a_lone_call_survives_its_agent(site: Site, point: str) -> None:
    site.processor("work", workers=1)
    first = site.agent(f"{point}:crash")
    site.ready()

    (future,) = site.submit("p.work", [(21, str(site.runs))])
    assert first.ended() == -9
    site.agent()

    assert future.result(timeout=30) == 42
    site.quiet()
    assert site.executions()[future.id] <= 1 + POINTS[point]


@pytest.mark.parametrize("point", POINTS)
def test_a_bulk_of_calls_survives_its_agent(site: Site, point: str) -> None:
    site.processor("work", workers=2)
    first = site.agent(f"{point}:crash:3")
    site.ready(2)

    futures = site.submit("p.work", [(number, str(site.runs)) for number in range(300)])
    assert first.ended() == -9
    decided = site.outcomes()
    site.agent()

    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(300)]
    site.quiet()
    # only what was in the dead agent's hands, and of which nothing was committed, ran again, and that once
    executions = site.executions()
    assert all(executions[identity] == 1 for identity in decided) and max(executions.values()) <= 2


@pytest.mark.parametrize("point", POINTS)
def test_results_flow_on_once_whatever_dies(site: Site, point: str) -> None:
    site.processor("work", workers=1)
    site.client.network.add_queue(name=f"{site.queue}.next")
    site.client.network.add_processor(name="q", gitrepo=site.repository, module="tasks", workers=1)
    site.client.network.add_socket(name="q.follow", queue=f"{site.queue}.next", processor="q", task="follow")
    site.client.network.add_plug(name="plug", queue=f"{site.queue}.next", processor="p")
    first = site.agent(f"{point}:crash")
    site.ready(2)

    futures = site.submit("p.work", [(number, str(site.runs)) for number in range(20)])
    assert first.ended() == -9
    site.agent()

    assert [future.result(timeout=30) for future in futures] == [2 * number for number in range(20)]
    site.quiet()
    assert site.rows("SELECT count(*) FROM pyfi.outcome WHERE status = 'SUCCEEDED'") == [(40,)]
