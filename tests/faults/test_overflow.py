"""Queues with a length limit: clients wait, agents park, nothing is dropped."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyfi_hpc.agent.commit.forwarding import SPILL_SECONDS
from pyfi_hpc.client.client import Client
from pyfi_hpc.errors import PyfiError
from tests.faults.own import site_on
from tests.site import Site
from tests.support import eventually


@pytest.fixture
def site(request: pytest.FixtureRequest, broker_uri: str, home: Path) -> Iterator[Site]:
    """A site whose `short` queues hold ten messages."""
    with site_on(request.getfixturevalue("own_postgres"), home, broker_uri) as made:
        yield made


def short(site: Site, name: str) -> str:
    """A queue of ten messages, unlike any other's."""
    queue = f"{site.queue}.{name}"
    site.client.network.add_queue(name=queue, max_length=10)
    return queue


def test_a_full_queue_makes_clients_wait_and_drops_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.client.network.add_processor(name="p", gitrepo=site.repository, module="tasks", workers=2)
    site.client.network.add_socket(name="p.work", queue=short(site, "in"), processor="p", task="work")
    told: list[str] = []
    monkeypatch.setattr("pyfi_hpc.client.notices.FIRST_SECONDS", 0.5)
    with impatient(site, "3", told.append) as hasty, pytest.raises(PyfiError) as refused:
        # nobody consumes yet
        hasty.submit_many("p.work", [(number, str(site.runs)) for number in range(10_000)])
    lost = set(refused.value.facts["ids"])
    accepted = [each.id for each in refused.value.facts["futures"] if each.id not in lost]
    assert refused.value.facts["reason"] == "E_BACKPRESSURE"
    assert lost and accepted
    # whoever waits is told for what, and what helps
    line = eventually(lambda: told, timeout=60)[0]
    assert re.match(r"waiting for room in queue \S+\.in for \d+ calls of p\.work: ", line)
    assert "agents that take from it: 0; next: pyfi show processor p; given up in" in line

    site.agent()
    futures = site.submit("p.work", [(number, str(site.runs), 0.001) for number in range(2000)])

    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(2000)]
    site.accepted += accepted
    site.quiet()
    # exactly what was accepted, and nothing of what was refused
    assert site.outcomes().keys() == {*accepted, *(future.id for future in futures)}


@pytest.mark.parametrize("broker_uri", ["rabbitmq"], indirect=True)
def test_results_for_a_full_queue_are_parked_so_that_their_parents_are_done(site: Site) -> None:
    site.processor("work", workers=1)
    queue = short(site, "next")
    site.client.network.add_processor(name="q", gitrepo=site.repository, module="tasks", workers=1)
    site.client.network.add_socket(name="q.follow", queue=queue, processor="q", task="follow")
    site.client.network.add_plug(name="plug", queue=queue, processor="p")
    site.client.network.pause("q")
    site.agent()
    site.ready()

    direct = filled(site, "q.follow", lambda number: (number,))

    parents = site.submit("p.work", [(number, str(site.runs)) for number in range(3)])

    assert [future.result(timeout=30) for future in parents] == [0, 2, 4]
    # after the spill time all parents are done with, though their children found no room
    eventually(lambda: len(site.rows("SELECT id FROM pyfi.hold WHERE state = 'DUE'")) == 3, timeout=3 * SPILL_SECONDS)
    eventually(lambda: empty(site, "p.work"), timeout=20)
    site.client.network.resume("q")
    assert [future.result(timeout=60) for future in direct] == [number + 1 for number in range(len(direct))]
    site.quiet()
    assert len(site.outcomes()) == len(direct) + 2 * 3


def test_what_a_full_queue_does_not_take_back_is_held(site: Site) -> None:
    site.client.network.add_processor(name="p", gitrepo=site.repository, module="tasks", workers=1)
    site.client.network.add_socket(name="p.work", queue=short(site, "in"), processor="p", task="work")
    site.agent()
    site.ready()
    futures = site.submit("p.work", [(0, str(site.runs), 8.0)])
    eventually(site.executions)
    futures += filled(site, "p.work", lambda number: (number + 1, str(site.runs)))

    # what waits in the agent goes back, and there is no room
    site.client.network.pause("p")
    eventually(lambda: site.rows("SELECT state FROM pyfi.hold") == [("DUE",)], timeout=20)
    site.client.network.resume("p")

    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(len(futures))]
    site.quiet()
    assert max(site.executions().values()) == 1


def impatient(site: Site, seconds: str, note: Callable[[str], None] | None = None) -> Client:
    """Another client, which waits only so long for room."""
    return Client(
        Site(site.home, site.database_uri, site.broker_uri, {"PYFI_CLIENT_CONNECT_SECONDS": seconds}).settings,
        note=note,
    )


def filled(site: Site, socket: str, call: Callable[[int], tuple[object, ...]]) -> list[Any]:
    """Send calls one by one until there is no room; the futures of those accepted."""
    accepted: list[str] = []
    with impatient(site, "1") as hasty, pytest.raises(PyfiError) as full:
        while True:
            accepted.append(hasty.submit(socket, *call(len(accepted))).id)
    assert full.value.code == "E_BACKPRESSURE"
    site.accepted += accepted
    return [site.client.future(identity) for identity in accepted]


def empty(site: Site, name: str) -> bool:
    """Whether nothing is in a socket's queue, ready or in hand."""
    socket = site.client.session.way(name).socket
    depth = site.client.session.broker.depth(f"{socket.exchange}.{socket.key}.g{socket.generation}")
    return depth.ready == 0 and not depth.unacked
