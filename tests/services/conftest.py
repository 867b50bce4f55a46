"""Real services, one of each for the session. A test that stops or kills one starts its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyfi_hpc.box.postgres import Postgres
from pyfi_hpc.box.rabbitmq import RabbitMQ
from pyfi_hpc.db import schema
from pyfi_hpc.db.embedded import ROLE, EmbeddedPostgres
from tests.services.client_support import World
from tests.services.databases import new_database
from tests.services.rabbitmq_support import RabbitService


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """RabbitMQ from Debian's package."""
    with RabbitMQ() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """PostgreSQL from Debian's package, over TCP."""
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def embedded_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """The server of embedded mode, on a state directory of its own."""
    server = EmbeddedPostgres.start(tmp_path_factory.mktemp("embedded"))
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="module")
def rabbitmq_service() -> Iterator[RabbitService]:
    """A RabbitMQ of the module's own, which its tests may kill."""
    with RabbitMQ() as server:
        yield RabbitService(server)


@pytest.fixture(scope="module")
def database_uri(embedded_postgres: EmbeddedPostgres) -> Iterator[str]:
    """The ordinary role's address of a database of the module's own, with our schema."""
    with new_database(embedded_postgres) as database:
        schema.init(database.admin_uri, grant_to=ROLE)
        yield database.uri


@pytest.fixture
def close() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def world(database_uri: str, tmp_path: Path, close: ExitStack) -> World:
    return World(database_uri, tmp_path, close)
