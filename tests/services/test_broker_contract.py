"""What every kind of broker promises (`pyfi_hpc.brokers.base`), shown on each of them."""

from __future__ import annotations

import os
import queue as queues
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from pyfi_hpc.brokers.base import Broker, Confirm, Delivery, Reason, Subscription, TaskQueue, dead_queue
from pyfi_hpc.db.embedded import EmbeddedPostgres
from pyfi_hpc.errors import BadInput, PyfiError
from tests.services.brokers_support import (
    PATIENCE,
    Inbox,
    MemoryService,
    PostgresService,
    Service,
    a_message,
    a_queue,
    depth_is,
    eventually,
    is_empty,
    outcome,
    prepare,
    send,
)
from tests.services.rabbitmq_support import ClassicService

KINDS = ("memory", "postgres", "rabbitmq", "classic")
#: Those with a process of their own, which other processes reach and which can be killed.
SERVED = ("postgres", "rabbitmq")

HOLDER = """
import signal, sys, structlog
structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
from pyfi_hpc.brokers.connect import connect
kind, uri, queue = sys.argv[1:]
broker = connect(None, database_uri=uri) if kind == "postgres" else connect(uri, database_uri="")
broker.consume(queue, prefetch=10, deliver=lambda delivery: print(delivery.body.decode(), flush=True))
signal.pause()
"""


@contextmanager
def holding(service: Service, queue: TaskQueue) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the message in `queue`; killed afterwards."""
    command = [sys.executable, "-c", HOLDER, service.kind, str(service.uri), queue.name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            # its log may come first
            assert b"held\n" in iter(process.stdout.readline, b"")
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def postgres_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresService]:
    """A server of this module's own: it is killed and started again."""
    state = tmp_path_factory.mktemp("broker")
    server = EmbeddedPostgres.start(state)
    prepare(server)

    def restart() -> None:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        eventually(lambda: not server.running())
        EmbeddedPostgres.start(state)

    yield PostgresService(server.uri(), restart)
    server.remove()


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Service:
    """The service of the kind that the test was asked for."""
    if request.param == "memory":
        return MemoryService()
    if request.param == "classic":
        return ClassicService(request.getfixturevalue("rabbitmq_service").server)
    found: Service = request.getfixturevalue(f"{request.param}_service")
    return found


@pytest.fixture
def connect(service: Service) -> Iterator[Callable[[], Broker]]:
    """Makes connections that are closed after the test."""
    made: list[Broker] = []

    def connected() -> Broker:
        made.append(service.connect())
        return made[-1]

    yield connected
    for broker in made:
        broker.close()


@pytest.fixture
def broker(connect: Callable[[], Broker]) -> Broker:
    """One connection."""
    return connect()


@pytest.fixture
def queue(broker: Broker) -> TaskQueue:
    """A declared queue of the test's own."""
    fresh = a_queue()
    broker.declare(fresh)
    return fresh


every_kind = pytest.mark.parametrize("service", KINDS, indirect=True)
served_kinds = pytest.mark.parametrize("service", SERVED, indirect=True)


@every_kind
class TestDelivery:
    """From the confirm to the ack."""

    def test_a_message_is_delivered_whole_and_gone_after_its_ack(self, broker: Broker, queue: TaskQueue) -> None:
        inbox = Inbox()
        broker.consume(queue.name, prefetch=5, deliver=inbox)

        sent = a_message(queue, bytes(range(256)))
        broker.publish(sent).result(PATIENCE)

        (delivery,) = inbox.wait(1)
        assert (delivery.body, delivery.content_type, delivery.queue) == (sent.body, sent.content_type, queue.name)
        assert (delivery.redelivered, delivery.delivery_count, delivery.content_encoding) == (False, 0, None)
        assert abs(time.monotonic() - delivery.received) < PATIENCE
        delivery.ack()
        eventually(lambda: is_empty(broker, queue))

    def test_a_confirmed_message_waits_for_a_consumer_that_comes_later(
        self, connect: Callable[[], Broker], queue: TaskQueue
    ) -> None:
        publisher = connect()
        send(publisher, queue, b"early")
        publisher.close()

        inbox = Inbox()
        connect().consume(queue.name, prefetch=1, deliver=inbox)

        assert [delivery.body for delivery in inbox.wait(1)] == [b"early"]

    def test_a_consumer_waits_for_a_queue_that_does_not_exist_yet(self, broker: Broker) -> None:
        inbox, later = Inbox(), a_queue()
        broker.consume(later.name, prefetch=1, deliver=inbox)

        broker.declare(later)
        send(broker, later, b"at last")

        assert [delivery.body for delivery in inbox.wait(1)] == [b"at last"]

    def test_one_consumer_gets_the_messages_of_one_publisher_in_order(self, broker: Broker, queue: TaskQueue) -> None:
        bodies = [str(number).encode() for number in range(2000)]
        send(broker, queue, *bodies)

        inbox = Inbox(ack=True)
        broker.consume(queue.name, prefetch=50, deliver=inbox)

        inbox.wait(len(bodies))
        assert inbox.bodies() == bodies

    def test_two_consumers_share_a_queue_without_overlap(self, connect: Callable[[], Broker], queue: TaskQueue) -> None:
        inboxes = [Inbox(ack=True), Inbox(ack=True)]
        for inbox in inboxes:
            connect().consume(queue.name, prefetch=5, deliver=inbox)

        send(connect(), queue, *(str(number).encode() for number in range(400)))

        eventually(lambda: sum(len(inbox.deliveries) for inbox in inboxes) >= 400)
        assert sorted(inboxes[0].bodies() + inboxes[1].bodies()) == sorted(str(n).encode() for n in range(400))
        assert all(inbox.deliveries for inbox in inboxes)

    def test_many_threads_publish_at_once(self, broker: Broker, queue: TaskQueue) -> None:
        def publish(name: int) -> None:
            send(broker, queue, *(f"{name}-{number}".encode() for number in range(50)))

        threads = [threading.Thread(target=publish, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert broker.depth(queue.name).ready == 400
        inbox = Inbox(ack=True)
        broker.consume(queue.name, prefetch=100, deliver=inbox)
        inbox.wait(400)
        for name in range(8):
            mine = [body for body in inbox.bodies() if body.startswith(f"{name}-".encode())]
            assert mine == [f"{name}-{number}".encode() for number in range(50)]

    def test_bodies_of_a_mebibyte_arrive_unchanged(self, broker: Broker, queue: TaskQueue) -> None:
        bodies = [bytes([number]) * (1 << 20) for number in range(8)]
        inbox = Inbox(ack=True)
        broker.consume(queue.name, prefetch=2, deliver=inbox)

        send(broker, queue, *bodies)

        inbox.wait(len(bodies))
        assert inbox.bodies() == bodies

    def test_a_callback_that_raises_does_not_end_the_consumer(self, broker: Broker, queue: TaskQueue) -> None:
        inbox = Inbox(ack=True)

        def picky(delivery: object) -> None:
            inbox(delivery)  # type: ignore[arg-type]
            raise ValueError("a fault of the caller's")

        broker.consume(queue.name, prefetch=1, deliver=picky)
        send(broker, queue, b"1", b"2")

        inbox.wait(2)
        assert inbox.bodies() == [b"1", b"2"]


@every_kind
class TestPrefetch:
    """How much a consumer holds."""

    def test_a_consumer_holds_at_most_its_prefetch(self, broker: Broker, queue: TaskQueue) -> None:
        send(broker, queue, *(str(number).encode() for number in range(10)))
        inbox = Inbox()
        broker.consume(queue.name, prefetch=3, deliver=inbox)

        first = inbox.wait(3)
        eventually(lambda: depth_is(broker, queue, ready=7, unacked=3, consumers=1))
        assert len(inbox.deliveries) == 3

        first[0].ack()
        inbox.wait(4)
        eventually(lambda: depth_is(broker, queue, ready=6, unacked=3, consumers=1))
        assert len(inbox.deliveries) == 4

    def test_resize_lets_a_consumer_hold_more_and_then_fewer(self, broker: Broker, queue: TaskQueue) -> None:
        send(broker, queue, *(str(number).encode() for number in range(10)))
        inbox = Inbox()
        subscription = broker.consume(queue.name, prefetch=1, deliver=inbox)
        inbox.wait(1)

        subscription.resize(4)
        held = inbox.wait(4)
        eventually(lambda: depth_is(broker, queue, ready=6, unacked=4, consumers=1))

        subscription.resize(2)
        acked = 0

        def holds_two() -> bool:
            """Acks until it does: what was acked before the broker heard of the new number was still made up for."""
            nonlocal acked
            if len(inbox.deliveries) - acked > 2:
                inbox.deliveries[acked].ack()
                acked += 1
            return depth_is(broker, queue, ready=8 - acked, unacked=2, consumers=1)

        eventually(holds_two)
        assert 2 <= acked < 8 and len(held) == 4

    def test_what_was_delivered_before_cancel_can_still_be_acked(
        self, connect: Callable[[], Broker], queue: TaskQueue
    ) -> None:
        broker, inbox = connect(), Inbox()
        subscription = broker.consume(queue.name, prefetch=2, deliver=inbox)
        send(broker, queue, b"1", b"2", b"3")
        held = inbox.wait(2)

        subscription.cancel()
        eventually(lambda: depth_is(broker, queue, ready=1, unacked=2, consumers=0))
        for delivery in held:
            delivery.ack()

        eventually(lambda: depth_is(broker, queue, ready=1, unacked=0, consumers=0))
        assert inbox.bodies() == [b"1", b"2"]


@every_kind
class TestRedelivery:
    """What is unacked comes back."""

    def test_dropped_deliveries_come_back_at_once_in_their_place(
        self, service: Service, broker: Broker, queue: TaskQueue
    ) -> None:
        inbox = Inbox()
        subscription = broker.consume(queue.name, prefetch=2, deliver=inbox)
        send(broker, queue, b"1", b"2", b"3")
        inbox.wait(2)

        subscription.drop()

        again = Inbox()
        broker.consume(queue.name, prefetch=5, deliver=again)
        again.wait(3, timeout=3)
        # the kinds differ in whether what came back stands before or after what was ready
        assert sorted(again.bodies()) == [b"1", b"2", b"3"]
        assert {d.body: (d.redelivered, d.delivery_count) for d in again.deliveries} == {
            b"1": (True, service.counts),
            b"2": (True, service.counts),
            b"3": (False, 0),
        }

    def test_a_message_comes_back_when_its_consumer_closes(
        self, service: Service, connect: Callable[[], Broker], queue: TaskQueue
    ) -> None:
        first, inbox = connect(), Inbox()
        first.consume(queue.name, prefetch=2, deliver=inbox)
        send(connect(), queue, b"mine")
        inbox.wait(1)

        first.close()

        again = Inbox()
        connect().consume(queue.name, prefetch=2, deliver=again)
        (delivery,) = again.wait(1, timeout=5)
        assert (delivery.body, delivery.redelivered, delivery.delivery_count) == (b"mine", True, service.counts)

    def test_acks_given_before_close_count(self, connect: Callable[[], Broker], queue: TaskQueue) -> None:
        first, inbox = connect(), Inbox(ack=True)
        first.consume(queue.name, prefetch=100, deliver=inbox)
        send(connect(), queue, *[b"x"] * 100)
        inbox.wait(100)

        first.close()

        assert is_empty(connect(), queue)

    def test_a_cut_connection_gives_messages_back_and_its_old_acks_are_void(
        self, service: Service, broker: Broker, queue: TaskQueue
    ) -> None:
        inbox = Inbox()
        broker.consume(queue.name, prefetch=1, deliver=inbox)
        send(broker, queue, b"1")
        (old,) = inbox.wait(1)

        service.cut()

        again = inbox.wait(2)[1]
        assert (again.body, again.redelivered, again.delivery_count) == (b"1", True, service.counts)
        old.ack()
        # an ack that is not void would be done before this message is
        eventually(lambda: outcome(broker.publish(a_message(queue, b"2"))) == "held")
        eventually(lambda: depth_is(broker, queue, ready=1, unacked=1, consumers=1))
        again.ack()
        inbox.wait(3)[2].ack()
        eventually(lambda: is_empty(broker, queue))

    def test_a_cancelled_subscription_stays_so_when_its_connection_is_cut(
        self, service: Service, connect: Callable[[], Broker], broker: Broker, queue: TaskQueue
    ) -> None:
        cancelled, other, busy = Inbox(), Inbox(), a_queue()
        broker.declare(busy)
        subscription = broker.consume(queue.name, prefetch=2, deliver=cancelled)
        broker.consume(busy.name, prefetch=2, deliver=other)
        send(broker, queue, b"1")
        cancelled.wait(1)
        # what it has in hand keeps its channel open
        subscription.cancel()
        subscription.resize(4)
        eventually(lambda: depth_is(broker, queue, ready=0, unacked=1, consumers=0))

        service.cut()

        eventually(lambda: outcome(broker.publish(a_message(busy, b"2"))) == "held")
        other.wait(1)
        eventually(lambda: depth_is(broker, queue, ready=1, unacked=0, consumers=0))
        fresh = Inbox(ack=True)
        connect().consume(queue.name, prefetch=2, deliver=fresh)
        (again,) = fresh.wait(1)
        # it went back once; a classic queue does not count
        assert (again.body, again.redelivered, again.delivery_count <= 1) == (b"1", True, True)
        eventually(lambda: is_empty(broker, queue))
        assert len(cancelled.deliveries) == 1


LIMIT_HOME = {"memory": "memory", "postgres": "postgres.consumer"}


# RabbitMQ counts by itself, up to 100: test_rabbitmq.py lets it
@pytest.mark.parametrize("service", LIMIT_HOME, indirect=True)
def test_a_message_that_comes_back_too_often_goes_to_the_dead_letters(
    broker: Broker, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch, service: Service
) -> None:
    monkeypatch.setattr(f"pyfi_hpc.brokers.{LIMIT_HOME[service.kind]}.DELIVERY_LIMIT", 2)
    send(broker, queue, b"poison")

    inbox = Inbox()
    for seen in range(1, 4):
        subscription = broker.consume(queue.name, prefetch=1, deliver=inbox)
        assert inbox.wait(seen)[-1].delivery_count == seen - 1
        subscription.drop()
    broker.consume(queue.name, prefetch=1, deliver=inbox)

    dead = Inbox(ack=True)
    broker.consume(dead_queue(queue.network), prefetch=1, deliver=dead)
    (letter,) = dead.wait(1)
    assert letter.body == b"poison"
    assert letter.headers["x-pyfi-reason"] == Reason.DELIVERY_LIMIT
    assert (letter.headers["x-pyfi-exchange"], letter.headers["x-pyfi-key"]) == (queue.exchange, queue.key)
    assert len(inbox.deliveries) == 3


@every_kind
class TestRefusals:
    """What a confirm raises, and what `declare` refuses."""

    def test_a_message_that_no_queue_would_get_is_refused(self, broker: Broker, queue: TaskQueue) -> None:
        elsewhere = TaskQueue(queue.network, queue.queue, "no-such-key")
        nowhere = TaskQueue(queue.network, "no-such-queue", queue.key)
        assert outcome(broker.publish(a_message(elsewhere))) == "E_UNKNOWN_SOCKET"
        assert outcome(broker.publish(a_message(nowhere))) == "E_UNKNOWN_SOCKET"
        with pytest.raises(BadInput):
            broker.publish(a_message(elsewhere)).result(PATIENCE)

    def test_a_refused_message_does_not_hold_up_its_neighbours(self, broker: Broker, queue: TaskQueue) -> None:
        elsewhere = TaskQueue(queue.network, queue.queue, "no-such-key")
        confirms = [broker.publish(a_message(elsewhere if n % 3 == 0 else queue)) for n in range(30)]
        assert Counter(outcome(confirm) for confirm in confirms) == {"held": 20, "E_UNKNOWN_SOCKET": 10}
        assert broker.depth(queue.name).ready == 20

    def test_a_full_queue_refuses_and_keeps_every_message_it_confirmed(self, broker: Broker) -> None:
        full = a_queue(max_length=10)
        broker.declare(full)

        outcomes = [outcome(broker.publish(a_message(full, str(number).encode()))) for number in range(40)]

        assert set(outcomes) == {"held", "E_BACKPRESSURE"}
        assert outcomes[:10] == ["held"] * 10
        held = [str(number).encode() for number, word in enumerate(outcomes) if word == "held"]
        # the limit is soft: some brokers overshoot it a little
        assert len(held) <= 15
        assert sorted(seen.body for seen in broker.peek(full.name, 40)) == sorted(held)

    def test_a_full_queue_takes_messages_again_once_there_is_room(self, broker: Broker) -> None:
        full, inbox = a_queue(max_length=3), Inbox(ack=True)
        broker.declare(full)
        eventually(lambda: outcome(broker.publish(a_message(full))) == "E_BACKPRESSURE")

        broker.consume(full.name, prefetch=10, deliver=inbox)

        eventually(lambda: outcome(broker.publish(a_message(full))) == "held")

    def test_a_queue_is_declared_twice_but_not_with_other_arguments(self, broker: Broker) -> None:
        standing = a_queue(max_length=5)
        broker.declare(standing)
        send(broker, standing, b"kept")
        broker.declare(standing)

        other = replace(standing, max_length=6)
        with pytest.raises(BadInput) as refusal:
            broker.declare(other)

        assert refusal.value.code == "E_QUEUE_MISMATCH"
        assert [seen.body for seen in broker.peek(standing.name, 5)] == [b"kept"]

    def test_a_deleted_queue_is_gone_with_its_messages(self, broker: Broker, queue: TaskQueue) -> None:
        send(broker, queue, b"1")
        broker.delete(queue)
        broker.delete(queue)

        assert outcome(broker.publish(a_message(queue))) == "E_UNKNOWN_SOCKET"
        with pytest.raises(BadInput) as refusal:
            broker.depth(queue.name)
        assert refusal.value.code == "E_NOT_FOUND"


@every_kind
class TestLooking:
    """Depth, peek and purge."""

    def test_peek_shows_the_first_messages_and_leaves_them(self, broker: Broker, queue: TaskQueue) -> None:
        send(broker, queue, b"1", b"2", b"3")
        seen = [(peeked.body, peeked.redelivered) for peeked in broker.peek(queue.name, 2)]

        assert seen == [(b"1", False), (b"2", False)]
        eventually(lambda: depth_is(broker, queue, ready=3, unacked=0, consumers=0))
        inbox = Inbox()
        broker.consume(queue.name, prefetch=3, deliver=inbox)
        inbox.wait(3)
        assert sorted(inbox.bodies()) == [b"1", b"2", b"3"]

    def test_purge_hands_over_every_ready_body_and_leaves_what_is_unacked(
        self, broker: Broker, queue: TaskQueue
    ) -> None:
        inbox = Inbox()
        subscription = broker.consume(queue.name, prefetch=1, deliver=inbox)
        send(broker, queue, *(str(number).encode() for number in range(250)))
        (held,) = inbox.wait(1)
        subscription.cancel()
        eventually(lambda: depth_is(broker, queue, ready=249, unacked=1, consumers=0))

        taken: list[bytes] = []
        assert broker.purge(queue.name, taken.append) == 249

        assert taken == [str(number).encode() for number in range(1, 250)]
        eventually(lambda: depth_is(broker, queue, ready=0, unacked=1, consumers=0))
        held.ack()
        eventually(lambda: is_empty(broker, queue))

    def test_a_purge_whose_taker_fails_loses_nothing(self, broker: Broker, queue: TaskQueue) -> None:
        send(broker, queue, b"1", b"2")

        def refuse(body: bytes) -> None:
            raise OSError("no space left")

        with pytest.raises(OSError, match="no space"):
            broker.purge(queue.name, refuse)

        eventually(lambda: broker.depth(queue.name).ready == 2)

    def test_check_names_the_product(self, broker: Broker, service: Service) -> None:
        assert service.kind.lower() in broker.check().lower()
        assert broker.kind == service.kind


@every_kind
class TestDeadLetters:
    """What is set aside."""

    def test_a_message_set_aside_is_kept_with_its_reason(self, broker: Broker, queue: TaskQueue) -> None:
        bad = a_message(queue, b"\xff garbage")
        broker.set_aside(queue.network, bad, Reason.DECODE, "truncated at\x1b byte 3").result(PATIENCE)

        dead = Inbox(ack=True)
        broker.consume(dead_queue(queue.network), prefetch=5, deliver=dead)

        (letter,) = dead.wait(1)
        assert letter.body == bad.body
        assert (
            dict(letter.headers).items()
            >= {
                "x-pyfi-reason": "decode",
                "x-pyfi-detail": r"truncated at\x1b byte 3",
                "x-pyfi-exchange": queue.exchange,
                "x-pyfi-key": queue.key,
            }.items()
        )

    def test_the_dead_letters_of_a_network_without_queues_can_be_declared(self, broker: Broker) -> None:
        network = a_queue().network
        for _ in range(2):
            broker.declare_dead_letters(network)
            assert broker.depth(dead_queue(network)).ready == 0

    def test_dead_letters_can_be_consumed_before_there_are_any(self, broker: Broker) -> None:
        dead, never_declared = Inbox(ack=True), a_queue()
        broker.consume(dead_queue(never_declared.network), prefetch=5, deliver=dead)

        broker.set_aside(never_declared.network, a_message(never_declared), Reason.OWNER, "eve").result(PATIENCE)

        assert dead.wait(1)[0].headers["x-pyfi-reason"] == "owner"


@every_kind
class TestHints:
    """Replies and control hints."""

    def test_a_reply_reaches_its_client_and_nobody_else(self, connect: Callable[[], Broker]) -> None:
        mine: list[bytes] = []
        other: list[bytes] = []
        client, agent = connect(), connect()
        address = client.reply_address(mine.append)
        assert agent.reply_address(other.append) != address

        agent.reply(address, b"\x00done")

        eventually(lambda: mine == [b"\x00done"])
        assert other == []

    def test_a_reply_to_a_client_that_is_gone_harms_nobody(
        self, connect: Callable[[], Broker], queue: TaskQueue
    ) -> None:
        gone, agent = connect(), connect()
        address = gone.reply_address(lambda body: None)
        gone.close()

        for wrong in (address, "", "no such address", "x" * 300):
            agent.reply(wrong, b"done")

        send(agent, queue, b"still here")
        heard: list[bytes] = []
        agent.reply(connect().reply_address(heard.append), b"hello")
        eventually(lambda: heard == [b"hello"])

    def test_a_hint_reaches_every_listener_of_its_network(self, connect: Callable[[], Broker]) -> None:
        first, second, heard = connect(), connect(), Counter[str]()
        network, elsewhere = a_queue().network, a_queue().network
        first.on_hint(network, lambda text: heard.update([f"first {text}"]))
        second.on_hint(network, lambda text: heard.update([f"second {text}"]))
        second.on_hint(elsewhere, lambda text: heard.update([f"elsewhere {text}"]))

        first.hint(network, "cancel")

        eventually(lambda: heard == {"first cancel": 1, "second cancel": 1})

    def test_listeners_hear_again_after_their_connection_was_cut(
        self, service: Service, connect: Callable[[], Broker]
    ) -> None:
        listener, other, replies, hints = connect(), connect(), list[bytes](), list[str]()
        network = a_queue().network
        address = listener.reply_address(replies.append)
        listener.on_hint(network, hints.append)

        service.cut()

        def heard() -> bool:
            other.reply(address, b"again")
            other.hint(network, "again")
            return bool(replies and hints)

        eventually(heard)


@every_kind
class TestSingle:
    """Queues whose messages are taken one by one, in order."""

    @pytest.fixture
    def single(self, broker: Broker) -> TaskQueue:
        """A declared queue of this sort."""
        fresh = a_queue(fifo=True)
        broker.declare(fresh)
        return fresh

    def test_one_message_is_in_hands_at_a_time_over_all_consumers_in_order(
        self, broker: Broker, connect: Callable[[], Broker], single: TaskQueue
    ) -> None:
        bodies = [str(number).encode() for number in range(12)]
        taken, in_hands, at_once = list[bytes](), threading.Semaphore(0), list[int]()
        lock = threading.Lock()
        held: list[Delivery] = []

        def take(delivery: Delivery) -> None:
            with lock:
                taken.append(delivery.body)
                held.append(delivery)
                at_once.append(len(held))
            in_hands.release()

        for consumer in (connect(), connect(), broker):
            consumer.consume(single.name, prefetch=1, deliver=take)
        send(broker, single, *bodies)
        for _ in bodies:
            assert in_hands.acquire(timeout=PATIENCE)
            with lock:
                held.pop().ack()

        assert taken == bodies
        assert set(at_once) == {1}
        eventually(lambda: is_empty(broker, single))

    def test_what_its_consumer_had_in_hands_goes_first_to_the_one_that_stood_by(
        self, broker: Broker, connect: Callable[[], Broker], single: TaskQueue
    ) -> None:
        first, second = Inbox(), Inbox(ack=True)
        subscription = connect().consume(single.name, prefetch=1, deliver=first)
        send(broker, single, b"1", b"2", b"3")
        (delivery,) = first.wait(1)
        connect().consume(single.name, prefetch=1, deliver=second)
        assert delivery.held()

        subscription.drop()

        assert [(each.body, each.redelivered) for each in second.wait(3)] == [
            (b"1", True), (b"2", False), (b"3", False),
        ]  # fmt: skip
        assert (first.bodies(), delivery.held()) == ([b"1"], False)

    def test_what_is_given_back_again_and_again_stays_first(
        self, connect: Callable[[], Broker], single: TaskQueue
    ) -> None:
        came: queues.SimpleQueue[tuple[int, Delivery]] = queues.SimpleQueue()
        brokers = [connect(), connect()]
        bodies = [str(number).encode() for number in range(24)]

        def consume(number: int) -> Subscription:
            return brokers[number].consume(
                single.name, prefetch=1, deliver=lambda delivery: came.put((number, delivery))
            )

        subscriptions = [consume(number) for number in range(2)]
        send(brokers[0], single, *bodies)
        settled, given_back = list[bytes](), set[int]()
        while len(settled) < len(bodies):
            number, delivery = came.get(timeout=PATIENCE)
            if len(settled) % 3 or len(settled) in given_back:
                settled.append(delivery.body)
                delivery.ack()
                continue
            given_back.add(len(settled))
            if len(settled) == 12:
                brokers[number].close()
                brokers[number] = connect()
                subscriptions[number] = consume(number)
            else:
                subscriptions[number].drop()
                subscriptions[number] = consume(number)

        assert settled == bodies

    def test_order_is_kept_when_connections_are_cut_again_and_again(
        self, service: Service, broker: Broker, connect: Callable[[], Broker], single: TaskQueue
    ) -> None:
        bodies = [str(number).encode() for number in range(30)]
        inbox = Inbox(ack=True)
        for _ in range(2):
            connect().consume(single.name, prefetch=1, deliver=inbox)
        send(broker, single, *bodies[:10])
        service.cut()
        send(broker, single, *bodies[10:20])
        service.cut()
        send(broker, single, *bodies[20:])

        eventually(lambda: set(inbox.bodies()) == set(bodies))
        eventually(lambda: is_empty(broker, single))
        # a message whose ack was lost comes again at once, before any later one
        assert sorted(inbox.bodies(), key=int) == inbox.bodies()


@every_kind
class TestClose:
    """What is left of a closed broker."""

    def test_close_ends_every_thread_and_every_session(self, service: Service) -> None:
        sessions = service.sessions()
        threads = set(threading.enumerate())
        broker, queue, inbox = service.connect(), a_queue(), Inbox()
        broker.declare(queue)
        broker.consume(queue.name, prefetch=1, deliver=inbox)
        broker.reply_address(lambda body: None)
        broker.on_hint(queue.network, lambda text: None)
        send(broker, queue, b"1", b"2")
        inbox.wait(1)

        broker.close()
        broker.close()

        assert set(threading.enumerate()) <= threads
        eventually(lambda: service.sessions() <= sessions, timeout=5)
        assert not broker.publishing()
        assert outcome(broker.publish(a_message(queue))) == "E_BROKER"

    def test_a_closed_broker_resolves_what_it_could_not_hand_over(self, service: Service) -> None:
        broker, queue = service.connect(), a_queue()
        broker.declare(queue)
        confirms = [broker.publish(a_message(queue)) for _ in range(2000)]

        broker.close()

        words = Counter(outcome(confirm, timeout=0) for confirm in confirms)
        assert set(words) <= {"held", "E_BROKER"}
        witness = service.connect()
        assert words["held"] <= witness.depth(queue.name).ready
        witness.close()


@served_kinds
class TestProcesses:
    """Services and consumers that die."""

    def test_a_message_comes_back_when_the_process_that_holds_it_is_killed(
        self, service: Service, broker: Broker, queue: TaskQueue
    ) -> None:
        send(broker, queue, b"held")
        inbox = Inbox()
        with holding(service, queue) as holder:
            broker.consume(queue.name, prefetch=1, deliver=inbox)
            assert inbox.deliveries == []
            holder.send_signal(signal.SIGKILL)

        (delivery,) = inbox.wait(1, timeout=5)
        assert (delivery.body, delivery.redelivered, delivery.delivery_count) == (b"held", True, 1)

    @pytest.mark.slow
    def test_a_message_comes_back_when_the_process_that_holds_it_stalls(
        self, service: Service, broker: Broker, queue: TaskQueue
    ) -> None:
        send(broker, queue, b"held")
        inbox = Inbox(ack=True)
        with holding(service, queue) as holder:
            holder.send_signal(signal.SIGSTOP)
            broker.consume(queue.name, prefetch=1, deliver=inbox)
            (delivery,) = inbox.wait(1, timeout=30)
            holder.send_signal(signal.SIGCONT)

        assert (delivery.body, delivery.redelivered, delivery.delivery_count) == (b"held", True, 1)
        eventually(lambda: is_empty(broker, queue))

    @pytest.mark.slow
    def test_a_service_killed_under_load_loses_nothing_it_confirmed(
        self, service: Service, connect: Callable[[], Broker], queue: TaskQueue
    ) -> None:
        publisher, inbox, enough = connect(), Inbox(ack=True), threading.Event()
        connect().consume(queue.name, prefetch=50, deliver=inbox)
        confirms: dict[bytes, Confirm] = {}

        def publish() -> None:
            while not enough.is_set():
                body = str(len(confirms)).encode()
                confirms[body] = publisher.publish(a_message(queue, body))
                if len(confirms) % 100 == 0:
                    outcome(confirms[body], timeout=4 * PATIENCE)

        thread = threading.Thread(target=publish)
        thread.start()
        eventually(lambda: len(inbox.deliveries) > 500)
        service.restart()
        before = len(inbox.deliveries)
        eventually(lambda: len(inbox.deliveries) > before + 500, timeout=4 * PATIENCE)
        enough.set()
        thread.join()

        held = {body for body, confirm in confirms.items() if outcome(confirm) == "held"}
        assert len(held) > 1000
        eventually(lambda: held <= set(inbox.bodies()))
        eventually(lambda: is_empty(publisher, queue))

    def test_while_the_service_is_away_publishing_says_so_and_calls_raise(
        self, service: Service, broker: Broker, queue: TaskQueue
    ) -> None:
        send(broker, queue, b"before")
        assert broker.publishing()

        away = threading.Event()
        codes: list[str] = []

        def watch() -> None:
            while not away.wait(0.001):
                if not broker.publishing():
                    codes.append("not publishing")
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        service.restart()
        confirm = broker.publish(a_message(queue, b"after"))
        assert outcome(confirm, timeout=4 * PATIENCE) == "held"
        away.set()
        watcher.join()

        assert codes == ["not publishing"]
        eventually(broker.publishing)

    def test_confirms_wait_while_the_service_is_away(self, service: Service, broker: Broker, queue: TaskQueue) -> None:
        send(broker, queue, b"before")
        service.cut()
        confirms = [broker.publish(a_message(queue, str(number).encode())) for number in range(20)]
        assert [outcome(confirm) for confirm in confirms] == ["held"] * 20
        assert {seen.body for seen in broker.peek(queue.name, 100)} - {b"before"} == {
            str(number).encode() for number in range(20)
        }


def test_an_address_of_no_known_broker_is_refused() -> None:
    from pyfi_hpc.brokers.connect import connect

    for uri in ("kafka://h", "http://h", "nonsense", "amqp:"):
        with pytest.raises(PyfiError) as refusal:
            connect(uri, database_uri="postgresql:///x")
        assert refusal.value.code == "E_BROKER_URI"
