"""Calls that run longer than the broker waits for an ack: leased hold rows in the delivery's place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyfi_hpc.box.postgres import Postgres
from pyfi_hpc.box.rabbitmq import RabbitMQ
from tests.faults.own import change, site_on
from tests.services.rabbitmq_support import look_for_late_acks
from tests.site import Site
from tests.support import eventually

#: Seconds. Half of it is the age at which a delivery becomes a lease; the least that can be set.
ACK_TIMEOUT = 10
LONG = 9.0


@pytest.fixture(scope="module")
def hasty_rabbitmq(shared_rabbitmq: RabbitMQ) -> Iterator[RabbitMQ]:
    """It closes a channel that has not acked in time, and looks for such channels all the time."""
    look_for_late_acks(shared_rabbitmq, timeout_seconds=ACK_TIMEOUT)
    yield shared_rabbitmq
    look_for_late_acks(shared_rabbitmq, timeout_seconds=1800, every_seconds=60)


@pytest.fixture
def site(own_postgres: Postgres, hasty_rabbitmq: RabbitMQ, home: Path) -> Iterator[Site]:
    """One worker, behind a broker that waits ten seconds for an ack."""
    with site_on(own_postgres, home, hasty_rabbitmq.uri, PYFI_BROKER_ACK_TIMEOUT_SECONDS=str(ACK_TIMEOUT)) as made:
        made.processor("work", workers=1)
        yield made


def holds(site: Site) -> list[tuple[str, int]]:
    """State and serial of each hold row."""
    return [(state, serial) for state, serial in site.rows("SELECT state, serial FROM pyfi.hold ORDER BY state")]


def lapse(site: Site) -> None:
    """The lease of an agent that is gone runs out now, not in half a minute."""
    assert change(site, "UPDATE pyfi.hold SET due = now() WHERE state = 'LEASED'") == 1


def in_hand(site: Site, rabbitmq: RabbitMQ) -> int:
    """Deliveries of the site's queue that are not acked."""
    lines = rabbitmq.ctl("list_queues", "-p", "pyfi", "name", "messages_unacknowledged").splitlines()
    return sum(int(line.split()[1]) for line in lines if site.queue in line)


def test_a_long_call_gets_a_lease_and_what_waits_behind_it_another_chance(site: Site, hasty_rabbitmq: RabbitMQ) -> None:
    agent = site.agent()
    site.ready()
    (long,) = site.submit("p.work", [(1, str(site.runs), ACK_TIMEOUT + 3.0)])
    eventually(lambda: site.executions().get(long.id))
    (waiting,) = site.submit("p.work", [(2, str(site.runs))])

    eventually(lambda: holds(site) and holds(site)[0] == ("LEASED", 1), timeout=8)
    assert not long.done()
    # the delivery of what runs is acked, and what waited behind it went back through a row of its own
    eventually(lambda: in_hand(site, hasty_rabbitmq) <= 1, timeout=10)

    assert [long.result(timeout=30), waiting.result(timeout=30)] == [2, 4]
    assert site.client.call("p.work", 3, str(site.runs), timeout=30) == 6
    site.quiet()
    assert holds(site) == []
    assert site.executions()[long.id] == site.executions()[waiting.id] == 1
    assert "broker channel closed" not in agent.log.read_text()


def test_a_retry_that_waits_in_an_old_delivery_is_not_lost(site: Site) -> None:
    file = site.home / "file"
    site.client.network.add_socket(name="p.needs", queue=site.queue, processor="p", task="needs")
    site.agent()
    site.ready()
    (fails,) = site.submit("p.needs", [(5, str(site.runs), str(file))])
    # once its first attempt has failed, the worker is kept busy: the retry waits behind a long call
    eventually(lambda: holds(site))
    change(site, "UPDATE pyfi.hold SET due = now() + interval '1 hour'")
    (long,) = site.submit("p.work", [(1, str(site.runs), LONG)])
    eventually(lambda: site.executions().get(long.id))
    file.touch()
    change(site, "UPDATE pyfi.hold SET due = now()")
    eventually(lambda: ("OUT", 2) in holds(site))

    assert [long.result(timeout=30), fails.result(timeout=30)] == [2, 5]
    site.quiet()


@pytest.mark.parametrize("when", ["right after the ack", "later"])
def test_a_leased_call_outlives_its_agent(site: Site, when: str) -> None:
    at_once = when == "right after the ack"
    first = site.agent("lease_after_ack:crash" if at_once else "")
    site.ready()
    (future,) = site.submit("p.work", [(1, str(site.runs), LONG)])
    eventually(lambda: holds(site) == [("LEASED", 1)], timeout=20)
    if not at_once:
        first.kill()
    assert first.ended() == -9

    lapse(site)
    site.agent()

    assert future.result(timeout=40) == 2
    site.quiet()
    assert site.executions()[future.id] == 2
    assert site.rows("SELECT serial FROM pyfi.outcome") == [(2,)]


def test_an_agent_whose_lease_was_given_away_changes_nothing(site: Site) -> None:
    first = site.agent()
    site.ready()
    (future,) = site.submit("p.work", [(1, str(site.runs), LONG)])
    eventually(lambda: holds(site) == [("LEASED", 1)], timeout=20)

    # it stops for longer than its lease, and another serves its node meanwhile
    first.stall()
    lapse(site)
    change(site, "UPDATE pyfi.agent SET lease_until = now()")
    site.agent(host="host2")
    eventually(lambda: site.executions()[future.id] == 2, timeout=40)
    first.wake()

    assert future.result(timeout=40) == 2
    site.quiet()
    assert site.rows("SELECT serial FROM pyfi.outcome") == [(2,)]
