"""Real services, one of each for the session. A test that stops or kills one starts its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyfi_hpc.box.postgres import Postgres
from pyfi_hpc.box.rabbitmq import RabbitMQ
from pyfi_hpc.db.embedded import EmbeddedPostgres
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
