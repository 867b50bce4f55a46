"""Postgres dies, loses its sessions, or stalls, while RabbitMQ and agents go on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg2
import pytest

from pyfi_hpc.agent.spool import Spool
from pyfi_hpc.box.postgres import Postgres
from pyfi_hpc.box.rabbitmq import RabbitMQ
from pyfi_hpc.processes import children
from tests.faults.own import Load, as_admin, site_on
from tests.site import Site
from tests.support import eventually


@pytest.fixture(params=["postgres", "rabbitmq"])
def site(
    request: pytest.FixtureRequest, own_postgres: Postgres, shared_rabbitmq: RabbitMQ, home: Path
) -> Iterator[Site]:
    """Two workers, on each kind of broker."""
    uri = shared_rabbitmq.uri if request.param == "rabbitmq" else ""
    with site_on(own_postgres, home, uri) as made:
        made.processor("work", workers=2)
        yield made


@pytest.fixture
def rabbit_site(own_postgres: Postgres, shared_rabbitmq: RabbitMQ, home: Path) -> Iterator[Site]:
    """Two workers behind RabbitMQ."""
    with site_on(own_postgres, home, shared_rabbitmq.uri) as made:
        made.processor("work", workers=2)
        yield made


def spooled(site: Site) -> int:
    """Bytes in spools."""
    return sum(path.stat().st_size for path in (site.home / "state").glob("nodes/*/*/spool/*.spool"))


def spool_entries(site: Site) -> int:
    """Values in spools."""
    folders = (site.home / "state").glob("nodes/*/*/spool")
    return sum(len(entries) for folder in folders for _, entries in Spool(folder, b"").left_over())


def test_nothing_is_lost_while_postgres_is_away(rabbit_site: Site, own_postgres: Postgres) -> None:
    site = rabbit_site
    site.agent()
    site.ready(2)

    with Load(site, seconds=0.02, lot=5) as load:
        eventually(lambda: len(load.futures) >= 50, timeout=30)
        own_postgres.stop("immediate")
        try:
            before = len(load.futures)
            # accepting goes on: the broker holds it
            eventually(lambda: len(load.futures) >= before + 50, timeout=30)
            eventually(lambda: spooled(site) > 0, timeout=30)
        finally:
            own_postgres.start()

    load.all_right()
    site.quiet()
    # nothing was acked before its commit, and nothing ran again for it
    assert max(site.executions().values()) == 1
    assert spooled(site) == 0


def test_what_a_dead_agent_spooled_is_committed_by_the_next(rabbit_site: Site, own_postgres: Postgres) -> None:
    site = rabbit_site
    first = site.agent()
    site.ready(2)
    futures = site.submit("p.work", [(number, str(site.runs), 3.0) for number in range(2)])
    eventually(lambda: len(site.executions()) == 2)

    own_postgres.stop("immediate")
    try:
        eventually(lambda: "the database is away" in first.log.read_text(), timeout=20)
        # both finish while it is away, the second one while the first is tried again and again
        eventually(lambda: spool_entries(site) == 2, timeout=20)
        first.kill()
    finally:
        own_postgres.start()
    site.agent()

    assert [future.result(timeout=60) for future in futures] == [0, 2]
    site.quiet()
    assert site.executions() == {future.id: 1 for future in futures}


@contextmanager
def cutting(postgres: Postgres, seconds: float) -> Iterator[None]:
    """Meanwhile every session of the ordinary role is terminated, again and again."""
    enough = threading.Event()

    def cut() -> None:
        while not enough.wait(seconds):
            with suppress(psycopg2.Error):
                as_admin(postgres, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", "pyfi")

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def sessions(site: Site) -> int:
    """How many there are on the site's database, besides the one that asks."""
    query = "SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database() AND usename = 'pyfi'"
    return int(site.rows(query)[0][0])


def test_cut_sessions_cost_nothing_but_time(site: Site, own_postgres: Postgres) -> None:
    site.agent()
    site.ready(2)
    with Load(site) as load:
        eventually(lambda: len(load.futures) >= 100, timeout=30)
    load.all_right()
    before = sessions(site)

    with Load(site) as load, cutting(own_postgres, 0.02):
        time.sleep(4)

    load.all_right()
    site.quiet()
    assert len(load.futures) == len(set(load.futures)) == len({future.id for future in load.futures})
    eventually(lambda: sessions(site) <= before + 2, timeout=20)


@pytest.mark.parametrize("site", ["postgres"], indirect=True)  # where the broker stalls with it
def test_a_stalled_database_is_waited_for(site: Site, own_postgres: Postgres) -> None:
    site.agent()
    site.ready(2)
    with Load(site, seconds=0.01, lot=5) as load:
        eventually(lambda: len(load.futures) >= 50, timeout=30)
        assert own_postgres.pid
        stalled = [own_postgres.pid, *children(own_postgres.pid)]
        for pid in stalled:
            os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(12)
        finally:
            for pid in stalled:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        after = len(load.futures)
        eventually(lambda: len(load.futures) >= after + 20, timeout=60)

    load.all_right()
    site.quiet()
