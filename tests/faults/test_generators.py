"""Calls that yield (1.15): each item an outcome of its own, once, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from pyfi_hpc import AsyncClient
from pyfi_hpc.errors import BadInput, WaitTimeout
from tests.site import Site, embedded_broker_only
from tests.support import eventually

POINTS = ["agent_after_commit", "agent_after_forward"]


def follow_each(site: Site) -> None:
    """A second processor takes every item along a plug."""
    site.client.network.add_queue(name=f"{site.queue}.next")
    site.client.network.add_processor(name="q", gitrepo=site.repository, module="tasks", workers=1)
    site.client.network.add_socket(name="q.follow", queue=f"{site.queue}.next", processor="q", task="follow")
    site.client.network.add_plug(name="plug", queue=f"{site.queue}.next", processor="p")


def followed(site: Site) -> int:
    return int(
        site.rows(
            "SELECT count(*) FROM pyfi.outcome o JOIN pyfi.socket s ON s.id = o.socket_id"
            " WHERE s.name = 'q.follow' AND o.status = 'SUCCEEDED'"
        )[0][0]
    )


def test_items_come_while_the_generator_runs_and_flow_on_one_by_one(site: Site) -> None:
    site.processor("counts", workers=1)
    follow_each(site)
    site.agent()
    site.ready(2)

    (future,) = site.submit("p.counts", [(40, str(site.runs), 0.05)])
    items = future.items(30)
    first = list(itertools.islice(items, 3))
    still_running = not future.done()

    assert (first, still_running) == ([0, 1, 2], True)
    assert list(items) == list(range(3, 40))
    assert future.result(timeout=30) == list(range(40))
    assert site.client.future(future.id).result(timeout=30) == list(range(40))
    eventually(lambda: followed(site) == 40, timeout=60)
    site.quiet()


@embedded_broker_only
def test_many_items_and_none_and_those_of_an_asynchronous_generator(site: Site) -> None:
    site.processor("counts", "counts_later", "double", workers=1)
    site.agent()
    site.ready()

    many, none = site.submit("p.counts", [(3_000, str(site.runs)), (0, str(site.runs))])
    (later,) = site.submit("p.counts_later", [5])
    (plain,) = site.submit("p.double", [4])

    assert list(many.items(30)) == list(range(3_000))
    assert list(none.items(30)) == none.result(timeout=30) == []
    assert later.result(timeout=30) == list(range(5))
    assert plain.result(timeout=30) == 8
    with pytest.raises(BadInput, match="does not yield"):
        list(plain.items())
    site.quiet()


@pytest.mark.parametrize("point", POINTS)
def test_no_item_is_lost_or_doubled_when_the_agent_dies(site: Site, point: str) -> None:
    site.processor("counts", workers=1)
    follow_each(site)
    first = site.agent(f"{point}:crash:3")
    site.ready(2)

    (future,) = site.submit("p.counts", [(500, str(site.runs))])
    assert first.ended() == -9
    site.agent()

    assert list(future.items(60)) == list(range(500))
    eventually(lambda: followed(site) == 500, timeout=60)
    site.quiet()
    assert site.rows("SELECT count(*) FROM pyfi.stream") == [(0,)]


@embedded_broker_only
def test_a_retry_goes_on_after_the_items_that_stand(site: Site) -> None:
    site.processor("counts", workers=1)
    follow_each(site)
    site.agent()
    site.ready(2)

    (future,) = site.submit("p.counts", [(200, str(site.runs), 0.0, str(site.home / "flag"))])

    assert future.result(timeout=60) == list(range(200))
    assert site.causes(future) == ["signal"]
    eventually(lambda: followed(site) == 200, timeout=60)
    site.quiet()


@embedded_broker_only
def test_an_error_comes_after_the_items_before_it(site: Site) -> None:
    site.processor("counts", workers=1, retries=1)
    site.agent()
    site.ready()

    (future,) = site.submit("p.counts", [(10, str(site.runs), 0.0, None, 4)])
    seen: list[int] = []
    with pytest.raises(ValueError, match="no item 4"):
        for item in future.items(30):
            seen.append(item)

    assert seen == [0, 1, 2, 3]
    assert site.executions()[future.id] == 2
    site.quiet()


@embedded_broker_only
def test_a_second_attempt_takes_over_and_the_first_one_is_given_back(site: Site) -> None:
    site.processor("counts", workers=2)
    agents = {agent.pid: agent for agent in (site.agent(), site.agent(host="host2"))}
    site.ready(2)
    (future,) = site.submit("p.counts", [(150, str(site.runs), 0.02)])
    assert list(itertools.islice(future.items(30), 3)) == [0, 1, 2]
    running = "SELECT a.pid FROM pyfi.agent a JOIN pyfi.worker w ON w.agent_id = a.id WHERE w.running IS NOT NULL"
    eventually(lambda: len(site.rows(running)) == 1, timeout=60)
    first = agents[site.rows(running)[0][0]]

    first.stall()
    eventually(lambda: site.executions()[future.id] == 2, timeout=60)
    first.wake()

    assert list(future.items(60)) == list(range(150))
    site.quiet()


@embedded_broker_only
def test_a_generator_waits_for_a_slow_database_and_stops_when_it_is_cancelled(site: Site) -> None:
    site.processor("counts_for_ever", workers=1)
    agent = site.agent()
    (worker,) = site.ready()
    (future,) = site.submit("p.counts_for_ever", [(str(site.runs),)])
    count = site.home / "runs.count"
    eventually(count.exists)

    agent.stall()
    seen: list[str] = []

    def stands_still() -> bool:
        seen.append(count.read_text())
        return len(seen) > 5 and len(set(seen[-5:])) == 1

    eventually(stands_still, interval=0.1, timeout=60)
    agent.wake()

    eventually(lambda: count.read_text() not in ("", seen[-1]), timeout=60)
    assert future.cancel(running=True)
    eventually(lambda: site.worker_pids() != [worker] or site.rows("SELECT running FROM pyfi.worker") == [(None,)])


@embedded_broker_only
def test_a_coroutine_takes_items_as_they_come(site: Site) -> None:
    site.processor("counts", "double", workers=1)
    site.agent()
    site.ready()
    client = AsyncClient.of(site.client)

    async def work() -> None:
        future = await client.submit("p.counts", 30, str(site.runs), 0.05)
        items = client.items(future, 60)
        assert [await anext(items) for _ in range(3)] == [0, 1, 2]
        assert not future.done()
        assert [item async for item in items] == list(range(3, 30))
        assert await future == list(range(30))
        # from the record, by its id
        assert [item async for item in client.items(future.id)] == list(range(30))
        site.accepted += [future.id]
        broken = await client.submit("p.counts", 3, str(site.runs), 0.0, None, 1)
        got = []
        with pytest.raises(ValueError, match="no item 1"):
            async for item in client.items(broken):
                got.append(item)
        assert got == [0]
        slow = await client.submit("p.counts", 2, str(site.runs), 3600.0)
        with pytest.raises(WaitTimeout, match="the work goes on"):
            await anext(client.items(slow, 0.2))
        await client.cancel(broken, slow)
        with pytest.raises(BadInput, match="does not yield"):
            await anext(client.items(await client.submit("p.double", 1)))

    asyncio.run(work())
    # nobody waits for items that nobody will take; the cancelled calls are heard of before long
    eventually(lambda: len(site.client.session.waiter) == 0, timeout=60)
