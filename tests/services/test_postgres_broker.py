"""What only the embedded broker has to show, beside the contract of all brokers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg2
import pytest

from pyfi_hpc.brokers.base import Publication
from pyfi_hpc.brokers.postgres import PostgresBroker
from pyfi_hpc.brokers.postgres.consumer import LARGE_BYTES, Consumer
from pyfi_hpc.db import binary
from pyfi_hpc.db.embedded import EmbeddedPostgres
from pyfi_hpc.wire.ids import new_id
from pyfi_hpc.wire.messages import Answer, Kind, Reply, decode_reply, encode
from tests.services.brokers_support import PATIENCE, Inbox, a_message, a_queue, eventually, outcome, prepare, send


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server of this module's own, with the broker's tables."""
    server = EmbeddedPostgres.start(tmp_path_factory.mktemp("broker"))
    prepare(server)
    yield server
    server.remove()


@pytest.fixture
def uri(server: EmbeddedPostgres) -> str:
    """Its address."""
    return server.uri()


@pytest.fixture
def broker(uri: str) -> Iterator[PostgresBroker]:
    """A broker there."""
    broker = PostgresBroker(uri)
    yield broker
    broker.close()


def ask(uri: str, query: str) -> Any:
    """The first value that `query` gives."""
    with closing(psycopg2.connect(uri)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(query)
        return cursor.fetchall()[0][0]


def backend(uri: str, part: str) -> int:
    """The server's process for one of the broker's sessions."""
    return int(ask(uri, f"SELECT pid FROM pg_stat_activity WHERE application_name = 'pyfi broker {part}'"))


def test_a_confirm_means_that_another_session_sees_the_row(uri: str, broker: PostgresBroker) -> None:
    queue = a_queue()
    broker.declare(queue)
    for number in range(1, 20):
        broker.publish(a_message(queue)).result(PATIENCE)
        held = "SELECT count(*) FROM pyfi.broker_message m JOIN pyfi.broker_queue q ON q.id = m.queue WHERE q.name = "
        assert ask(uri, f"{held} '{queue.name}'") == number


def test_what_is_confirmed_survives_the_server_whatever_the_default_for_commits(
    server: EmbeddedPostgres, uri: str
) -> None:
    lazy, queue = PostgresBroker(f"{uri}&options=-csynchronous_commit%3Doff"), a_queue()
    lazy.declare(queue)
    for number in range(1, 4):
        eventually(lazy.publishing)
        lazy.publish(a_message(queue)).result(PATIENCE)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        eventually(lambda: not server.running())
        EmbeddedPostgres.start(server.state_dir)
        assert lazy.depth(queue.name).ready == number
    lazy.close()


def test_a_batch_whose_session_breaks_before_the_commit_is_sent_again(uri: str, broker: PostgresBroker) -> None:
    queue = a_queue()
    broker.declare(queue)
    send(broker, queue, b"before")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ 'publisher' AND wait_event_type = 'Lock'"
    with closing(psycopg2.connect(uri)) as blocker:
        blocker.cursor().execute("LOCK TABLE pyfi.broker_message IN ACCESS EXCLUSIVE MODE")
        confirms = [broker.publish(a_message(queue)) for _ in range(10)]
        eventually(lambda: ask(uri, waiting) == 1)
        ask(uri, f"SELECT pg_terminate_backend({backend(uri, 'publisher')})")

    assert [outcome(confirm) for confirm in confirms] == ["held"] * 10
    assert broker.depth(queue.name).ready == 11


def test_the_newest_generation_of_a_queue_gets_what_is_published(broker: PostgresBroker) -> None:
    old = a_queue()
    new = replace(old, generation=2)
    broker.declare(old)
    send(broker, old, b"1")
    broker.declare(new)
    send(broker, new, b"2")

    assert [seen.body for seen in broker.peek(old.name, 5)] == [b"1"]
    assert [seen.body for seen in broker.peek(new.name, 5)] == [b"2"]


def test_a_message_that_the_database_cannot_take_fails_alone(broker: PostgresBroker) -> None:
    queue = a_queue()
    broker.declare(queue)
    bad = Publication(queue.exchange, queue.key, b"body", message_id="nul \x00")

    confirms = [broker.publish(message) for message in (a_message(queue), bad, a_message(queue))]

    assert [outcome(confirm) for confirm in confirms] == ["held", "E_BROKER", "held"]


@pytest.mark.parametrize("spoken", [True, False], ids=["binary", "text"])
def test_messages_arrive_as_they_were_whichever_way_they_are_written(
    broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch, spoken: bool
) -> None:
    if not spoken:
        # as where libpq's functions cannot be had
        monkeypatch.setattr(binary, "query", lambda *_: None)
        monkeypatch.setattr(binary, "fetch", lambda *_: None)
    queue, inbox = a_queue(), Inbox(ack=True)
    broker.declare(queue)
    large = bytes(range(256)) * 256
    # what follows a large one is read in the same way
    bodies = [large, b"", large, b"'\\\"{}," * 100, bytes(range(256))]
    headers = {"reason": 'a "grün" one', "count": "3"}
    for body in bodies:
        sent = Publication(queue.exchange, queue.key, body, message_id="m", headers=headers)
        assert outcome(broker.publish(sent)) == "held"

    broker.consume(queue.name, prefetch=1, deliver=inbox)

    got = inbox.wait(len(bodies))
    assert [each.body for each in got] == bodies
    assert all(dict(each.headers) == headers for each in got)


def test_what_is_announced_while_a_large_message_is_claimed_is_heard(
    broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Consumer, "pause", 1000.0)  # else it would be found by and by
    queue, inbox, fetch = a_queue(), Inbox(), binary.fetch
    large = a_message(queue, bytes(LARGE_BYTES))

    def announced_meanwhile(connection: Any, *asked: Any) -> Any:
        found = fetch(connection, *asked)
        if len(found or ()) == 1 and len(inbox.deliveries) == 1:
            broker.publish(large).result(PATIENCE)
            binary.read(connection, "SELECT 1", [])
        return found

    monkeypatch.setattr(binary, "fetch", announced_meanwhile)
    broker.declare(queue)
    broker.consume(queue.name, prefetch=10, deliver=inbox)
    for count in (1, 2):
        broker.publish(large).result(PATIENCE)
        inbox.wait(count)

    assert len(inbox.wait(3)) == 3


def test_a_body_of_sixteen_mebibytes_passes(broker: PostgresBroker) -> None:
    queue, inbox, body = a_queue(), Inbox(ack=True), os.urandom(1 << 20) * 16
    broker.declare(queue)
    broker.consume(queue.name, prefetch=1, deliver=inbox)
    broker.publish(a_message(queue, body)).result(PATIENCE)
    assert inbox.wait(1)[0].body == body


def test_a_reply_larger_than_a_notification_comes_in_pieces(broker: PostgresBroker) -> None:
    answers = tuple(Answer(new_id(), Kind.VALUE, b"x" * 100) for _ in range(300))
    large = Answer(new_id(), Kind.VALUE, b"x" * 50_000)
    came: list[Answer] = []
    address = broker.reply_address(lambda body: came.extend(decode_reply(body).answers))

    broker.reply(address, encode(Reply(1, (*answers, large))))

    eventually(lambda: len(came) == 301)
    assert tuple(came) == (*answers, Answer(large.id, Kind.VALUE))


def test_hints_that_do_not_fit_are_dropped_and_publishing_goes_on(broker: PostgresBroker) -> None:
    queue, heard = a_queue(), list[str]()
    broker.declare(queue)
    broker.on_hint(queue.network, heard.append)
    broker.hint(queue.network, "x" * 9000)
    broker.hint(queue.network, "nul \x00")
    send(broker, queue, b"1")
    broker.hint(queue.network, "fits")
    eventually(lambda: heard == ["fits"])


def test_a_forged_reply_is_ignored(uri: str, broker: PostgresBroker) -> None:
    came: list[bytes] = []
    address = broker.reply_address(came.append)
    ask(uri, f"SELECT pg_notify('{address}', 'not base64!')")
    broker.reply(address, b"ours")
    eventually(lambda: came == [b"ours"])


def test_an_idle_consumer_asks_about_once_a_second(uri: str, broker: PostgresBroker) -> None:
    queue = a_queue()
    broker.declare(queue)
    broker.consume(queue.name, prefetch=1, deliver=Inbox(ack=True))
    sent = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    eventually(lambda: broker.depth(queue.name).consumers == 1)

    before = ask(uri, sent)
    started = time.monotonic()
    eventually(lambda: time.monotonic() - started > 3)
    committed = ask(uri, sent) - before

    # a sweep and a look for messages each second, and our own question
    assert committed <= 6 * (time.monotonic() - started)


def test_close_does_not_wait_for_a_server_that_hangs(uri: str) -> None:
    broker, queue = PostgresBroker(uri), a_queue()
    broker.declare(queue)
    send(broker, queue, b"1")
    hanging = backend(uri, "publisher")
    os.kill(hanging, signal.SIGSTOP)
    try:
        confirm = broker.publish(a_message(queue))
        started = time.monotonic()
        broker.close()
        assert time.monotonic() - started < 10
        assert outcome(confirm, timeout=0) == "E_BROKER"
    finally:
        os.kill(hanging, signal.SIGCONT)


def test_a_dead_session_is_swept_without_a_lease_running_out(uri: str, broker: PostgresBroker) -> None:
    queue, first, again = a_queue(), Inbox(), Inbox()
    broker.declare(queue)
    other = PostgresBroker(uri)
    other.consume(queue.name, prefetch=1, deliver=first)
    send(broker, queue, b"1")
    first.wait(1)
    sessions = "SELECT count(*) FROM pyfi.broker_consumer"
    assert ask(uri, sessions) == 1

    broker.consume(queue.name, prefetch=1, deliver=again)
    eventually(lambda: ask(uri, sessions) == 2)
    other.close()

    assert again.wait(1, timeout=3)[0].redelivered
    eventually(lambda: ask(uri, sessions) == 1)


@pytest.mark.slow
def test_claims_stay_fast_over_a_long_backlog(broker: PostgresBroker) -> None:
    queue, inbox, total = a_queue(), Inbox(ack=True), 50_000
    broker.declare(queue)
    for _ in range(10):
        send(broker, queue, *[b"x" * 100] * (total // 10))

    started = time.monotonic()
    broker.consume(queue.name, prefetch=200, deliver=inbox)
    inbox.wait(total // 5)
    fifth = time.monotonic() - started
    inbox.wait(total)
    whole = time.monotonic() - started

    assert whole < 5 * 3 * fifth
    assert total / whole > 2000
