"""TLS to RabbitMQ: whole messages of any size, a broker that dies, and clear words for a wrong certificate."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from pyfi_hpc.box.rabbitmq import USER, VHOST, RabbitMQ
from pyfi_hpc.brokers.base import TaskQueue
from pyfi_hpc.brokers.rabbitmq import RabbitBroker
from pyfi_hpc.config import set_value
from pyfi_hpc.errors import BadInput, BrokerUnavailable
from tests.services.brokers_support import Inbox, a_message, a_queue, eventually, is_empty, outcome
from tests.services.certificates import Authority

#: A record of TLS holds 16 KiB, a frame of AMQP here 128 KiB.
SIZES = [0, 1, 2**14 - 1, 2**14 + 1, 100_000, 2**17, 2**17 + 1, 2**20 + 3]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[RabbitMQ]:
    """A node whose certificate is for `localhost` alone."""
    with RabbitMQ(certificate=authority.signed("broker", "DNS:localhost")) as server:
        yield server


def address(server: RabbitMQ, host: str = "localhost", port: int | None = None, **options: object) -> str:
    query = f"?{urlencode(options)}" if options else ""
    return f"amqps://{USER}:{server.password}@{host}:{port or server.tls_port}/{VHOST}{query}"


@pytest.fixture
def broker(server: RabbitMQ, authority: Authority) -> Iterator[RabbitBroker]:
    broker = RabbitBroker(address(server, cacertfile=authority.file), settle_seconds=0)
    yield broker
    broker.close()


@pytest.fixture
def queue(broker: RabbitBroker) -> TaskQueue:
    queue = a_queue()
    broker.declare(queue)
    return queue


def test_messages_of_every_size_go_in_and_out_whole(broker: RabbitBroker, queue: TaskQueue) -> None:
    bodies = [os.urandom(size) for size in SIZES] + [b"%d" % number for number in range(2000)]
    inbox = Inbox(ack=True)
    broker.consume(queue.name, prefetch=64, deliver=inbox)

    confirms = [broker.publish(a_message(queue, body)) for body in bodies]

    assert {outcome(confirm) for confirm in confirms} == {"held"}
    inbox.wait(len(bodies))
    assert sorted(inbox.bodies()) == sorted(bodies)
    eventually(lambda: is_empty(broker, queue))


def test_replies_and_hints_come_through(broker: RabbitBroker) -> None:
    replies: list[bytes] = []
    to = broker.reply_address(replies.append)
    large = os.urandom(200_000)
    broker.reply(to, b"small")
    broker.reply(to, large)
    eventually(lambda: replies == [b"small", large])


def test_a_broker_that_was_killed_is_found_again(server: RabbitMQ, authority: Authority, close: ExitStack) -> None:
    # settled: a younger quorum queue does not come back
    broker, queue, inbox = RabbitBroker(address(server, cacertfile=authority.file)), a_queue(), Inbox(ack=True)
    close.callback(broker.close)
    broker.declare(queue)
    broker.consume(queue.name, prefetch=8, deliver=inbox)
    before = [broker.publish(a_message(queue, os.urandom(50_000))) for _ in range(20)]
    assert {outcome(confirm) for confirm in before} == {"held"}
    server.ctl("eval", "mnesia:sync_log().")  # its record reaches the disk late

    server.kill()
    confirms = [broker.publish(a_message(queue, b"%d" % number + bytes(30_000))) for number in range(50)]
    server.start()

    assert {outcome(confirm) for confirm in confirms} == {"held"}
    eventually(lambda: len(set(inbox.bodies())) == 70)
    eventually(lambda: is_empty(broker, queue))


@pytest.mark.parametrize(
    ("host", "options", "says", "cure"),
    [
        ("localhost", {}, "cannot be trusted", "cacertfile="),
        ("localhost", {"cacertfile": "other"}, "cannot be trusted", "cacertfile="),
        ("127.0.0.1", {"cacertfile": "own"}, "for another host: IP address mismatch", "server_name_indication="),
        (
            "localhost",
            {"cacertfile": "own", "server_name_indication": "mq.example"},
            "for another host: Hostname mismatch",
            "server_name_indication=",
        ),
    ],
)
def test_a_certificate_that_is_not_the_broker_s_is_refused(
    server: RabbitMQ, authority: Authority, tmp_path: Path, host: str, options: dict[str, str], says: str, cure: str
) -> None:
    files = {"own": authority.file, "other": Authority(tmp_path, "other").file}
    named: dict[str, Any] = {name: files.get(value, value) for name, value in options.items()}
    broker = RabbitBroker(address(server, host, **named))
    try:
        with pytest.raises(BrokerUnavailable) as refused:
            broker.check()
    finally:
        broker.close()
    assert refused.value.code == "E_BROKER"
    assert says in refused.value.what
    assert cure in str(refused.value)
    assert server.password not in str(refused.value)


def test_another_name_of_the_broker_may_be_asked_for(server: RabbitMQ, authority: Authority) -> None:
    broker = RabbitBroker(address(server, "127.0.0.1", cacertfile=authority.file, server_name_indication="localhost"))
    broker.check()
    broker.close()


def test_a_port_without_tls_is_told(server: RabbitMQ, authority: Authority) -> None:
    broker = RabbitBroker(address(server, port=server.port, cacertfile=authority.file))
    try:
        with pytest.raises(BrokerUnavailable, match=r"no TLS with the broker(?s:.*)5671"):
            broker.check()
    finally:
        broker.close()


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("amqps://u:secret@h/v?cacertfile=/no/such.pem", "cacertfile /no/such.pem cannot be read: No such file"),
        ("amqps://u:secret@h/v?cacertfile=/etc/hostname", "cacertfile /etc/hostname cannot be read"),
        ("amqps://u:secret@h/v?certfile=/no/own.pem", "certfile or keyfile /no/own.pem cannot be read"),
        ("amqps://u:secret@h/v?verify=verify_none", "anybody could be taken for the broker"),
        ("amqp://u:secret@h/v?cacertfile=/etc/ssl/ca.pem", "cacertfile is for amqps://"),
    ],
)
def test_what_an_address_cannot_have_is_refused_before_anything_is_sent(uri: str, says: str) -> None:
    with pytest.raises(BadInput) as refused:
        RabbitBroker(uri)
    assert refused.value.code == "E_BROKER_URI"
    assert says in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_key_of_ours_that_others_can_read_is_refused(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.signed("client", "DNS:client")
    uri = f"amqps://u:secret@h/v?{urlencode({'certfile': certificate, 'keyfile': key})}"

    set_value(tmp_path / "mine.ini", "broker", "uri", uri)
    key.chmod(0o644)

    with pytest.raises(BadInput, match=r"client\.key can be read by others; chmod 600"):
        RabbitBroker(uri)
    with pytest.raises(BadInput, match=r"client\.key can be read by others; chmod 600"):
        set_value(tmp_path / "mine.ini", "broker", "uri", uri)
