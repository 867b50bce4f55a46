"""A cancel races the commit: each call is either cancelled or has a value (fault matrix 32)."""

from __future__ import annotations

import random
import time

import pytest

from pyfi_hpc.errors import Cancelled
from tests.site import Site, embedded_broker_only
from tests.support import eventually

CALLS = 200


def test_cancels_at_any_moment_never_leave_both_or_neither(site: Site) -> None:
    site.processor("work", workers=2)
    site.agent()
    site.ready(2)
    chance = random.Random(32)
    futures = site.submit("p.work", [(number, str(site.runs), 0.01) for number in range(CALLS)])

    won: dict[str, bool] = {}
    for future in chance.sample(futures, CALLS):
        time.sleep(chance.uniform(0.0, 0.01))
        (told,) = site.client.operations.cancel([future.id])
        won[future.id] = told["cancelled"]

    site.quiet()
    recorded = site.outcomes()
    assert recorded == {identity: "CANCELLED" if cancelled else "SUCCEEDED" for identity, cancelled in won.items()}
    # both happened, or the race was none
    assert set(won.values()) == {True, False}
    for number, future in enumerate(futures):
        if won[future.id]:
            with pytest.raises(Cancelled):
                future.result(timeout=10)
        else:
            assert future.result(timeout=10) == 2 * number
    # a cancelled call that had not started was not run
    assert len(site.executions()) < CALLS


@embedded_broker_only
def test_a_call_that_runs_without_end_is_stopped_by_a_cancel(site: Site) -> None:
    site.processor("never_ends", "work", workers=1)
    site.agent()
    site.ready()
    (endless,) = site.submit("p.never_ends", [(1, str(site.runs))])
    eventually(site.executions)

    assert endless.cancel(running=True)

    (after,) = site.submit("p.work", [(21, str(site.runs))])
    assert after.result(timeout=20) == 42
    with pytest.raises(Cancelled):
        endless.result(timeout=5)
    site.quiet()
    assert site.outcomes() == {endless.id: "CANCELLED", after.id: "SUCCEEDED"}
    assert site.executions() == {endless.id: 1, after.id: 1}
