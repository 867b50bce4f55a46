"""Chains of processors on one node, by pipes: each result once, whatever dies, stalls or is slow on the way."""

from __future__ import annotations

from typing import Any

from tests.site import Site
from tests.support import eventually


def chain(site: Site, *tasks: str, workers: int = 1, **shape: Any) -> None:
    """Processors p, q, r … of these tasks, each plugged to the next."""
    network = site.client.network
    for name, task in zip("pqrst", tasks, strict=False):
        network.add_queue(name=f"{site.queue}.{name}")
        network.add_processor(
            name=name, gitrepo=site.repository, module="tasks", workers=workers, retry_delay_seconds=0.1, **shape
        )
        network.add_socket(name=f"{name}.{task}", queue=f"{site.queue}.{name}", processor=name, task=task)
    for name, to in zip("pqrst"[: len(tasks) - 1], "qrst", strict=False):
        network.add_plug(name=f"{name}-{to}", queue=f"{site.queue}.{to}", processor=name)


def piped(site: Site) -> list[int]:
    """How many results of each plug have gone by pipes, as far as the agent has told."""
    return [count for (count,) in site.rows("SELECT piped FROM pyfi.plug ORDER BY name")]


def warm(site: Site, socket: str) -> None:
    """Send calls until each plug has its pipe: that the next task is short is learned from a few calls of it."""

    def flows() -> bool:
        for future in site.submit(socket, [(0,)] * 5):
            future.result(timeout=60)
        return all(piped(site))

    eventually(flows, timeout=60.0, interval=0.2)


def values_of(site: Site, socket: str) -> list[object]:
    from pyfi_hpc.wire import values

    rows = site.rows(
        "SELECT o.value FROM pyfi.outcome o JOIN pyfi.socket s ON s.id = o.socket_id WHERE s.name = %s", socket
    )
    return sorted(values.decode(bytes(value)) for (value,) in rows)  # type: ignore[type-var]


def test_a_chain_of_three_gives_each_value_once(site: Site) -> None:
    chain(site, "double", "follow", "double")
    site.agent()
    site.ready(3)
    warm(site, "p.double")

    futures = site.submit("p.double", [(number,) for number in range(1, 501)])

    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(1, 501)]
    site.quiet()
    zeros = len(site.accepted) - 500
    assert values_of(site, "q.follow") == [1] * zeros + [2 * number + 1 for number in range(1, 501)]
    assert values_of(site, "r.double") == [2] * zeros + [4 * number + 2 for number in range(1, 501)]
    assert site.client.network.show("plug", "p-q")["way"] in ("pipe", "mixed")
    assert site.rows("SELECT count(*) FROM pyfi.event WHERE what = 'second result dropped'") == [(0,)]
