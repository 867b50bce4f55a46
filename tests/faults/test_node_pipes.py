"""Pipes between nodes of one job: each result once, whatever dies or is cut on the way, and nobody else comes in."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.test_pipes import given, warm
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
    return job(site, None, nodes=2, ntasks=1)


def serve(site: Site, both: Job) -> tuple[AgentProcess, AgentProcess]:
    """An agent of the job on each node, ready."""
    agents = both.agent("n1", variables=ON), both.agent("n2", variables=ON)
    site.ready(2)
    return agents


def far(site: Site) -> int:
    """How many results have gone to the other node by pipe."""
    ((count,),) = site.rows("SELECT far FROM pyfi.plug")
    return int(count)


def test_results_go_to_the_other_node_by_a_pipe_and_each_is_there_once(site: Site) -> None:
    both = across(site)
    serve(site, both)
    zeros = warm(site, "p.double", 0)
    eventually(lambda: far(site) > 0)

    futures = site.submit("p.double", [(number,) for number in range(1, 501)])

    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(1, 501)]
    site.quiet()
    assert given(site, "q.follow") == [1] * zeros + [2 * number + 1 for number in range(1, 501)]
    assert site.rows("SELECT count(*) FROM pyfi.event WHERE what = 'second result dropped'") == [(0,)]
    assert site.client.network.show("plug", "p-q")["way"] in ("tcp pipe", "mixed")
    assert not [line for agent in site.agents for line in agent.log.read_text().splitlines() if "stranger" in line]
