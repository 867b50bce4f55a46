"""What of RabbitMQ's kind of broker can be decided without RabbitMQ: acks, the window, addresses, arguments."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

import pyfi_hpc.brokers.rabbitmq as package
from pyfi_hpc.brokers.base import Publication, TaskQueue
from pyfi_hpc.brokers.rabbitmq import RabbitBroker
from pyfi_hpc.brokers.rabbitmq.acks import Ack, AckLedger
from pyfi_hpc.brokers.rabbitmq.admin import supported
from pyfi_hpc.brokers.rabbitmq.arguments import mismatch
from pyfi_hpc.brokers.rabbitmq.backoff import Backoff
from pyfi_hpc.brokers.rabbitmq.window import Entry, Window
from pyfi_hpc.errors import BadInput


class Channel:
    """A broker's side of one channel: what is unacked, and the rules whose breach closes it."""

    def __init__(self) -> None:
        self.unacked: list[int] = []

    def receive(self, ack: Ack) -> list[int]:
        """The deliveries that this ack settles."""
        assert ack.tag in self.unacked, f"the channel closes: unknown delivery tag {ack.tag}"
        gone = [tag for tag in self.unacked if tag == ack.tag or (ack.multiple and tag < ack.tag)]
        self.unacked = [tag for tag in self.unacked if tag not in gone]
        return gone


# a number n: the n-th of the unsettled is settled; None: a message is delivered; "flush": acks go out
steps = some.lists(some.one_of(some.none(), some.just("flush"), some.integers(0, 20)), max_size=200)


@given(steps)
def test_exactly_the_settled_deliveries_are_acked_each_once(plan: list[int | str | None]) -> None:
    ledger, channel = AckLedger(), Channel()
    delivered, settled, acked = 0, set[int](), set[int]()
    for step in [*plan, "flush"]:
        if step is None:
            delivered += 1
            ledger.delivered(delivered)
            channel.unacked.append(delivered)
        elif isinstance(step, int):
            open_ones = [tag for tag in range(1, delivered + 1) if tag not in settled]
            if open_ones:
                settled.add(open_ones[step % len(open_ones)])
                ledger.settle(open_ones[step % len(open_ones)])
        else:
            for ack in ledger.due():
                gone = channel.receive(ack)
                assert settled.issuperset(gone)
                acked.update(gone)
            assert acked == settled
    assert len(ledger) == delivered - len(settled)


def test_a_run_without_gap_takes_one_ack_and_those_above_a_gap_one_each() -> None:
    ledger = AckLedger()
    for tag in range(1, 8):
        ledger.delivered(tag)
    for tag in (3, 1, 2, 5, 7):
        ledger.settle(tag)

    assert ledger.due() == [Ack(3, True), Ack(5, False), Ack(7, False)]
    assert ledger.due() == []
    ledger.settle(4)
    assert ledger.due() == [Ack(4, False)]


def test_a_delivery_settled_twice_or_never_delivered_is_not_acked_again() -> None:
    ledger = AckLedger()
    ledger.delivered(1)
    ledger.settle(1)
    assert ledger.due() == [Ack(1, False)]
    ledger.settle(1)
    ledger.settle(9)
    assert ledger.due() == []


def an_entry(size: int = 1) -> Entry:
    return Entry(Publication("exchange", "key", b"x" * size, "id"))


@given(some.lists(some.tuples(some.integers(1, 30), some.booleans()), max_size=40))
def test_confirms_settle_what_they_speak_of_once_and_in_order(confirms: list[tuple[int, bool]]) -> None:
    window = Window(messages=30)
    entries = [an_entry() for _ in range(30)]
    for entry in entries:
        window.add(entry)
    expected = dict(enumerate(entries, start=1))
    for tag, multiple in confirms:
        named = [each for each in expected if each == tag or (multiple and each < tag)]
        assert window.take(tag, multiple) == [expected.pop(each) for each in sorted(named)]
    assert window.restart() == list(expected.values())
    assert (len(window), window.next_tag()) == (0, 1)


def test_the_window_is_bounded_in_messages_and_bytes_but_takes_one_of_any_size() -> None:
    window = Window(messages=2, size=10)
    assert window.has_room()
    window.add(an_entry(size=100))
    assert not window.has_room()
    window.take(1, multiple=False)
    window.add(an_entry(size=4))
    assert window.has_room()
    window.add(an_entry(size=4))
    assert not window.has_room()


def test_only_an_unsent_publication_can_be_taken_back() -> None:
    unsent, sent = an_entry(), an_entry()
    assert sent.may_be_sent()
    assert not sent.confirm.cancel()
    # again after a lost connection
    assert sent.may_be_sent()
    assert unsent.confirm.cancel()
    assert not unsent.may_be_sent()


def test_backoff_grows_to_its_limit_and_starts_again_after_a_success() -> None:
    backoff = Backoff(0.2, 5)
    delays = [backoff.next() for _ in range(12)]
    assert 0.1 <= delays[0] <= 0.2
    assert all(2.5 <= delay <= 5 for delay in delays[6:])
    backoff.reset()
    assert backoff.next() <= 0.2


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("http://user:hunter2@host/pyfi", "E_BROKER_URI"),
        ("amqp:user:hunter2", "E_BROKER_URI"),
        ("amqp://", "E_BROKER_URI"),
        ("amqp://user@host/pyfi", "E_BROKER_URI"),
        ("amqp://user:hunter2@[host/pyfi", "E_BROKER_URI"),
        ("amqp://user:hunter2@host/pyfi?no_such_option=1", "E_BROKER_URI"),
        ("amqp://user:hunter2@host/pyfi?heartbeat=soon", "E_BROKER_URI"),
        ("amqp://user:hunter2", "E_RANGE"),
        ("amqp://user:hunter2/@host/pyfi", "E_RANGE"),
        ("amqp://user:hunter2@host:0/pyfi", "E_RANGE"),
        ("amqp://user:hunter2@host:65536/pyfi", "E_RANGE"),
        ("amqp://user:hunter2@host:five/pyfi", "E_RANGE"),
    ],
)
def test_an_unusable_address_is_refused_without_its_password(uri: str, code: str) -> None:
    with pytest.raises(BadInput) as refusal:
        RabbitBroker(uri)
    assert refusal.value.code == code
    assert "hunter2" not in str(refusal.value)
    assert "hunter2" not in repr(refusal.value.facts)


def test_a_prefetch_that_amqp_cannot_carry_is_refused() -> None:
    broker = RabbitBroker("amqp://user:secret@127.0.0.1:1/pyfi")
    for wrong in (0, 65_536):
        with pytest.raises(BadInput) as refusal:
            broker.consume("queue", prefetch=wrong, deliver=lambda delivery: None)
        assert refusal.value.code == "E_RANGE"


def test_a_mismatch_names_the_argument_and_both_values() -> None:
    queue = TaskQueue("lab", "work", "square")
    error = mismatch(
        queue.name,
        f"PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue '{queue.name}' in vhost 'pyfi': "
        "received the value '6' of type 'signedint' but current is the value '5' of type 'signedint'",
    )
    assert error.code == "E_QUEUE_MISMATCH"
    assert re.search("x-max-length.*'6'.*'5'", str(error))
    assert "PRECONDITION_FAILED - something new" in str(mismatch(queue.name, "PRECONDITION_FAILED - something new"))


def test_a_rabbitmq_before_3_10_is_refused() -> None:
    assert supported("RabbitMQ", "3.10.8") == "RabbitMQ 3.10.8"
    assert supported("RabbitMQ", "4.0.1-rc.1") == "RabbitMQ 4.0.1-rc.1"
    with pytest.raises(BadInput) as refusal:
        supported("RabbitMQ", "3.9.29")
    assert refusal.value.code == "E_BROKER_VERSION"


def test_nothing_is_published_without_mandatory_but_hints() -> None:
    """Without it the broker confirms messages that reach no queue (RELIABILITY 1.2)."""
    loose, seen = [], []
    for path in Path(package.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and (called == "frames.publish" or called.endswith(".basic_publish")):
                seen.append(path.name)
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if keywords.get("mandatory") != "True":
                    loose.append(path.name)
    assert (loose, sorted(seen)) == (["lossy.py"], ["confirms.py", "lossy.py"])
