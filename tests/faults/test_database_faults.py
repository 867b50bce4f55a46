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
from click.testing import CliRunner

from pyfi_hpc.agent.commit.spool import Spool
from pyfi_hpc.box.postgres import Postgres
from pyfi_hpc.box.rabbitmq import RabbitMQ
from pyfi_hpc.cli.main import pyfi
from pyfi_hpc.client.futures import Future
from pyfi_hpc.errors import DatabaseUnavailable, Unavailable
from pyfi_hpc.processes import children
from tests.faults.own import Load, as_admin, site_on, small_tablespace
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


@contextmanager
def stalled(postgres: Postgres) -> Iterator[None]:
    """Meanwhile no process of the server runs; its connections stay open."""
    assert postgres.pid
    pids = [postgres.pid, *children(postgres.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_while_the_database_stalls_calls_are_accepted_and_who_asks_it_is_told(
    rabbit_site: Site, own_postgres: Postgres
) -> None:
    site = rabbit_site
    site.agent()
    site.ready(2)
    with Load(site, seconds=0.01, lot=5) as load:
        eventually(lambda: len(load.futures) >= 50, timeout=30)
        with stalled(own_postgres):
            before = len(load.futures)
            impatient = {**site.environment, "PYFI_CLIENT_CONNECT_SECONDS": "2"}
            told = CliRunner().invoke(pyfi, ["ls", "queues"], env=impatient).exception
            eventually(lambda: len(load.futures) >= before + 50, timeout=60)

    assert isinstance(told, DatabaseUnavailable)
    load.all_right()
    site.quiet()
    # nothing was acked before its commit, and nothing ran again for it
    assert max(site.executions().values()) == 1


@pytest.mark.parametrize("site", ["postgres"], indirect=True)  # where the broker stalls with it
def test_a_stalled_database_is_waited_for(site: Site, own_postgres: Postgres) -> None:
    site.agent()
    site.ready(2)
    with Load(site, seconds=0.01, lot=5) as load:
        eventually(lambda: len(load.futures) >= 50, timeout=30)
        with stalled(own_postgres):
            time.sleep(12)
        after = len(load.futures)
        eventually(lambda: len(load.futures) >= after + 20, timeout=60)

    load.all_right()
    site.quiet()


def fill(disk: Path) -> Path:
    """A file that takes all the space that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 65_536):
            pass
    return filler


@pytest.mark.root
def test_a_full_database_is_told_and_takes_its_calls_once_there_is_space(own_postgres: Postgres, home: Path) -> None:
    home.chmod(0o711)  # the server's account passes through
    with (
        small_tablespace(own_postgres, home / "disk", 96) as disk,
        site_on(own_postgres, home, tablespace="small", PYFI_CLIENT_CONNECT_SECONDS="3") as site,
    ):
        site.processor("double", workers=2)
        site.agent()
        site.ready(2)
        accepted: list[tuple[bytes, Future]] = []

        def submit() -> None:
            value = os.urandom(60_000)
            accepted.append((value, site.client.submit("p.double", value)))

        submit()
        filler = fill(disk)
        with pytest.raises(Unavailable) as caught:
            for _ in range(1000):
                submit()
        assert caught.value.code == "E_STORAGE_FULL"

        filler.unlink()
        submit()
        assert all(future.result(timeout=60) == 2 * value for value, future in accepted)
        site.quiet()


@pytest.mark.root
def test_what_cannot_be_committed_for_want_of_space_is_committed_later(
    own_postgres: Postgres, shared_rabbitmq: RabbitMQ, home: Path
) -> None:
    home.chmod(0o711)
    with (
        small_tablespace(own_postgres, home / "disk", 96) as disk,
        site_on(own_postgres, home, shared_rabbitmq.uri, tablespace="small") as site,
    ):
        site.processor("double", workers=2)
        agent = site.agent()
        site.ready(2)
        filler = fill(disk)
        inputs = [os.urandom(60_000) for _ in range(100)]
        futures = site.submit("p.double", [(each,) for each in inputs])
        eventually(lambda: "No space left" in agent.log.read_text(), timeout=60)

        filler.unlink()
        assert [future.result(timeout=60) for future in futures] == [2 * each for each in inputs]
        site.quiet()
