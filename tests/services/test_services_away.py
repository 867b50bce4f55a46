"""A broker or a database that is away or silent: told with what it is, given up in time, and nothing hangs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from pyfi_hpc import postgres
from pyfi_hpc.brokers.memory import Hub, MemoryBroker
from pyfi_hpc.brokers.rabbitmq import RabbitBroker
from pyfi_hpc.cli.main import run
from pyfi_hpc.client.client import Client
from pyfi_hpc.client.futures import Future
from pyfi_hpc.client.link import Link
from pyfi_hpc.client.notices import Silence
from pyfi_hpc.client.waiter import Waiter
from pyfi_hpc.errors import BrokerUnavailable, DatabaseUnavailable
from pyfi_hpc.wire.ids import new_id
from tests.services.client_support import Place, settings_with
from tests.support import eventually

#: So long that whoever waits for it is taken to wait for ever.
HOUR = "3600"


@pytest.fixture(params=["refuses", "is silent"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port of this machine behind which nobody is, or somebody who never says a word."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        if request.param == "is silent":
            made.listen(50)
        yield made.getsockname()[1]


@pytest.fixture
def name(database_uri: str) -> str:
    """A socket whose queue is declared, as far as the record knows."""
    return Place(database_uri, MemoryBroker(Hub())).socket("double")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handshake without an answer is given up early."""
    monkeypatch.setattr("pyfi_hpc.brokers.rabbitmq.address.STACK_SECONDS", 1)
    monkeypatch.setattr("pyfi_hpc.brokers.rabbitmq.consumer.LISTENING_SECONDS", 0.5)
    monkeypatch.setitem(postgres.LINK, "connect_timeout", 2)


def amqp(port: int) -> str:
    return f"amqp://ana:secret@127.0.0.1:{port}/"


def test_a_broker_that_is_away_is_told_with_its_address_and_why(port: int) -> None:
    with pytest.raises(BrokerUnavailable, match=r"Connection refused|takes connections and does not answer") as away:
        RabbitBroker(amqp(port)).check()
    assert f"127.0.0.1:{port}" in str(away.value)
    assert "secret" not in str(away.value)


def test_submits_to_a_broker_that_is_away_are_refused_one_after_the_other(
    port: int, database_uri: str, name: str, tmp_path: Path
) -> None:
    settings = settings_with(database_uri, tmp_path, connect_seconds=0.5)
    with Client(settings, broker_uri=amqp(port)) as client:
        for _ in range(2):
            with pytest.raises(BrokerUnavailable, match="E_BROKER") as refused:
                client.submit(name, 1)
            assert "nothing was accepted" in str(refused.value)
        assert len(client.session.waiter) == 0


def test_a_call_that_is_to_start_later_needs_no_broker(port: int, database_uri: str, name: str, tmp_path: Path) -> None:
    with Client(settings_with(database_uri, tmp_path), broker_uri=amqp(port)) as client:
        future = client.submit(name, 1, delay=3600)
        assert future.status == "WAITING"
        assert future.cancel()


def test_a_typed_call_is_given_up_within_its_time(
    port: int,
    database_uri: str,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PYFI_HOME", str(tmp_path))
    monkeypatch.setenv("PYFI_CLIENT_CONNECT_SECONDS", HOUR)
    monkeypatch.setenv("PYFI_DATABASE_URI", database_uri)
    monkeypatch.setenv("PYFI_BROKER_URI", amqp(port))
    assert run(["call", name, "1", "--timeout", "1"]) == 3
    assert "nothing was accepted (E_BROKER)" in capfd.readouterr().err

    monkeypatch.setenv("PYFI_DATABASE_URI", f"postgresql://ana:secret@127.0.0.1:{port}/pyfi")
    monkeypatch.setattr("pyfi_hpc.client.link.QUIET_SECONDS", 0.3)
    for command in (["call", name, "1", "-o", "json"], ["wait", "0198c7a2-4f00-7abc-8def-001122334455"]):
        assert run([*command, "--timeout", "1"]) in (3, 4)
        said = capfd.readouterr().err
        assert f"pyfi: waiting for the database at 127.0.0.1:{port}, which does not answer" in said
        assert "secret" not in said
    assert "E_DB_UNAVAILABLE" in said


def test_whoever_waits_for_a_database_is_told_once(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyfi_hpc.client.link.QUIET_SECONDS", 0.2)
    told: list[str] = []
    link = Link(f"postgresql://ana:secret@127.0.0.1:{port}/pyfi", "test", 1.0, told.append)
    with pytest.raises(DatabaseUnavailable):
        link.run(lambda cursor: cursor.execute("SELECT 1"))
    assert told == [
        f"waiting for the database at 127.0.0.1:{port}, which does not answer; next: pyfi doctor; given up in 1 s"
    ]
    # one who does not want to wait is told nothing
    with pytest.raises(DatabaseUnavailable):
        link.run(lambda cursor: cursor.execute("SELECT 1"), patience=0.0)
    assert len(told) == 1


def test_whoever_waits_for_outcomes_is_told_that_the_database_is_away(port: int) -> None:
    told: list[str] = []
    link = Link(f"postgresql://pyfi@127.0.0.1:{port}/pyfi", "client waiter", 10.0)
    waiter = Waiter(link, "pyfi", lambda _: None, Silence("there", told.append, seconds=0.01))
    waiter.watch([Future(cast(Any, None), new_id())])
    eventually(lambda: told, timeout=60)
    assert told[0].startswith("waiting for the outcome of 1 call: the database at there does not answer")
    assert len(waiter.close()) == 1
    assert len(told) == 1


def test_a_database_that_answers_is_no_reason_for_words(database_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("pyfi_hpc.client.link.QUIET_SECONDS", 3600)
    link = Link(database_uri, "test", 10_000.0, told.append)

    def ask(cursor: Any) -> Any:
        cursor.execute("SELECT 1")
        return cursor.fetchone()[0]

    assert [link.run(ask) for _ in range(3)] == [1, 1, 1]
    link.close()
    # whoever would have said something is gone
    eventually(lambda: not [each for each in threading.enumerate() if isinstance(each, threading.Timer)])
    assert told == []
