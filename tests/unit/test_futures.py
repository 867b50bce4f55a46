"""Futures and what stands behind them, without any service: protocol, errors by name, messages' sizes, signatures."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pyfi_hpc.brokers.base import Confirm, Publication, TaskQueue
from pyfi_hpc.brokers.memory import Hub, MemoryBroker
from pyfi_hpc.client import remote
from pyfi_hpc.client.directory import Code, Level, Way
from pyfi_hpc.client.futures import Future
from pyfi_hpc.client.newids import NewIds
from pyfi_hpc.client.pacing import learned
from pyfi_hpc.client.parcels import EAGER_PARCELS, MOST_CALLS, UNKNOWN_CALLS, Item, Lane
from pyfi_hpc.client.remote import Provenance, known_type, raised
from pyfi_hpc.client.sender import ROOM_CALLS, WINDOW, Sender
from pyfi_hpc.client.signature import ArgumentCheck
from pyfi_hpc.client.tickets import AcceptedLog, Ticket, not_accepted
from pyfi_hpc.db.topology import SocketInfo
from pyfi_hpc.errors import (
    BadInput,
    BrokerUnavailable,
    Cancelled,
    Dead,
    PyfiError,
    RemoteError,
    WaitTimeout,
    WorkerLost,
)
from pyfi_hpc.model.priority import Priority
from pyfi_hpc.wire import values
from pyfi_hpc.wire.ids import new_id
from pyfi_hpc.wire.limits import INLINE_BYTES
from pyfi_hpc.wire.messages import Answer, Call, ErrorRecord, Kind, decode_message
from tests.support import eventually


class Home:
    """As much of a session as futures without a database need."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def value(self, future: Future) -> object:
        answer = future.answer
        assert isinstance(answer, Answer)
        assert answer.value is not None
        return values.decode(answer.value)

    def error(self, future: Future) -> BaseException:
        answer = future.answer
        assert answer is not None
        return raised(future.identity, answer.kind, answer.error, None) if isinstance(answer, Answer) else answer

    def closed_error(self) -> PyfiError | None:
        return None

    def later(self, callback: Callable[[Future], object], future: Future) -> None:
        callback(future)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"asked for {name}")


def a_future(socket: str = "detect.run") -> Future:
    return Future(Home(), new_id(), socket)


def good(future: Future, value: object = 7) -> Answer:
    return Answer(future.identity, Kind.VALUE, values.encode(value))


def bad(future: Future, kind: Kind = Kind.ERROR, **error: Any) -> Answer:
    return Answer(future.identity, kind, None, ErrorRecord(**{"type": "ValueError", "message": "no", **error}))


# the protocol


def test_the_first_outcome_stays() -> None:
    future = a_future()
    assert future.settle(good(future))
    assert not future.settle(bad(future))
    assert (future.done(), future.cancelled(), future.result(), future.exception()) == (True, False, 7, None)


def test_waiting_ends_with_the_outcome_or_with_its_time() -> None:
    future = a_future()
    with pytest.raises(WaitTimeout) as late:
        future.result(0.01)
    assert isinstance(late.value, TimeoutError)
    assert late.value.facts["id"] == future.id
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(future.result, 20) for _ in range(8)]
        eventually(lambda: len(future._waiters) == 8)
        future.settle(good(future))
        assert [each.result(20) for each in waiting] == [7] * 8
    assert future._waiters == []


def test_wait_knows_results_errors_and_cancelled_ones_apart() -> None:
    futures: list[Any] = [a_future() for _ in range(3)]
    futures[1].settle(bad(futures[1]))
    done, left = concurrent.futures.wait(futures, 5, return_when=concurrent.futures.FIRST_EXCEPTION)
    assert (done, len(left)) == ({futures[1]}, 2)
    threading.Timer(0.02, lambda: futures[2].settle(Answer(futures[2].identity, Kind.CANCELLED))).start()
    done, left = concurrent.futures.wait([futures[0], futures[2]], 5, return_when=concurrent.futures.FIRST_COMPLETED)
    assert (done, left) == ({futures[2]}, {futures[0]})
    assert futures[2].cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        futures[2].result()


def test_callbacks_come_once_each_and_their_errors_go_nowhere() -> None:
    future, got = a_future(), list[object]()
    future.add_done_callback(lambda each: got.append(each.result()))
    future.settle(good(future))
    future.add_done_callback(got.append)
    future.add_done_callback(lambda _: 1 / 0)
    assert got == [7, future]


def test_nobody_but_the_record_decides() -> None:
    for change in ("set_result", "set_exception"):
        with pytest.raises(RuntimeError):
            getattr(a_future(), change)(None)


def test_a_future_shows_itself_in_one_escaped_line() -> None:
    future = a_future("<b>")
    assert repr(future) == f"<Future {future.id.replace('-', '')[-10:]} QUEUED <b> 0 s>"
    assert "&lt;b&gt;" in future._repr_html_()
    future.settle(bad(future, Kind.DEAD))
    assert "DEAD" in repr(future)


# errors by name


class Refused(Exception):
    """Known here, so known by name."""

    class Inner(Exception):
        """Nested."""


class Picky(Exception):
    """Wants more than a message."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(one + two)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ValueError", ValueError),
        ("builtins.KeyError", KeyError),
        (f"{__name__}.Refused", Refused),
        (f"{__name__}.Refused.Inner", Refused.Inner),
        ("json.decoder.JSONDecodeError", __import__("json").JSONDecodeError),
        ("SystemExit", None),
        ("KeyboardInterrupt", None),
        ("StopIteration", None),
        ("print", None),
        ("os.system", None),
        ("antigravity.Error", None),
        ("", None),
        (".", None),
    ],
)
def test_only_exceptions_that_are_there_are_found(name: str, kind: type | None) -> None:
    assert known_type(name) is kind
    assert "antigravity" not in __import__("sys").modules


def test_the_tasks_own_type_has_its_traceback_and_notes() -> None:
    made_by = Provenance("detect.run", "3f9c21d" + "0" * 33, "gpu003", (3,), 3, 3)
    identity = uuid.UUID("0192f3c1-0000-7000-8000-0123456789ab").bytes
    error = raised(identity, Kind.ERROR, ErrorRecord("ValueError", "no", "Traceback …"), made_by)
    assert type(error) is ValueError
    assert isinstance(error.__cause__, remote.RemoteTraceback)
    assert error.__notes__ == ["detect.run@3f9c21d on gpu003 core 3, attempt 3 of 3", "pyfi logs 23456789ab"]


@pytest.mark.parametrize("name", [f"{__name__}.Picky", "unheard.of.Error", "UnicodeDecodeError"])
def test_what_cannot_be_built_again_is_a_remote_error(name: str) -> None:
    error = raised(new_id(), Kind.ERROR, ErrorRecord(name, "no"), None)
    assert isinstance(error, RemoteError)
    assert error.facts["type"] == name


def test_the_dead_tell_their_cause() -> None:
    own = raised(new_id(), Kind.DEAD, ErrorRecord("ValueError", "no"), None)
    assert type(own) is ValueError
    assert isinstance(own.__context__, Dead)
    lost = raised(new_id(), Kind.DEAD, ErrorRecord("x", "SIGKILL", "", "E_WORKER_LOST", "signal"), None)
    assert isinstance(lost, Dead)
    assert (lost.code, lost.facts["cause"]) == ("E_WORKER_LOST", "signal")
    assert isinstance(lost.__cause__, WorkerLost)
    refused = raised(new_id(), Kind.ERROR, ErrorRecord("x", "a lambda", "", "E_TYPE", "refused"), None)
    assert isinstance(refused, RemoteError)
    assert refused.code == "E_TYPE"
    assert isinstance(raised(new_id(), Kind.CANCELLED, None, None), Cancelled)


# what travels together


def a_way(pace: float | None = None, signature: dict[str, Any] | None = None) -> Way:
    info = SocketInfo(
        b"s" * 16, "detect.run", "ana", "detect", "0" * 40, "run", "q.default.w", "k", 1, True, None, signature
    )
    way = Way(info)
    if pace is not None:
        way.pace = pace
    return way


def test_sockets_of_the_same_code_share_what_is_learned_of_it() -> None:
    paces: dict[Code, float] = {}
    usual = a_way().socket
    way, beside = Way(usual, paces), Way(replace(usual, name="detect.again", key="k2"), paces)
    other = Way(replace(usual, name="detect.train", task="train"), paces)
    namesake = Way(replace(usual, name="learn.run", processor="learn"), paces)
    way.pace = 0.001
    assert [each.pace for each in (beside, Level(beside, Priority.HIGH), other, namesake)] == [0.001, 0.001, None, None]

    Level(beside, Priority.LOW).pace = 0.002
    assert way.pace == 0.002

    way.renewed(replace(usual, commit="1" * 40))
    assert [each.pace for each in (way, beside)] == [None, 0.002]


def an_item(ticket: Ticket | None = None, size: int = 10, patience: float = 60) -> Item:
    future = a_future()
    call = Call(future.identity, b"x" * size, b"d" * 16)
    return Item(future, call, ticket or Ticket(), time.monotonic() + patience)


@pytest.mark.parametrize(
    ("before", "seconds", "calls", "after"),
    [
        (None, 0.2, 1, 0.2),
        (0.026, 0.00002, 64, 0.00002),  # the first call of each worker loaded NumPy
        (0.026, 0.00002, 16, 0.00002),
        (0.02, 0.0, 8, 0.01),
        (0.02, 0.0, 4, 0.015),
        (0.0, 0.02, 64, 0.01),  # perhaps workers had no cores for a moment
        (0.0, 0.02, 4, 0.005),
    ],
)
def test_that_calls_are_short_after_all_is_believed_at_once_and_that_they_are_long_by_half(
    before: float | None, seconds: float, calls: int, after: float
) -> None:
    assert learned(before, seconds, calls) == pytest.approx(after)


@pytest.mark.parametrize(
    ("pace", "calls"), [(None, UNKNOWN_CALLS), (1e-6, MOST_CALLS), (0.001, 5), (0.1, 1), (3600, 1), (0.0, MOST_CALLS)]
)
def test_a_message_holds_a_few_milliseconds_of_work(pace: float | None, calls: int) -> None:
    lane = Lane(a_way(pace))
    lane.waiting.extend(an_item() for _ in range(MOST_CALLS + 1))
    assert len(lane.take()) == calls


def test_a_message_holds_250_kibibytes_or_one_call() -> None:
    lane = Lane(a_way(1e-6))
    lane.waiting.extend(an_item(size=125 * 1024) for _ in range(3))
    lane.waiting.append(an_item(size=INLINE_BYTES))
    assert [len(lane.take()) for _ in range(3)] == [2, 1, 1]


@pytest.mark.parametrize("pace", [None, 1e-6])
def test_who_wants_one_call_in_a_message_gets_that(pace: float | None) -> None:
    lane = Lane(a_way(pace), most=1)
    lane.waiting.extend(an_item() for _ in range(3))
    lane.unconfirmed = EAGER_PARCELS
    assert lane.ready  # it waits for no confirm: only the window bounds how many are under way
    assert [len(lane.take()) for _ in range(3)] == [1, 1, 1]


def test_what_is_not_full_waits_only_for_confirms() -> None:
    lane = Lane(a_way(1e-6))
    assert not lane.ready
    lane.waiting.append(an_item())
    assert lane.ready
    lane.unconfirmed = EAGER_PARCELS
    assert not lane.ready
    lane.waiting.extend(an_item() for _ in range(MOST_CALLS))
    assert lane.ready


class Waiting(MemoryBroker):
    """Gives no confirm by itself."""

    def __init__(self) -> None:
        super().__init__(Hub())
        self.sent: list[Confirm] = []

    def publish(self, publication: Publication) -> Confirm:
        self.sent.append(Confirm())
        return self.sent[-1]


@pytest.fixture
def waiting() -> Iterator[tuple[Waiting, Sender]]:
    """A sender of messages of one call, and its broker."""
    broker = Waiting()
    sender = Sender(broker, "ana", "here", lambda name: None, AcceptedLog(None), most_calls=1)
    yield broker, sender
    for confirm in broker.sent:
        if not confirm.done():
            confirm.set_result(None)
    sender.close()
    broker.close()


def test_once_the_window_is_full_the_next_messages_go_together(waiting: tuple[Waiting, Sender]) -> None:
    broker, sender = waiting
    sender.put(a_way(), [an_item() for _ in range(2 * WINDOW)])
    assert len(broker.sent) == WINDOW

    for confirm in broker.sent[: WINDOW // 2 - 1]:
        confirm.set_result(None)
    assert len(broker.sent) == WINDOW

    broker.sent[WINDOW // 2].set_result(None)
    assert len(broker.sent) == WINDOW + WINDOW // 2


def test_where_the_window_is_not_full_a_message_goes_at_once(waiting: tuple[Waiting, Sender]) -> None:
    broker, sender = waiting
    for count in range(1, 6):
        sender.put(a_way(), [an_item()])
        assert len(broker.sent) == count


def test_who_waits_for_room_goes_on_once_there_is_some_for_many(waiting: tuple[Waiting, Sender]) -> None:
    broker, sender = waiting
    sender.put(a_way(), [an_item() for _ in range(ROOM_CALLS + WINDOW)])
    crowded = threading.Thread(target=sender.put, args=[a_way(), [an_item()]])
    crowded.start()
    eventually(lambda: sender._crowded)

    while len(broker.sent) <= ROOM_CALLS // 4:
        assert crowded.is_alive()
        for confirm in broker.sent[-WINDOW:]:
            if not confirm.done():
                confirm.set_result(None)

    eventually(lambda: not crowded.is_alive())


def test_the_sender_sends_and_tells_each_ticket(tmp_path: Any) -> None:
    hub = Hub()
    broker = MemoryBroker(hub)
    queue = TaskQueue("default", "w", "k")
    broker.declare(queue)
    log = tmp_path / "accepted"
    sender = Sender(broker, "ana", "here", lambda name: None, AcceptedLog(str(log)))
    way, tickets = a_way(1e-6), [Ticket(), Ticket()]
    items = [an_item(tickets[index % 2]) for index in range(100)]
    sender.put(way, items)
    for ticket in tickets:
        ticket.wait()
    sender.close()
    sent = [decode_message(each.body) for each in broker.peek(queue.name, 1000)]
    assert [call.id for message in sent for call in message.calls] == [item.future.identity for item in items]
    assert {(message.owner, message.reply) for message in sent} == {("ana", "here")}
    assert log.read_text().splitlines() == [item.future.id for item in items]
    assert not any(ticket.refused for ticket in tickets)
    broker.close()


def test_a_closed_sender_refuses_what_it_has_not_sent() -> None:
    broker = MemoryBroker(Hub())
    sender = Sender(broker, "ana", "", lambda name: None, AcceptedLog(None))
    ticket = Ticket()
    # no queue is bound there: it is tried again after somebody has declared it, which nobody does
    sender.put(a_way(), [an_item(ticket)])
    sender.close()
    ticket.wait()
    assert len(ticket.refused) == 1
    later = Ticket()
    sender.put(a_way(), [an_item(later)])
    assert len(later.refused) == 1
    broker.close()


def test_what_is_not_accepted_is_listed_in_full_for_programs() -> None:
    error = BrokerUnavailable("E_BROKER", "gone")
    refused = [(a_future(), error) for _ in range(9)]
    told = not_accepted([*refused])
    assert told.facts["ids"] == [future.id for future, _ in refused]
    assert "and 4 more" in str(told)
    assert (told.exit_code, told.__cause__) == (3, error)
    assert not_accepted([(a_future(), BadInput.of("E_LIMIT", "x", "y"))]).exit_code == 2


# arguments


def parameter(name: str, kind: str = "positional_or_keyword", has_default: bool = False) -> dict[str, Any]:
    return {"name": name, "kind": kind, "has_default": has_default}


@pytest.mark.parametrize(
    ("args", "kwargs", "fits"),
    [
        ((1,), {}, True),
        ((1, 2), {}, True),
        ((1,), {"y": 2}, True),
        ((), {"x": 1, "z": 3}, True),
        ((), {}, False),
        ((1, 2, 3), {}, False),
        ((1,), {"x": 1}, False),
        ((1,), {"w": 1}, False),
    ],
)
def test_arguments_are_held_against_the_signature(args: tuple[int, ...], kwargs: dict[str, int], fits: bool) -> None:
    parameters = [parameter("x"), parameter("y", has_default=True), parameter("z", "keyword_only", has_default=True)]
    check = ArgumentCheck(a_way(signature={"parameters": parameters}).socket)
    if fits:
        check(args, kwargs)
        return
    with pytest.raises(BadInput, match=r"(?s)E_TYPE.*run\(x, y=…, \*, z=…\)"):
        check(args, kwargs)


def test_a_needed_keyword_is_missed_and_unknown_signatures_pass() -> None:
    check = ArgumentCheck(a_way(signature={"parameters": [parameter("x"), parameter("z", "keyword_only")]}).socket)
    with pytest.raises(BadInput):
        check((1,), {})
    check((1,), {"z": 1})
    unusable: list[dict[str, Any] | None] = [None, {}, {"parameters": [parameter("x", "odd")]}, {"parameters": [{}]}]
    for unknown in unusable:
        ArgumentCheck(a_way(signature=unknown).socket)((1, 2), {"z": 3})


# ids


def test_new_ids_are_uuids_of_version_seven_and_differ_also_after_a_fork() -> None:
    ids = NewIds()
    made = {uuid.UUID(bytes=ids.next()) for _ in range(1000)}
    assert len(made) == 1000
    assert {(each.version, each.variant) for each in made} == {(7, uuid.RFC_4122)}
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writing, ids.next())
        os._exit(0)
    mine = ids.next()
    os.waitpid(child, 0)
    assert os.read(reading, 16)[6:] != mine[6:]
    os.close(reading)
    os.close(writing)
