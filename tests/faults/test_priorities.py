"""Calls of several priorities on one socket: who goes first, that nobody starves, and that their queues are kept."""

from __future__ import annotations

import asyncio

import pytest

from pyfi_hpc.client.aio import AsyncClient
from pyfi_hpc.client.client import Client
from pyfi_hpc.errors import BadInput
from tests.site import Site
from tests.support import eventually


def test_high_calls_overtake_the_others_and_low_ones_do_not_starve(site: Site) -> None:
    site.processor("work", workers=1)
    sent = {
        priority: site.client.submit_many(
            "p.work", [(number, str(site.runs), 0.005) for number in range(48)], priority=priority
        )
        for priority in ("low", "normal", "high")
    }
    site.accepted += [future.id for futures in sent.values() for future in futures]
    site.agent()

    for futures in sent.values():
        assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(48)]
    site.quiet()
    order = list(site.executions())
    last = {priority: max(order.index(future.id) for future in futures) for priority, futures in sent.items()}
    assert last["high"] < last["normal"] < last["low"]
    assert min(order.index(future.id) for future in sent["low"]) < last["high"]
    assert set(site.executions().values()) == {1}


@pytest.mark.parametrize("broker_uri", ["postgres"], indirect=True)
def test_a_priority_has_a_queue_from_its_first_call_on_and_what_is_tried_again_stays_in_it(site: Site) -> None:
    site.processor("needs", workers=1, retry_delay_seconds=5)
    network, file = site.client.network, site.home / "there"
    assert network.show("queue", site.queue)["priorities"] == ["normal"]
    site.agent()
    site.ready()

    future = site.client.submit("p.needs", 3, str(site.runs), str(file), priority="high")
    site.accepted.append(future.id)

    eventually(lambda: site.rows("SELECT FROM pyfi.hold"))
    assert network.show("queue", site.queue)["priorities"] == ["high", "normal"]
    ((key,),) = site.rows("SELECT key FROM pyfi.hold")
    assert key.endswith(".high")
    with pytest.raises(BadInput, match="in use"):
        network.delete("socket", "p.needs")
    file.touch()
    assert future.result(timeout=60) == 3
    site.quiet()


@pytest.mark.parametrize("broker_uri", ["rabbitmq"], indirect=True)
def test_what_waits_with_any_priority_is_seen_counted_and_purged(site: Site) -> None:
    site.processor("work")
    operations, network = site.client.operations, site.client.network
    futures = [
        site.client.submit("p.work", 1, str(site.runs), priority=priority) for priority in ("high", "normal", "low")
    ]
    lot = asyncio.run(AsyncClient.of(site.client).submit_many("p.work", [(2, str(site.runs))], priority="low"))
    futures += lot
    site.accepted += [future.id for future in futures]

    assert {each["id"] for each in operations.peek(site.queue)} == {future.id for future in futures}
    assert operations.waiting(site.queue) == 4
    with pytest.raises(BadInput, match="4 queued messages"):
        network.delete("socket", "p.work")
    assert operations.purge(site.queue) == 4
    site.quiet()
    assert set(site.outcomes().values()) == {"CANCELLED"}

    network.delete("socket", "p.work")
    assert site.rows("SELECT FROM pyfi.task_queue") == []


@pytest.mark.parametrize("broker_uri", ["postgres"], indirect=True)
def test_a_priority_that_a_socket_has_no_more_is_refused_and_what_was_sent_by_it_runs(site: Site) -> None:
    site.processor("work", workers=1)
    future = site.client.submit("p.work", 4, str(site.runs), priority="low")
    site.accepted.append(future.id)

    site.client.network.update_socket("p.work", priorities=1)

    with Client(site.settings) as client, pytest.raises(BadInput) as refused:
        client.submit("p.work", 4, str(site.runs), priority="low")
    assert (refused.value.code, refused.value.facts["field"]) == ("E_CHOICE", "priority")
    with pytest.raises(BadInput, match="did you mean high"):
        site.client.submit("p.work", 4, str(site.runs), priority="hihg")
    site.agent()
    assert future.result(timeout=60) == 8
    site.quiet()
