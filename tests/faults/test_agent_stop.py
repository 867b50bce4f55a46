"""A person asks an agent to end."""

from __future__ import annotations

import pytest

from pyfi_hpc.errors import BadInput
from tests.site import Site, embedded_broker_only
from tests.support import eventually


@embedded_broker_only
def test_a_stopped_agent_finishes_what_runs_and_leaves_the_rest_to_others(site: Site) -> None:
    site.processor("work", workers=4)
    first = site.agent(host="host1")
    site.ready(2)
    futures = site.submit("p.work", [(number, str(site.runs), 0.02) for number in range(200)])
    eventually(lambda: site.rows("SELECT sum(calls) FROM pyfi.worker")[0][0])
    site.agent(host="host2")

    site.client.network.stop_agent("host1")

    assert first.ended(40) == 0
    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(200)]
    site.quiet()
    assert sum(site.executions().values()) == 200
    with pytest.raises(BadInput, match="no agent serves node host1"):
        site.client.network.stop_agent("host1")


@embedded_broker_only
def test_an_agent_that_ends_starts_no_worker_any_more(site: Site) -> None:
    site.processor("work", workers=2)
    agent = site.agent()
    site.ready(2)
    # one worker is busy for a while, the other one ends at once
    (future,) = site.submit("p.work", [(1, str(site.runs), 3.0)])
    eventually(lambda: site.runs.exists())

    assert agent.stop() == 0

    assert future.result(timeout=10) == 2
    assert site.rows("SELECT count(*) FROM pyfi.worker") == [(2,)]
