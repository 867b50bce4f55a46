"""A site for each test, on each kind of broker. Tests that kill a service start one of their own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyfi_hpc.box.cluster import Cluster
from pyfi_hpc.box.postgres import Postgres
from pyfi_hpc.box.rabbitmq import RabbitMQ
from pyfi_hpc.db import schema
from pyfi_hpc.db.embedded import ROLE, EmbeddedPostgres
from tests.services.databases import new_database
from tests.site import Site

BROKERS = ("postgres", "rabbitmq")


@pytest.fixture(scope="session")
def shared_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One server; every site has a database of its own on it."""
    server = EmbeddedPostgres.start(tmp_path_factory.mktemp("faults"))
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def shared_rabbitmq() -> Iterator[RabbitMQ]:
    """One server; every site has queues of its own in it."""
    with RabbitMQ() as server:
        yield server


@pytest.fixture(scope="module")
def own_rabbitmq() -> Iterator[RabbitMQ]:
    """A server of the module's own: a test may hurt it, and leaves it running."""
    with RabbitMQ() as server:
        yield server


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """A server of the module's own: a test may hurt it, and leaves it running."""
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster]:
    """Two nodes beside each other, for anybody; a test may hurt a daemon, and leaves it running."""
    with Cluster(2, cpus=4, gpus=0) as cluster:
        yield cluster


@pytest.fixture(params=BROKERS)
def broker_uri(request: pytest.FixtureRequest) -> str:
    """Empty for the embedded broker, else RabbitMQ's address."""
    return str(request.getfixturevalue("shared_rabbitmq").uri) if request.param == "rabbitmq" else ""


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder with a short path, for unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="pyfi-site-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def site(shared_postgres: EmbeddedPostgres, broker_uri: str, home: Path) -> Iterator[Site]:
    """An installation without agents; the test starts them."""
    with new_database(shared_postgres) as database:
        schema.init(database.admin_uri, grant_to=ROLE)
        made = Site(home, database.uri, broker_uri)
        yield made
        made.close()
