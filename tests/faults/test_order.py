"""Sockets whose calls keep their order (RELIABILITY 1.13), whatever dies on the way."""

from __future__ import annotations

from itertools import groupby

import pytest

from pyfi_hpc.client.client import Client
from pyfi_hpc.errors import BadInput
from tests.site import Site
from tests.support import eventually


def fifo(site: Site, task: str = "in_turn", workers: int = 2) -> None:
    """Socket `p.fifo`, on a queue that other sockets are on too."""
    site.processor("work", workers=workers)
    site.client.network.add_socket(
        name="p.fifo", queue=site.queue, processor="p", task=task, ordering="fifo", timeout_seconds=60
    )


def assert_in_turn(site: Site, count: int) -> None:
    """Each call began once the one before it had ended, and ended before another began."""
    lines = site.runs.read_text().split("\n")[:-1]
    without_repeats = [line for line, _ in groupby(lines)]
    # a call whose attempt failed begins once more, and nothing comes in between
    assert without_repeats == [f"{word} {number}" for number in range(count) for word in ("begins", "ends")]


def test_order_is_kept_when_calls_workers_and_agents_die(site: Site) -> None:
    fifo(site)
    troubles = {7: "raises", 19: "worker", 31: "agent"}
    inputs = [(number, str(site.runs), troubles.get(number, "")) for number in range(60)]
    for host in ("host1", "host2"):
        site.agent(host=host, respawn=True)

    futures = site.submit("p.fifo", inputs)

    assert [future.result(timeout=90) for future in futures] == list(range(60))
    assert_in_turn(site, 60)
    for number, cause in ((7, "user_error"), (19, "signal"), (31, "agent_lost")):
        assert site.causes(futures[number])[:1] in ([cause], []), (number, site.causes(futures[number]))
    site.quiet()


def test_generators_and_what_they_yield_keep_their_order(site: Site) -> None:
    fifo(site, task="counts_in_turn")
    network, calls, items = site.client.network, 6, 20
    network.add_queue(name=f"{site.queue}.next")
    network.add_processor(name="q", gitrepo=site.repository, module="tasks", workers=2)
    network.add_socket(
        name="q.fifo", queue=f"{site.queue}.next", processor="q", task="notes", ordering="fifo", timeout_seconds=60
    )
    network.add_plug(name="plug", queue=f"{site.queue}.next", processor="p")
    troubles = {2: "worker", 4: "agent"}
    inputs = [(number, items, str(site.runs), troubles.get(number, "")) for number in range(calls)]
    for host in ("host1", "host2"):
        site.agent(host=host, respawn=True)

    futures = site.submit("p.fifo", inputs)

    for number, future in enumerate(futures):
        assert [item for item, _ in future.items(90)] == list(range(number * items, (number + 1) * items))
    assert_in_turn(site, calls)
    site.quiet(90)
    noted = [int(line) for line in site.runs.with_name(f"{site.runs.name}.notes").read_text().split()]
    # what may have been sent before an agent died is sent again: it changes nothing
    assert list(dict.fromkeys(noted)) == list(range(calls * items))
    assert site.rows("SELECT count(*) FROM pyfi.stream") == [(0,)]


@pytest.mark.parametrize("broker_uri", ["postgres"], indirect=True)
def test_a_call_that_fails_for_good_lets_the_next_one_go_on(site: Site) -> None:
    fifo(site, task="needs", workers=1)
    site.agent()
    file = site.home / "there"

    bad = site.submit("p.fifo", [(1, str(site.runs), str(file))])
    good = site.submit("p.fifo", [(2, str(site.runs), str(site.home))])

    assert good[0].result(timeout=60) == 2
    assert bad[0].status == "DEAD"
    assert [
        serial for (serial,) in site.rows("SELECT serial FROM pyfi.attempt WHERE id = %s ORDER BY 1", bad[0].id)
    ] == [1, 2, 3]
    order = list(site.executions())
    assert order == [bad[0].id, good[0].id]
    site.quiet()

    file.touch()
    site.client.operations.requeue([bad[0].id])
    eventually(lambda: site.outcomes()[bad[0].id] == "SUCCEEDED", timeout=60)
    site.quiet()


def test_a_paused_processor_gives_its_place_to_another_and_order_is_kept(site: Site) -> None:
    for name in ("p", "r"):
        site.processor("work", name=name, workers=1)
        site.client.network.add_socket(
            name=f"{name}.fifo", queue=site.queue, processor=name, task="in_turn", ordering="fifo", timeout_seconds=60
        )
    site.agent()
    site.ready(2)

    futures = site.submit("p.fifo", [(number, str(site.runs)) for number in range(200)])
    for name in ("p", "r", "p", "r"):
        site.client.network.pause(name)
        done = sum(future.done() for future in futures)
        eventually(lambda: sum(future.done() for future in futures) >= min(done + 15, 200), timeout=60)  # noqa: B023
        site.client.network.resume(name)

    assert [future.result(timeout=60) for future in futures] == list(range(200))
    assert_in_turn(site, 200)
    site.quiet()


@pytest.mark.parametrize("broker_uri", ["postgres"], indirect=True)
def test_what_is_cancelled_while_it_waits_its_turn_does_not_run(site: Site) -> None:
    fifo(site, workers=1)
    futures = site.submit("p.fifo", [(number, str(site.runs)) for number in range(3)])

    assert futures[1].cancel()
    site.agent()

    assert futures[2].result(timeout=60) == 2
    eventually(lambda: "begins 2" in site.runs.read_text())
    site.quiet()
    assert site.outcomes()[futures[1].id] == "CANCELLED"


@pytest.mark.parametrize("broker_uri", ["rabbitmq"], indirect=True)
def test_what_a_fifo_socket_cannot_have_is_refused(site: Site) -> None:
    site.processor("work", timeout_seconds=60)
    network = site.client.network

    def refusal(**values: object) -> tuple[str, object]:
        with pytest.raises(BadInput) as refused:
            network.add_socket(name="p.fifo", queue=site.queue, processor="p", task="in_turn", **values)
        return refused.value.code, refused.value.facts["field"]

    assert refusal(ordering="fifo", priorities=2) == ("E_RANGE", "priorities")
    assert refusal(ordering="lifo") == ("E_CHOICE", "ordering")
    assert refusal(ordering="fifo", timeout_seconds=900) == ("E_RANGE", "timeout_seconds")
    network.add_socket(name="p.fifo", queue=site.queue, processor="p", task="in_turn", ordering="fifo")
    with pytest.raises(BadInput, match="below 900 s"):
        network.update_processor("p", timeout_seconds=1000)
    with pytest.raises(BadInput, match="longer than its time limit of 60 s"):
        site.client.submit("p.fifo", 1, str(site.runs), timeout=61)
    with pytest.raises(BadInput, match="no priority high"):
        site.client.submit("p.fifo", 1, str(site.runs), priority="high")


@pytest.mark.parametrize("broker_uri", ["rabbitmq"], indirect=True)
def test_a_socket_becomes_fifo_once_nothing_waits_and_calls_find_its_new_queue(site: Site) -> None:
    site.processor("in_turn", workers=1)
    network = site.client.network
    first = site.submit("p.in_turn", [(0, str(site.runs))])
    with pytest.raises(BadInput, match="in use"):
        network.update_socket("p.in_turn", ordering="fifo", timeout_seconds=60)
    site.agent()
    assert first[0].result(timeout=60) == 0
    site.quiet()

    network.update_socket("p.in_turn", ordering="fifo", timeout_seconds=60)
    with Client(site.settings) as client:  # one that knows of the socket learns of it within half a minute
        futures = client.submit_many("p.in_turn", [(number, str(site.runs)) for number in range(1, 10)])
        site.accepted += [future.id for future in futures]
        values = [future.result(timeout=60) for future in futures]

    assert values == list(range(1, 10))
    assert_in_turn(site, 10)
    assert network.show("socket", "p.in_turn")["priorities"] == 1
    site.quiet()
