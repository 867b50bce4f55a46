"""What only RabbitMQ does: its arguments, its alarms, its timeouts, and our way through them."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pika
import pytest

from pyfi_hpc.box.rabbitmq import RabbitMQ
from pyfi_hpc.brokers.base import DELIVERY_LIMIT, Delivery, TaskQueue, dead_queue
from pyfi_hpc.brokers.rabbitmq import RabbitBroker, consumer, frames
from pyfi_hpc.brokers.rabbitmq.arguments import task_queue_arguments
from pyfi_hpc.brokers.rabbitmq.link import Link
from pyfi_hpc.brokers.rabbitmq.subscription import WAITING_PART
from pyfi_hpc.errors import BadInput, BrokerUnavailable
from tests.services.brokers_support import Inbox, a_message, a_queue, eventually, is_empty, outcome, send
from tests.services.rabbitmq_support import RabbitService, look_for_late_acks

Connect = Callable[..., RabbitBroker]


@pytest.fixture
def server(rabbitmq_service: RabbitService) -> RabbitMQ:
    """A node that this module may stop and stall."""
    return rabbitmq_service.server


@pytest.fixture
def connect(server: RabbitMQ) -> Iterator[Connect]:
    """Makes brokers that are closed after the test."""
    made: list[RabbitBroker] = []

    def connected(uri: str = server.uri, settle_seconds: float = 0, heartbeat: int = 5) -> RabbitBroker:
        made.append(RabbitBroker(uri, settle_seconds=settle_seconds, heartbeat=heartbeat))
        return made[-1]

    yield connected
    for broker in made:
        broker.close()


@pytest.fixture
def broker(connect: Connect) -> RabbitBroker:
    """One broker."""
    return connect()


@pytest.fixture
def queue(broker: RabbitBroker) -> TaskQueue:
    """A declared queue of the test's own."""
    fresh = a_queue()
    broker.declare(fresh)
    return fresh


@contextmanager
def raw_channel(server: RabbitMQ) -> Iterator[Any]:
    """A channel without any of our code."""
    connection = pika.BlockingConnection(pika.URLParameters(server.uri))
    try:
        yield connection.channel()
    finally:
        connection.close()


class TestDeclaration:
    """How queues are made."""

    @pytest.mark.parametrize(
        ("argument", "other"),
        [("x-delivery-limit", 5), ("x-dead-letter-strategy", "at-most-once"), ("x-max-length", 7)],
    )
    def test_a_queue_that_stands_otherwise_is_refused_by_the_argument_s_name(
        self, server: RabbitMQ, broker: RabbitBroker, argument: str, other: object
    ) -> None:
        queue = a_queue(max_length=8)
        with raw_channel(server) as channel:
            channel.queue_declare(queue.name, durable=True, arguments=task_queue_arguments(queue) | {argument: other})

        with pytest.raises(BadInput) as refusal:
            broker.declare(queue)

        assert refusal.value.code == "E_QUEUE_MISMATCH"
        assert argument in str(refusal.value)

    def test_nobody_can_publish_to_a_quorum_queue_younger_than_two_seconds(
        self, broker: RabbitBroker, connect: Connect
    ) -> None:
        queue, patient = a_queue(), connect(settle_seconds=2.0)
        began = time.monotonic()
        declaring = threading.Thread(target=patient.declare, args=[queue])
        declaring.start()

        eventually(lambda: outcome(broker.publish(a_message(queue))) == "held")

        assert time.monotonic() - began >= 2.0
        declaring.join()
        patient.declare(queue)

    def test_a_message_returned_too_often_is_kept_by_the_dead_letters(
        self, server: RabbitMQ, broker: RabbitBroker, queue: TaskQueue
    ) -> None:
        send(broker, queue, b"poison")
        with raw_channel(server) as channel:
            returned = 0
            for method, _properties, _body in channel.consume(queue.name, inactivity_timeout=1):
                if method is None:
                    break
                channel.basic_nack(method.delivery_tag, requeue=True)
                returned += 1
        assert returned == DELIVERY_LIMIT + 1

        dead = Inbox(ack=True)
        broker.consume(dead_queue(queue.network), prefetch=1, deliver=dead)
        assert dead.wait(1)[0].body == b"poison"


class TestAccess:
    """What is wrong with an address shows when it is used."""

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda uri: uri.replace("pyfi:", "pyfi:not"), "user and password"),
            (lambda uri: uri.removesuffix("pyfi") + "elsewhere", "virtual host"),
            (lambda uri: "amqp://pyfi:secret@127.0.0.1:1/pyfi", "cannot be reached"),
            (lambda uri: "amqp://pyfi:secret@no-such-host.invalid/pyfi", "cannot be reached"),
        ],
    )
    def test_a_refusal_names_the_cure_and_no_password(
        self, server: RabbitMQ, connect: Connect, change: Callable[[str], str], says: str
    ) -> None:
        uri = change(server.uri)
        broker = connect(uri)
        with pytest.raises(BrokerUnavailable) as refusal:
            broker.check()

        assert says in str(refusal.value)
        assert refusal.value.cure
        assert pika.URLParameters(uri).credentials.password not in str(refusal.value)
        assert not broker.publishing()


class TestAcks:
    """Acks and prefetch on real channels."""

    def test_acks_in_any_order_settle_every_message_on_one_channel(
        self, connect: Connect, broker: RabbitBroker, queue: TaskQueue
    ) -> None:
        held: list[Delivery] = []
        seen: list[Delivery] = []
        chance = random.Random(7)

        def take(delivery: Delivery) -> None:
            seen.append(delivery)
            held.append(delivery)
            if len(held) >= 40:
                chance.shuffle(held)
                while len(held) > 15:
                    held.pop().ack()

        consuming = connect()
        consuming.consume(queue.name, prefetch=50, deliver=take)
        send(broker, queue, *(str(number).encode() for number in range(1000)))

        eventually(lambda: len(seen) == 1000)
        while held:
            held.pop().ack()
        # all were acked: none comes back, and none came twice because a channel had closed
        eventually(lambda: is_empty(broker, queue))
        consuming.close()
        assert is_empty(broker, queue)
        assert (len(seen), any(delivery.redelivered for delivery in seen)) == (1000, False)

    def test_deliveries_that_are_settled_one_after_the_other_are_acked_together(
        self, connect: Connect, broker: RabbitBroker, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[tuple[int, bool]] = []
        written = frames.ack

        def ack(channel: int, tag: int, multiple: bool) -> bytes:
            sent.append((tag, multiple))
            return written(channel, tag, multiple)

        monkeypatch.setattr(frames, "ack", ack)
        monkeypatch.setattr(consumer, "ACK_SECONDS", 600.0)
        inbox = Inbox()
        connect().consume(queue.name, prefetch=3 * WAITING_PART, deliver=inbox)
        send(broker, queue, b"1", b"2", b"3")

        for delivery in inbox.wait(3):
            delivery.ack()

        eventually(lambda: sent != [])
        eventually(lambda: is_empty(broker, queue))
        assert sent == [(3, True)]

    def test_what_waits_to_be_acked_is_acked_before_the_end(
        self, connect: Connect, broker: RabbitBroker, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(consumer, "ACK_SECONDS", 600.0)
        inbox, ending = Inbox(), connect()
        ending.consume(queue.name, prefetch=3 * WAITING_PART, deliver=inbox)
        send(broker, queue, b"1")

        inbox.wait(1)[0].ack()
        ending.close()

        again = Inbox()
        connect().consume(queue.name, prefetch=1, deliver=again)
        send(broker, queue, b"2")
        assert again.wait(1)[0].body == b"2"

    def test_no_more_than_the_prefetch_is_in_hand_however_it_is_changed(
        self, broker: RabbitBroker, queue: TaskQueue
    ) -> None:
        send(broker, queue, *(str(number).encode() for number in range(300)))
        inbox = Inbox()
        subscription = broker.consume(queue.name, prefetch=1, deliver=inbox)
        acked = 0

        def holds(prefetch: int) -> bool:
            """Whether so many are in hand; acks what is too many: it was on its way before the broker heard of less."""
            nonlocal acked
            while len(inbox.deliveries) - acked > prefetch:
                inbox.deliveries[acked].ack()
                acked += 1
            return len(inbox.deliveries) == acked + prefetch == 300 - broker.depth(queue.name).ready

        for prefetch in (1, 5, 9, 3, 20, 21, 22, 23, 24, 2, 10):
            before = acked
            subscription.resize(prefetch)
            eventually(partial(holds, prefetch))
            assert acked - before <= 2 * 24


class TestFaults:
    """Faults with a name."""

    def test_under_a_disk_alarm_consumers_go_on_and_unsent_messages_can_be_taken_back(
        self, server: RabbitMQ, connect: Connect, queue: TaskQueue
    ) -> None:
        publisher, consumer, inbox = connect(), connect(), Inbox()
        consumer.consume(queue.name, prefetch=2, deliver=inbox)
        send(publisher, queue, b"1", b"2", b"3", b"4")
        held = inbox.wait(2)
        assert publisher.publishing()

        server.ctl("set_disk_free_limit", "1000000GB")
        try:
            # the broker tells it to who publishes
            sent = publisher.publish(a_message(queue, b"sent under the alarm"))
            eventually(lambda: not publisher.publishing())
            unsent = publisher.publish(a_message(queue, b"never sent"))
            late = publisher.publish(a_message(queue, b"sent after it"))
            for delivery in held:
                delivery.ack()
            for delivery in inbox.wait(4)[2:]:
                delivery.ack()
            eventually(lambda: is_empty(consumer, queue))
            assert unsent.cancel()
            assert not sent.done()
        finally:
            server.ctl("set_disk_free_limit", "50MB")

        assert [outcome(sent), outcome(late)] == ["held", "held"]
        eventually(publisher.publishing)
        assert {delivery.body for delivery in inbox.wait(6)[4:]} == {b"sent under the alarm", b"sent after it"}

    def test_a_consumer_outlives_its_queue(self, connect: Connect, broker: RabbitBroker, queue: TaskQueue) -> None:
        inbox = Inbox(ack=True)
        broker.consume(queue.name, prefetch=5, deliver=inbox)
        send(broker, queue, b"before")
        inbox.wait(1)

        broker.delete(queue)
        # at once, as a script would: the consumer must not hang on the old one
        connect(settle_seconds=2.0).declare(queue)
        send(broker, queue, b"after")

        inbox.wait(2)
        assert inbox.bodies() == [b"before", b"after"]

    def test_an_orderly_stop_is_waited_out(self, server: RabbitMQ, broker: RabbitBroker, queue: TaskQueue) -> None:
        time.sleep(2)  # a younger quorum queue may not come back
        inbox = Inbox(ack=True)
        broker.consume(queue.name, prefetch=5, deliver=inbox)
        send(broker, queue, b"before")
        inbox.wait(1)

        server.ctl("stop_app")
        eventually(lambda: not broker.publishing())
        confirms = [broker.publish(a_message(queue, str(number).encode())) for number in range(300)]
        server.ctl("start_app")

        assert {outcome(confirm) for confirm in confirms} == {"held"}
        eventually(lambda: len(set(inbox.bodies())) == 301)
        eventually(lambda: is_empty(broker, queue))

    def test_a_stalled_broker_is_noticed_and_nothing_is_lost(
        self, server: RabbitMQ, connect: Connect, queue: TaskQueue
    ) -> None:
        broker, inbox = connect(heartbeat=2), Inbox(ack=True)
        broker.consume(queue.name, prefetch=5, deliver=inbox)
        send(broker, queue, b"before")
        inbox.wait(1)

        server.suspend()
        try:
            confirms = [broker.publish(a_message(queue, str(number).encode())) for number in range(300)]
            eventually(lambda: not broker.publishing())
        finally:
            server.resume()

        assert {outcome(confirm) for confirm in confirms} == {"held"}
        eventually(lambda: len(set(inbox.bodies())) == 301)
        eventually(lambda: is_empty(broker, queue))

    def test_a_delivery_older_than_the_ack_timeout_comes_again_on_a_new_channel(
        self, server: RabbitMQ, connect: Connect
    ) -> None:
        seen: list[Delivery] = []

        def take(delivery: Delivery) -> None:
            seen.append(delivery)
            if len(seen) > 1:
                delivery.ack()

        look_for_late_acks(server, timeout_seconds=2)
        try:
            broker, queue = connect(), a_queue()
            broker.declare(queue)
            broker.consume(queue.name, prefetch=1, deliver=take)
            send(broker, queue, b"long")
            eventually(lambda: len(seen) == 2)
            seen[0].ack()  # of a channel that is gone
            eventually(lambda: is_empty(broker, queue))
            send(broker, queue, b"next")
            eventually(lambda: len(seen) == 3)
        finally:
            look_for_late_acks(server, timeout_seconds=1800, every_seconds=60)

        assert [(each.body, each.redelivered) for each in seen] == [(b"long", False), (b"long", True), (b"next", False)]


@pytest.mark.slow
def test_twenty_thousand_small_messages_go_in_and_out_whole(connect: Connect, queue: TaskQueue) -> None:
    number, inbox = 20_000, Inbox(ack=True)
    publisher, consumer = connect(), connect()
    bodies = [b"%d" % each for each in range(number)]
    send(publisher, queue, *bodies)
    consumer.consume(queue.name, prefetch=256, deliver=inbox)
    inbox.wait(number)
    assert sorted(inbox.bodies()) == sorted(bodies)


class _Clumsy:
    """What happens on a connection, where the first end of one finds a fault."""

    def __init__(self) -> None:
        self.ups = self.downs = 0

    def up(self, connection: Any) -> None:
        self.ups += 1

    def step(self) -> None:
        """Nothing is queued."""

    def watch(self) -> None:
        """Nothing is watched."""

    def down(self, error: BrokerUnavailable) -> None:
        self.downs += 1
        if self.downs == 1:
            raise RuntimeError("a fault")


def test_a_fault_at_a_connections_end_does_not_keep_the_next_one_away(
    server: RabbitMQ, rabbitmq_service: RabbitService
) -> None:
    session = _Clumsy()
    link = Link(pika.URLParameters(server.uri), session, uri=server.uri, name="test")
    link.start()
    try:
        eventually(lambda: session.ups == 1)
        eventually(lambda: rabbitmq_service.sessions() > 0)

        rabbitmq_service.cut()

        eventually(lambda: session.downs >= 1 and session.ups >= 2)
    finally:
        link.close()
