"""The services in a box: they start, come back after a kill with what they held, and leave nothing behind."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import pika
import psycopg2
import pytest

from pyfi_hpc.box.ports import PORTS, lease_port
from pyfi_hpc.box.postgres import Postgres
from pyfi_hpc.box.rabbitmq import RabbitMQ
from pyfi_hpc.errors import DatabaseUnavailable
from pyfi_hpc.processes import alive, children
from tests.support import eventually


def connected(uri: str) -> psycopg2.extensions.connection:
    connection = psycopg2.connect(uri)
    connection.autocommit = True
    return connection


def channel_of(server: RabbitMQ) -> pika.adapters.blocking_connection.BlockingChannel:
    channel = pika.BlockingConnection(pika.URLParameters(server.uri)).channel()
    channel.confirm_delivery()
    return channel


def test_two_leases_never_name_the_same_port() -> None:
    leases = [lease_port() for _ in range(200)]
    numbers = {lease.number for lease in leases}
    for lease in leases:
        lease.release()
    assert len(numbers) == 200
    assert all(number in PORTS for number in numbers)


def test_a_port_somebody_listens_on_is_not_leased(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        number = busy.getsockname()[1]
        monkeypatch.setattr("pyfi_hpc.box.ports.PORTS", range(number, number + 1))
        with pytest.raises(OSError, match="no free port"):
            lease_port()


def test_postgres_takes_the_ordinary_role_over_tcp_and_refuses_a_wrong_password(postgres: Postgres) -> None:
    with closing(connected(postgres.uri())) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_user, usesuper FROM pg_user WHERE usename = current_user")
        assert cursor.fetchone() == ("pyfi", False)
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(postgres.uri().replace("pyfi:", "pyfi:x", 1))


def test_postgres_keeps_what_was_committed_when_it_is_killed() -> None:
    with Postgres() as server:
        with closing(connected(server.uri("pyfi_admin"))) as connection:
            connection.cursor().execute("CREATE TABLE kept AS SELECT 42 AS value")
        pid, port = server.pid, server.port
        assert pid is not None
        backends = children(pid)

        server.kill9()

        assert not any(alive(process) for process in [pid, *backends])
        assert server.pid is None
        server.start()
        assert server.port == port
        with closing(connected(server.uri("pyfi_admin"))) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT value FROM kept")
            assert cursor.fetchone() == (42,)
        server.restart("immediate")
        last, home = server.pid, server.log.parent
        assert home.exists()
    assert last is not None and not alive(last)
    assert not home.exists()


def test_rabbitmq_has_our_user_and_no_guest(rabbitmq: RabbitMQ) -> None:
    assert rabbitmq.ctl("list_users", "--no-table-headers").split() == ["pyfi", "[]"]
    assert rabbitmq.ctl("list_vhosts", "--no-table-headers").split() == ["pyfi"]
    guest = rabbitmq.uri.replace(f"pyfi:{rabbitmq.password}@", "guest:guest@")
    with pytest.raises(pika.exceptions.AMQPError):
        pika.BlockingConnection(pika.URLParameters(guest))


def test_rabbitmq_keeps_a_confirmed_message_when_it_is_killed_and_stalls_when_suspended() -> None:
    with RabbitMQ(consumer_timeout=123_000) as server:
        assert "123000" in server.ctl("eval", "application:get_env(rabbit, consumer_timeout).")
        channel = channel_of(server)
        channel.queue_declare("kept", durable=True)
        channel.basic_publish("", "kept", b"42", pika.BasicProperties(delivery_mode=2), mandatory=True)
        # the queue itself reaches the disk up to two seconds after it was declared
        server.ctl("eval", "mnesia:sync_log().")
        pid = server.pid
        assert pid is not None

        server.restart(kill=True)

        assert not alive(pid)
        channel = channel_of(server)
        assert channel.basic_get("kept", auto_ack=True)[2] == b"42"

        server.suspend()
        with socket.create_connection((server.address, server.port), timeout=5) as waiting:
            waiting.sendall(b"AMQP\x00\x00\x09\x01")
            waiting.settimeout(0.3)
            with pytest.raises(TimeoutError):
                waiting.recv(1)
            server.resume()
            waiting.settimeout(10)
            assert waiting.recv(1) == b"\x01"  # the method frame Connection.Start
        processes = [server.pid, *children(server.pid or 0)]
        epmd, home = server._epmd, server.console.parent
        assert home.exists()
    assert not any(alive(process) for process in processes if process)
    assert epmd is not None and not alive(epmd.pid)
    assert not home.exists()


def test_a_service_that_cannot_start_says_why_and_leaves_nothing() -> None:
    with (
        pytest.raises(DatabaseUnavailable, match="no_such_setting") as raised,
        Postgres(options={"no_such_setting": "1"}),
    ):
        pass
    log = Path(str(raised.value.at))
    assert log.name == "log"
    assert not log.parent.exists()


def test_eventually_fails_with_the_last_value() -> None:
    with pytest.raises(AssertionError, match="last seen: 0"):
        eventually(lambda: 0, timeout=0.05)
    assert eventually(iter([0, 0, 3]).__next__, timeout=5) == 3
