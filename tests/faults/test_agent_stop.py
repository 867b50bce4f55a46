"""A person asks an agent to end."""

from __future__ import annotations

import pytest

from pyfi_hpc.errors import BadInput
from tests.site import Site
from tests.support import eventually


@pytest.mark.parametrize("broker_uri", ["postgres"], indirect=True)
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
