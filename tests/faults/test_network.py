"""The network between the parts is slow, is cut, or carries what nobody sent (fault matrix 16)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyfi_hpc.box.postgres import Postgres
from pyfi_hpc.box.rabbitmq import RabbitMQ
from tests.faults.fault_proxy import FaultProxy
from tests.faults.own import Load, site_on
from tests.site import Site
from tests.support import eventually


@pytest.fixture
def proxies(own_postgres: Postgres, own_rabbitmq: RabbitMQ) -> Iterator[tuple[FaultProxy, FaultProxy]]:
    """One before the broker, one before the database."""
    with FaultProxy.before(own_rabbitmq.uri) as broker, FaultProxy.before(own_postgres.uri()) as database:
        yield broker, database


@pytest.fixture
def site(
    own_postgres: Postgres, own_rabbitmq: RabbitMQ, home: Path, proxies: tuple[FaultProxy, FaultProxy]
) -> Iterator[Site]:
    """Client and agent reach both services through the proxies."""
    broker, database = proxies
    with site_on(own_postgres, home, broker.instead(own_rabbitmq.uri)) as made:
        made.database_uri = database.instead(made.database_uri)
        made.processor("work", workers=2)
        yield made


def test_a_slow_network_that_carries_byte_by_byte_costs_nothing_but_time(
    site: Site, proxies: tuple[FaultProxy, FaultProxy]
) -> None:
    for proxy in proxies:
        proxy.delay, proxy.sliced = 0.005, 2000
        proxy.cut()
    site.agent()
    site.ready(2)

    futures = site.submit("p.work", [(number, str(site.runs)) for number in range(100)])

    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(100)]
    site.quiet()
    assert set(site.executions().values()) == {1}


@pytest.mark.parametrize("which", ["broker", "database"])
def test_cuts_and_rubbish_in_the_midst_of_frames_lose_nothing(
    site: Site, proxies: tuple[FaultProxy, FaultProxy], which: str
) -> None:
    proxy = proxies[which == "database"]
    agent = site.agent()
    site.ready(2)

    with Load(site) as load:
        for harm in ("cut", "rubbish", "cut", "rubbish"):
            before = len(load.futures)
            eventually(lambda: len(load.futures) >= before + 40, timeout=60)  # noqa: B023
            if harm == "cut":
                assert proxy.cut() > 0
            else:
                proxy.rubbish = 3
                eventually(lambda: proxy.rubbish == 0, timeout=60)
        before = len(load.futures)
        eventually(lambda: len(load.futures) >= before + 40, timeout=60)

    load.all_right()
    site.quiet()
    # it went on by itself, and said whom it lost
    assert agent.process.poll() is None
    log = agent.log.read_text()
    assert ("broker connection lost" if which == "broker" else "the database is away") in log
    assert len(log.splitlines()) < 1000
