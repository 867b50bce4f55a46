"""The order of an invocation's steps, case by case: a committer on a real Postgres, with a broker in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from structlog.testing import capture_logs

from pyfi_hpc.agent.commit.committer import Committer
from pyfi_hpc.agent.commit.jobs import GiveBack, Lease, Look
from pyfi_hpc.agent.commit.letters import judge
from pyfi_hpc.agent.commit.mending import Mender
from pyfi_hpc.agent.commit.spool import Spool
from pyfi_hpc.agent.lots import Announced, Looked, Lot, child_call
from pyfi_hpc.brokers.base import Confirm, Publication, Reason, TaskQueue
from pyfi_hpc.brokers.letters import DETAIL, REASON
from pyfi_hpc.brokers.memory import Hub, MemoryBroker
from pyfi_hpc.db import record
from pyfi_hpc.db.record import NewAttempt, NewHold
from pyfi_hpc.errors import BrokerUnavailable
from pyfi_hpc.model.status import AttemptStatus, HoldState
from pyfi_hpc.wire import messages, values
from pyfi_hpc.wire.ids import child_id
from pyfi_hpc.wire.messages import Route
from tests.services.test_verdicts import (
    AGENT,
    OTHER,
    OWNER,
    call,
    commit,
    cursor,
    held,
    lease,
    lot_of,
    outcome,
    served,
    worked,
)
from tests.support import eventually

__all__ = ["cursor"]

NETWORK = "d"
NEXT = TaskQueue(NETWORK, "next", "n")
OWN = TaskQueue(NETWORK, "w", "k")


class Handed:
    """A delivery that tells what was true when it was acked."""

    queue = "q.d.w.k.g1"
    content_type: str | None = messages.CONTENT_TYPE
    content_encoding: str | None = None
    redelivered, delivery_count, received = False, 0, 0.0

    def __init__(self, body: bytes = b"", headers: Mapping[str, object] | None = None, look: Any = None) -> None:
        self.body, self._look = body, look
        self.headers: Mapping[str, object] = headers or {}
        self.acked: list[object] = []

    def ack(self) -> None:
        """The message is settled."""
        self.acked.append(self._look() if self._look else True)

    def held(self) -> bool:
        """It is in hands."""
        return True


class Moody(MemoryBroker):
    """A broker that refuses its next letter, and may be slow to say what it has."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self.refusals = 0
        #: confirms that nobody has been told of; None where it says at once what it has
        self.unsaid: list[Confirm] | None = None

    def publish(self, publication: Publication) -> Confirm:
        """Take it, and say so once it is told to."""
        said = super().publish(publication)
        if self.unsaid is None:
            return said
        self.unsaid.append(Confirm())
        return self.unsaid[-1]

    def set_aside(self, network: str, publication: Publication, reason: Reason, detail: str) -> Confirm:
        """Refuse as many letters as it is told to."""
        if self.refusals:
            self.refusals -= 1
            refused = Confirm()
            refused.set_exception(BrokerUnavailable("E_BROKER", "not now"))
            return refused
        return super().set_aside(network, publication, reason, detail)


@pytest.fixture
def broker() -> Iterator[Moody]:
    made = Moody(Hub())
    made.declare(NEXT)
    made.declare(OWN)
    yield made
    made.close()


@pytest.fixture
def committer(database_uri: str, broker: Moody, tmp_path: Path) -> Iterator[Committer]:
    def post(news: Looked | Announced) -> None:
        """Nobody waits for it."""

    made = Committer(
        lambda: psycopg2.connect(database_uri), broker, Mender(broker), NETWORK, AGENT, Spool(tmp_path, AGENT), post,
        lambda seconds: None,
    )  # fmt: skip
    made.start()
    yield made
    made.stop(10.0)
    assert not made.is_alive()


def forwarded() -> Route:
    """To the next task's queue."""
    return Route(bytes(15) + b"\1", bytes(15) + b"\2", bytes(15) + b"\3", 1, NEXT.exchange, NEXT.key)


def test_a_hold_row_goes_before_its_delivery_is_acked(
    cursor: Any, committer: Committer, broker: Moody, database_uri: str
) -> None:
    lot = lot_of(call(serial=2), socket=served(routes=(forwarded(),)), careful=True)
    record.put_holds(cursor, [NewHold(lot.message, OWN.exchange, OWN.key, HoldState.OUT)])

    def row() -> object:
        with closing(psycopg2.connect(database_uri)) as connection, connection.cursor() as other:
            return held(other, lot)

    lot.delivery = handed = Handed(look=row)

    committer.put(worked(lot))

    eventually(lambda: handed.acked)
    # were it acked first, a crash in between would leave the row for ever: nothing comes back for it
    assert handed.acked == [None]
    assert broker.depth(NEXT.name).ready == 1


def test_a_delivery_whose_call_is_decided_elsewhere_stays_until_its_forwards_are_out(
    cursor: Any, committer: Committer, broker: Moody
) -> None:
    lot = lot_of(call(), socket=served(routes=(forwarded(),)))
    lot.delivery = handed = Handed()
    # another agent commits it, and dies before it forwards
    commit(cursor, worked(lot_of(lot.call(0), socket=served(routes=(forwarded(),))), "theirs"), agent=OTHER)

    lot.leased[0] = 0
    committer.put(Lease(lot, (0,), ()))
    eventually(lambda: not lot.leased)
    assert (handed.acked, broker.depth(NEXT.name).ready) == ([], 0)
    committer.put(worked(lot, "mine"))

    eventually(lambda: handed.acked)
    (sent,) = broker.peek(NEXT.name, 9)
    assert messages.decode_message(sent.body).calls[0].args == values.arguments_of(values.encode("theirs"))


@pytest.mark.parametrize("followed", [True, False], ids=["its child is decided", "nobody has its child"])
def test_a_decided_call_that_comes_back_sends_its_child_only_where_nobody_has_it(
    cursor: Any, committer: Committer, broker: Moody, followed: bool
) -> None:
    socket = served(routes=(forwarded(),))
    first = lot_of(call(), socket=socket)
    commit(cursor, worked(first, "theirs"), agent=OTHER)
    child = child_call(child_id(first.call(0).id, forwarded().edge), values.encode("theirs"), forwarded())
    if followed:
        commit(cursor, worked(lot_of(child), "child"), agent=OTHER)
    again = lot_of(first.call(0), socket=socket, careful=True)
    again.delivery = handed = Handed()

    committer.put(Look(again))

    eventually(lambda: handed.acked)
    assert [each.id for sent in broker.peek(NEXT.name, 9) for each in messages.decode_message(sent.body).calls] == (
        [] if followed else [child.id]
    )


def test_a_leased_call_that_is_given_back_is_due_and_published_by_its_row_alone(
    cursor: Any, committer: Committer, broker: Moody
) -> None:
    lot = lot_of(call(1), call(2))
    lot.delivery = handed = Handed()
    lot.leased[0] = 0
    committer.put(Lease(lot, (0,), ()))
    eventually(lambda: lot.leased[0])

    committer.put(GiveBack(lot, (0, 1)))

    eventually(lambda: handed.acked)
    assert held(cursor, lot) == ("DUE", 2, 0, 0)
    (sent,) = broker.peek(OWN.name, 9)
    assert messages.decode_message(sent.body).calls == (lot.call(1),)


def test_a_committer_ends_only_once_the_broker_has_said_that_it_holds_what_was_given_back(
    committer: Committer, broker: Moody
) -> None:
    lot = lot_of(call(1))
    lot.delivery = handed = Handed()
    unsaid: list[Confirm] = []
    broker.unsaid = unsaid
    committer.put(GiveBack(lot, (0,)))
    eventually(lambda: unsaid)

    stopping = threading.Thread(target=committer.stop, args=(60.0,))
    stopping.start()
    # it looks twenty times a second whether it may
    stopping.join(0.5)
    assert committer.is_alive()

    unsaid[0].set_running_or_notify_cancel()
    unsaid[0].set_result(None)
    stopping.join(60.0)
    assert handed.acked and not committer.is_alive()


def test_a_call_whose_letter_was_refused_is_set_aside_later(cursor: Any, committer: Committer, broker: Moody) -> None:
    first = call(1)
    commit(cursor, worked(lot_of(first)))
    lot = lot_of(call(2, identity=first.id))
    lot.delivery = handed = Handed()
    broker.refusals = 1

    committer.put(worked(lot))

    eventually(lambda: handed.acked)
    assert broker.depth(f"dead.{NETWORK}").ready == 1


def test_the_hold_row_of_a_call_that_lost_its_id_goes_once_it_is_set_aside_and_before_the_ack(
    cursor: Any, committer: Committer, broker: Moody, database_uri: str
) -> None:
    held_call = call(1, serial=2)
    lot = lot_of(held_call, careful=True)
    record.put_holds(cursor, [NewHold(lot.message, OWN.exchange, OWN.key, HoldState.OUT)])
    # the same id was submitted with other arguments meanwhile, and was decided first
    commit(cursor, worked(lot_of(call(2, identity=held_call.id))))

    def seen() -> object:
        with closing(psycopg2.connect(database_uri)) as connection, connection.cursor() as other:
            return held(other, lot), broker.depth(f"dead.{NETWORK}").ready

    lot.delivery = handed = Handed(look=seen)
    committer.put(Look(lot))

    eventually(lambda: handed.acked)
    assert handed.acked == [(None, 1)]


def test_the_hold_row_of_the_call_that_has_an_id_stays_when_another_is_set_aside(
    cursor: Any, committer: Committer
) -> None:
    first = lot_of(call(1), socket=served(routes=(forwarded(),)))
    epoch = lease(cursor, first, agent=OTHER)
    assert epoch is not None
    first.leased[0] = epoch
    commit(cursor, worked(first), agent=OTHER)
    lot = lot_of(call(2, identity=first.call(0).id))
    lot.delivery = handed = Handed()

    committer.put(worked(lot))

    eventually(lambda: handed.acked)
    # its outcome is in, and not forwarded yet
    assert held(cursor, first) == ("LEASED", 1, 0, 0)


def test_a_full_disk_ends_no_committer(cursor: Any, database_uri: str, broker: Moody, tmp_path: Path) -> None:
    class Full(Spool):
        def write(self, finished: Any) -> int:
            raise OSError(28, "No space left on device")

    tries: list[int] = []

    def connect() -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise psycopg2.OperationalError("could not extend file: No space left on device")
        return psycopg2.connect(database_uri)

    committer = Committer(
        connect, broker, Mender(broker), NETWORK, AGENT, Full(tmp_path, AGENT), lambda news: None, lambda seconds: None
    )
    lot = lot_of(call())
    lot.delivery = handed = Handed()
    committer.start()
    committer.put(worked(lot))

    eventually(lambda: handed.acked)
    assert outcome(cursor, lot) is not None
    committer.stop(10.0)


def test_a_database_that_takes_long_is_told_of_once_and_when_it_is_over(
    cursor: Any, committer: Committer, database_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lot = lot_of(call())
    lot.delivery = handed = Handed()
    # what is said then is not what everybody's loggers are set up to say
    over = threading.Event()
    monkeypatch.setattr(committer, "_quick_again", over.set)

    def looked() -> object:
        """What is told of it, as if a minute had passed."""
        committer.look(time.monotonic() + 60)
        return [each["log_level"] for each in told if each["event"].startswith("the database is slow")]

    with capture_logs() as told, closing(psycopg2.connect(database_uri)) as connection:
        with connection.cursor() as other:
            other.execute("LOCK TABLE pyfi.outcome IN SHARE ROW EXCLUSIVE MODE")
        committer.put(worked(lot))
        eventually(looked, timeout=60)
        assert (looked(), handed.acked) == (["warning"], [])
        assert not over.is_set()
        connection.rollback()
        assert over.wait(60)
    eventually(lambda: handed.acked, timeout=60)


def dead_letter(lot: Lot) -> Handed:
    """What came back too often."""
    return Handed(messages.encode(lot.message), {REASON: Reason.DELIVERY_LIMIT.value, DETAIL: "too often"})


def test_a_letter_of_an_overtaken_attempt_changes_nothing(cursor: Any) -> None:
    old = lot_of(call())
    record.insert_attempts(
        cursor, [NewAttempt(OWNER, old.call(0).id, 1, AttemptStatus.STARTED, agent=OTHER, started=1.0)]
    )
    later = lot_of(call(serial=2, identity=old.call(0).id), careful=True)
    record.put_holds(cursor, [NewHold(later.message, OWN.exchange, OWN.key, HoldState.OUT)])

    judge(cursor, NETWORK, dead_letter(old))

    assert (outcome(cursor, old), held(cursor, old)) == (None, ("OUT", 2, 0, 0))


def test_a_letter_of_a_leased_call_changes_nothing(cursor: Any) -> None:
    lot = lot_of(call())
    assert lease(cursor, lot, agent=OTHER)
    judge(cursor, NETWORK, dead_letter(lot))
    assert (outcome(cursor, lot), held(cursor, lot)) == (None, ("LEASED", 1, 0, 0))


def test_a_torn_spool_keeps_what_stands_before_the_tear(tmp_path: Path) -> None:
    whole = lot_of(call())
    Spool(tmp_path, OTHER).write([worked(whole)])
    (path,) = tmp_path.glob("*.spool")
    path.write_bytes(path.read_bytes() + (5).to_bytes(4, "big") + b"\xc1torn" + b"more")

    ((_, entries),) = Spool(tmp_path, AGENT).left_over()

    assert [entry.message.calls for entry in entries] == [whole.message.calls]
