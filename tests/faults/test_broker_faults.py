"""The broker dies, stops, stalls, takes nothing, or loses a queue, while a whole installation works."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyfi_hpc.box.postgres import Postgres
from pyfi_hpc.box.rabbitmq import RabbitMQ
from pyfi_hpc.brokers.rabbitmq.broker import SETTLE_SECONDS
from pyfi_hpc.client.client import Client
from pyfi_hpc.errors import BrokerUnavailable, Cancelled
from tests.faults.own import Load, change, site_on
from tests.site import Site
from tests.support import eventually


@pytest.fixture
def site(own_postgres: Postgres, own_rabbitmq: RabbitMQ, home: Path) -> Iterator[Site]:
    """Two workers behind RabbitMQ."""
    with site_on(own_postgres, home, own_rabbitmq.uri) as made:
        made.processor("work", workers=2)
        yield made


def settle() -> None:
    """The one place where age is a condition: RabbitMQ may lose a quorum queue that is younger when it is killed."""
    time.sleep(SETTLE_SECONDS)


def impatient(site: Site, seconds: str, note: Callable[[str], None] | None = None) -> Client:
    """Another client, which waits only so long for a service."""
    return Client(
        Site(site.home, site.database_uri, site.broker_uri, {"PYFI_CLIENT_CONNECT_SECONDS": seconds}).settings,
        note=note,
    )


def test_a_killed_broker_loses_nothing_and_no_submit_fails(site: Site, own_rabbitmq: RabbitMQ) -> None:
    settle()
    site.agent()
    site.ready(2)

    with Load(site) as load:
        eventually(lambda: len(load.futures) >= 200, timeout=30)
        decided = site.outcomes()
        own_rabbitmq.restart(kill=True)
        after = len(load.futures)
        eventually(lambda: len(load.futures) >= after + 100, timeout=60)

    load.all_right()
    site.quiet()
    executions = site.executions()
    assert decided and all(executions[identity] == 1 for identity in decided) and max(executions.values()) <= 2


def test_a_killed_embedded_server_loses_nothing_and_no_submit_fails(own_postgres: Postgres, home: Path) -> None:
    with site_on(own_postgres, home) as site:
        site.processor("work", workers=2)
        site.agent()
        site.ready(2)

        with Load(site) as load:
            eventually(lambda: len(load.futures) >= 200, timeout=30)
            own_postgres.restart("kill")
            after = len(load.futures)
            eventually(lambda: len(load.futures) >= after + 100, timeout=60)

        load.all_right()
        site.quiet()


def test_while_the_broker_is_stopped_a_submit_waits_or_names_its_ids(site: Site, own_rabbitmq: RabbitMQ) -> None:
    settle()
    site.agent()
    site.ready(2)
    before = site.submit("p.work", [(number, str(site.runs), 0.02) for number in range(200)])

    with impatient(site, "3") as hasty:
        assert hasty.call("p.work", 1, str(site.runs), timeout=30) == 2
        own_rabbitmq.ctl("stop_app")
        try:
            with Load(site, lot=5) as load:
                with pytest.raises(BrokerUnavailable) as refused:
                    hasty.submit_many("p.work", [(number, str(site.runs)) for number in range(5)])
                assert load.futures == []  # it waits
                own_rabbitmq.ctl("start_app")
                eventually(lambda: len(load.futures) >= 20, timeout=60)
        finally:
            own_rabbitmq.ctl("start_app")

    assert refused.value.code == "E_NOT_ACCEPTED"
    assert len(set(refused.value.facts["ids"])) == 5
    load.all_right()
    assert [future.result(timeout=30) for future in before] == [2 * number for number in range(200)]
    site.quiet()
    # what was refused is known by its id alone: nothing of it ran
    assert not set(refused.value.facts["ids"]) & site.outcomes().keys()


def test_nothing_hangs_on_a_stalled_broker(site: Site, own_rabbitmq: RabbitMQ) -> None:
    settle()
    site.agent()
    site.ready(2)

    with Load(site) as load:
        eventually(lambda: len(load.futures) >= 100, timeout=30)
        own_rabbitmq.suspend()
        try:
            # heartbeats are missed after about 10 s: clients and agents reconnect to what does not answer
            time.sleep(20)
        finally:
            own_rabbitmq.resume()
        after = len(load.futures)
        eventually(lambda: len(load.futures) >= after + 50, timeout=60)

    load.all_right()
    site.quiet()


def test_under_a_disk_alarm_a_submit_says_so_and_what_was_accepted_runs(
    site: Site, own_rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.client.network.add_queue(name=f"{site.queue}.next")
    site.client.network.add_processor(name="q", gitrepo=site.repository, module="tasks", workers=1)
    site.client.network.add_socket(name="q.follow", queue=f"{site.queue}.next", processor="q", task="follow")
    site.client.network.add_plug(name="plug", queue=f"{site.queue}.next", processor="p")
    site.client.network.update_processor("p", workers=1)
    site.agent()
    site.ready(2)
    futures = site.submit("p.work", [(number, str(site.runs), 0.3) for number in range(30)])

    told: list[str] = []
    monkeypatch.setattr("pyfi_hpc.client.notices.FIRST_SECONDS", 0.5)
    with impatient(site, "3", told.append) as hasty:
        hasty.session.way("p.work")
        own_rabbitmq.ctl("set_disk_free_limit", "1000000GB")
        try:
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable) as refused:
                # the first one makes the broker tell that it is blocked
                hasty.submit("p.work", 1, str(site.runs))
            assert time.monotonic() - began < 10
            # consumers go on: work in hand is decided, its results wait for the broker
            eventually(lambda: site.rows("SELECT count(*) >= 4 FROM pyfi.outcome") == [(True,)], timeout=20)
        finally:
            own_rabbitmq.ctl("set_disk_free_limit", "50MB")

    assert refused.value.code == "E_BROKER_BLOCKED"
    line = eventually(lambda: told, timeout=60)[0]
    assert "its memory or disk; next: rabbitmq-diagnostics alarms; given up in" in line
    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(30)]
    site.quiet()
    # each child once; the refused call may have been on its way
    assert site.rows("SELECT count(*) FROM pyfi.outcome") in ([(60,)], [(62,)])


def test_a_purge_leaves_a_record_of_every_call(site: Site) -> None:
    futures = site.submit("p.work", [(number, str(site.runs)) for number in range(500)])

    assert site.client.operations.purge(site.queue) == 500

    for future in futures:
        with pytest.raises(Cancelled, match=f"purged from queue {site.queue}"):
            future.result(timeout=30)
    assert site.rows("SELECT what, detail FROM pyfi.event WHERE kind = 'queue' AND what LIKE 'purged%%'") == [
        ("purged, 500 calls", {"count": 500})
    ]
    site.quiet()
    assert site.executions() == {}


def test_a_queue_that_an_operator_deleted_is_declared_again(site: Site, own_rabbitmq: RabbitMQ) -> None:
    site.agent()
    site.ready(2)
    assert site.client.call("p.work", 1, str(site.runs), timeout=30) == 2
    (name,) = [
        line for line in own_rabbitmq.ctl("list_queues", "-p", "pyfi", "name").splitlines() if site.queue in line
    ]

    own_rabbitmq.ctl("delete_queue", "-p", "pyfi", name)
    futures = site.submit("p.work", [(number, str(site.runs)) for number in range(100)])

    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(100)]
    site.quiet()


def test_an_agent_declares_the_queue_that_its_messages_miss(site: Site, own_rabbitmq: RabbitMQ) -> None:
    flag = site.home / "flag"
    site.client.network.add_socket(name="p.needs", queue=site.queue, processor="p", task="needs")
    site.agent()
    site.ready(2)
    (future,) = site.submit("p.needs", [(5, str(site.runs), str(flag))])
    held = "SELECT count(*) FROM pyfi.hold WHERE state = 'DUE'"
    # its retry is made to wait, and its queue goes meanwhile
    eventually(lambda: change(site, "UPDATE pyfi.hold SET due = now() + interval '1 hour' WHERE state = 'DUE'"))
    for line in own_rabbitmq.ctl("list_queues", "-p", "pyfi", "name").splitlines():
        if site.queue in line:
            own_rabbitmq.ctl("delete_queue", "-p", "pyfi", line)
    flag.touch()
    assert site.rows(held) == [(1,)]

    change(site, "UPDATE pyfi.hold SET due = now()")

    assert future.result(timeout=60) == 5
    site.quiet()
