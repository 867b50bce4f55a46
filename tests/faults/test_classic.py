"""Classic queues of RabbitMQ keep the same promises on one broker, without its count of deliveries."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyfi_hpc.box.postgres import Postgres
from pyfi_hpc.box.rabbitmq import RabbitMQ
from pyfi_hpc.brokers.base import TaskQueue
from pyfi_hpc.errors import BadInput
from tests.faults.own import Load, site_on
from tests.site import Site
from tests.support import eventually


@pytest.fixture
def site(own_postgres: Postgres, own_rabbitmq: RabbitMQ, home: Path) -> Iterator[Site]:
    """A site whose queue is a classic one."""
    with site_on(own_postgres, home, own_rabbitmq.uri) as made:
        made.queue = f"q{uuid.uuid4().hex[:10]}"
        made.client.network.add_queue(name=made.queue, kind="classic")
        yield made


def test_nothing_is_lost_when_agent_and_broker_are_killed(site: Site, own_rabbitmq: RabbitMQ) -> None:
    site.processor("work", workers=2)
    agent = site.agent()
    site.ready(2)

    with Load(site) as load:
        eventually(lambda: len(load.futures) > 100)
        agent.kill()
        site.agent(host="host2")
        eventually(lambda: len(load.futures) > 200)
        own_rabbitmq.restart(kill=True)
        before = len(load.futures)
        eventually(lambda: len(load.futures) > before + 100)

    load.all_right()
    site.quiet()


def test_a_call_that_kills_its_agent_dies_alone_though_nobody_counts_deliveries(site: Site) -> None:
    site.processor("kills_agent", workers=1)
    ((key, generation),) = site.rows("SELECT task_key, generation FROM pyfi.task_queue")
    with pytest.raises(BadInput, match="another x-queue-type") as refused:
        site.client.session.broker.declare(TaskQueue("default", site.queue, key, generation))
    assert refused.value.code == "E_QUEUE_MISMATCH"
    site.agent(respawn=True)

    futures = site.submit("p.kills_agent", [(number, str(site.runs), 3) for number in range(8)])

    good = [future for number, future in enumerate(futures) if number != 3]
    assert [future.result(timeout=90) for future in good] == [2 * number for number in range(8) if number != 3]
    eventually(lambda: site.outcomes().get(futures[3].id) == "DEAD", timeout=90)
    assert set(site.causes(futures[3])) == {"agent_lost"}
    site.quiet()
