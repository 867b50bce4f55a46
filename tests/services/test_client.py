"""The client against a real database, with the memory broker or the embedded one, and a runner in an agent's place."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import io
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy
import psycopg2
import pytest

from pyfi_hpc import AsyncClient
from pyfi_hpc.brokers.base import Broker, Confirm, Publication
from pyfi_hpc.brokers.memory import MemoryBroker
from pyfi_hpc.brokers.postgres import PostgresBroker
from pyfi_hpc.client import api, rows, waiter
from pyfi_hpc.client.client import Client
from pyfi_hpc.client.futures import Future, as_completed
from pyfi_hpc.client.parcels import MOST_CALLS, UNKNOWN_CALLS
from pyfi_hpc.client.progress import progress
from pyfi_hpc.client.sender import ROOM_CALLS, WINDOW
from pyfi_hpc.client.unread import AHEAD
from pyfi_hpc.db import binary
from pyfi_hpc.errors import (
    BadInput,
    BrokerUnavailable,
    Cancelled,
    DatabaseUnavailable,
    Dead,
    PyfiError,
    RemoteError,
    WaitTimeout,
)
from pyfi_hpc.wire import values
from pyfi_hpc.wire.ids import call_digest, id_text, new_id
from pyfi_hpc.wire.messages import Call, Message, decode_message, encode
from tests.services.client_support import Place, Runner, Stubborn, Unhurried, World, execute, ids_in, settings_with
from tests.services.rabbitmq_support import RabbitService
from tests.support import eventually

# importing and opening


def test_importing_and_making_a_client_open_nothing() -> None:
    code = """
import socket, sys
real = socket.socket.connect
socket.socket.connect = lambda *_: sys.exit("it connects")
import pyfi_hpc, pyfi_hpc.client.client, pyfi_hpc.client.api, threading, psycopg2
psycopg2.connect = lambda *_, **__: sys.exit("it connects")
pyfi_hpc.Client()
assert threading.active_count() == 1, threading.enumerate()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# calls


def test_a_call_returns_its_value(world: World) -> None:
    socket = world.place.socket("double")
    world.runner("double")
    assert world.client().call(socket, 21, timeout=30) == 42


def test_a_future_tells_who_and_what_it_is(world: World) -> None:
    socket = world.place.socket("double")
    client = world.client()
    future = client.submit(socket, 21)
    assert future.status == "QUEUED"
    assert not future.running()
    assert f"QUEUED {socket}" in repr(future)
    world.runner("double")
    assert future.get(timeout=30) == 42
    assert future.result() is future.result()
    assert (future.status, future.attempts, future.logs()) == ("SUCCEEDED", [], "")
    assert uuid.UUID(future.id).version == 7


def test_keyword_arguments_and_large_ones_arrive(world: World, tmp_path: Path) -> None:
    add, double = world.place.socket("add"), world.place.socket("double")
    client = world.client()
    world.runner("add")
    assert client.call(add, 1, y=2, timeout=30) == 3
    future = client.submit(double, numpy.arange(100_000))
    (message,) = world.broker().peek(world.place.task_queue("double").name, 1)
    assert len(message.body) < 1000
    assert len(list((tmp_path / "blobs").rglob("*"))) >= 2
    assert not future.done()


def test_map_keeps_the_order_of_the_inputs(world: World) -> None:
    socket = world.place.socket("double")
    world.runner("double")
    assert list(world.client().map(socket, range(1000))) == [2 * x for x in range(1000)]


def test_a_caller_that_is_interrupted_while_it_sends_holds_up_nobody(world: World) -> None:
    class Interrupted(Unhurried):
        times = 1

        def publish(self, publication: Publication) -> Confirm:
            self.times -= 1
            if self.times >= 0:
                raise KeyboardInterrupt
            return super().publish(publication)

    socket = world.place.socket("double")
    runner, client = world.runner("double"), world.client(lambda _: Interrupted(world.hub))
    with pytest.raises(KeyboardInterrupt):
        client.submit(socket, 1)

    assert client.call(socket, 2, timeout=60) == 4
    assert [client.call(socket, x, timeout=60) for x in range(5)] == [0, 2, 4, 6, 8]
    # what was interrupted is sent all the same: nobody knows whether it was
    eventually(lambda: sum(runner.sizes) == 7)


def test_short_calls_share_messages_once_their_run_time_is_known(world: World) -> None:
    socket = world.place.socket("double")
    runner, client = world.runner("double"), world.client(lambda _: Unhurried(world.hub))
    assert list(client.map(socket, range(20))) == list(range(0, 40, 2))
    assert max(runner.sizes) <= UNKNOWN_CALLS
    eventually(lambda: client.session.way(socket).pace is not None)
    client.submit_many(socket, range(1000))
    eventually(lambda: max(runner.sizes) > UNKNOWN_CALLS)


def test_map_without_order_yields_all(world: World) -> None:
    socket = world.place.socket("double")
    world.runner("double")
    assert sorted(world.client().map(socket, range(200), max_in_flight=7, ordered=False)) == list(range(0, 400, 2))


def test_map_reads_inputs_only_as_there_is_room(world: World) -> None:
    socket = world.place.socket("double")
    world.runner("double")
    read = 0

    def inputs() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    values = world.client().map(socket, inputs(), max_in_flight=10)
    assert [next(values) for _ in range(5)] == [2, 4, 6, 8, 10]
    assert read <= 15


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_map_never_waits_for_a_call_that_it_has_not_sent(world: World, in_flight: int) -> None:
    socket = world.place.socket("double")
    world.runner("double")
    assert list(world.client().map(socket, range(100), max_in_flight=in_flight)) == list(range(0, 200, 2))


def test_map_raises_the_first_error_or_yields_it(world: World) -> None:
    socket = world.place.socket("fail")
    world.runner("fail")
    client = world.client()
    with pytest.raises(ValueError, match="one"):
        list(client.map(socket, ["one", "two"]))
    assert [str(each) for each in client.map(socket, ["one", "two"], return_exceptions=True)] == ["one", "two"]


def test_futures_work_with_concurrent_futures_and_asyncio(world: World) -> None:
    socket = world.place.socket("double")
    client = world.client()
    futures = client.submit_many(socket, range(20))
    done, pending = concurrent.futures.wait(futures, timeout=0.05)
    assert (len(done), len(pending)) == (0, 20)
    world.runner("double")
    done, pending = concurrent.futures.wait(futures, timeout=30)
    assert (len(done), len(pending)) == (20, 0)
    more = client.submit_many(socket, range(20))
    values = [each.result() for each in concurrent.futures.as_completed(more, 30)]  # type: ignore[var-annotated, arg-type]
    assert sorted(values) == list(range(0, 40, 2))
    assert sorted(each.result() for each in as_completed(client.submit_many(socket, range(9)), 30)) == list(
        range(0, 18, 2)
    )

    async def gathered() -> list[Any]:
        return list(await asyncio.gather(*[asyncio.wrap_future(each) for each in client.submit_many(socket, [1, 2])]))

    async def one() -> Any:
        return await client.submit(socket, 5)

    assert asyncio.run(gathered()) == [2, 4]
    assert asyncio.run(one()) == 10


def test_waiting_has_an_end_and_the_work_goes_on(world: World) -> None:
    socket = world.place.socket("double")
    client = world.client()
    future = client.submit(socket, 1)
    with pytest.raises(WaitTimeout) as timeout:
        future.result(timeout=0.01)
    assert isinstance(timeout.value, TimeoutError)
    with pytest.raises(TimeoutError):
        list(as_completed([future], timeout=0.01))
    world.runner("double")
    assert future.result(30) == 2


def test_callbacks_are_called_once_done_and_may_submit_again(world: World) -> None:
    socket = world.place.socket("double")
    client = world.client()
    world.runner("double")
    got: list[object] = []

    def again(future: Future) -> None:
        got.append(client.call(socket, future.result(), timeout=30))

    future = client.submit(socket, 1)
    future.add_done_callback(again)
    future.add_done_callback(lambda each: got.append(each.id))
    eventually(lambda: sorted(map(str, got)) == sorted(["4", future.id]))


def test_many_threads_share_a_client(world: World) -> None:
    socket = world.place.socket("double")
    client = world.client()
    world.runner("double")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda x: client.call(socket, x, timeout=60), range(300))) == list(range(0, 600, 2))


# replies are hints


def test_lost_replies_cost_latency_only(world: World) -> None:
    socket = world.place.socket("double")
    world.runner("double", replies=False)
    futures = world.client().submit_many(socket, range(1500))
    assert [each.result(30) for each in futures] == list(range(0, 3000, 2))


def test_a_result_is_there_for_another_client_by_id_and_by_its_last_digits(world: World) -> None:
    socket = world.place.socket("double")
    world.runner("double")
    with world.client() as client:
        future = client.submit(socket, 4)
        future.result(30)
    other = world.client()
    assert other.future(future.id).result(30) == 8
    assert other.future(future.id[-10:]).result(30) == 8
    with pytest.raises(BadInput, match="E_NOT_FOUND"):
        other.future("fffffffff0")
    with pytest.raises(BadInput, match="E_ID"):
        other.future("no id")


def test_an_id_nobody_knows_is_waited_for(world: World) -> None:
    future = world.client().future(uuid.uuid4())
    assert future.status == "QUEUED"
    with pytest.raises(WaitTimeout):
        future.result(0.1)


@pytest.mark.parametrize("spoken", [True, False], ids=["binary", "text"])
def test_a_large_value_is_read_from_its_row(world: World, monkeypatch: pytest.MonkeyPatch, spoken: bool) -> None:
    if not spoken:
        monkeypatch.setattr(binary, "read", lambda *_: None)
    socket = world.place.socket("double")
    world.runner("double", replies=False)
    data = bytes(range(256)) * 400
    assert world.client().call(socket, data, timeout=30) == 2 * data


@pytest.fixture
def bare(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[Future]]:
    """Makes so many futures of `double`, all done, by replies that leave out what came."""
    monkeypatch.setattr(waiter, "FIRST_SECONDS", 1000.0)  # nobody asks the record meanwhile
    socket = world.place.socket("double")
    world.runner("double", values=False)
    client = world.client()

    def made(count: int) -> list[Future]:
        futures = client.submit_many(socket, range(count))
        eventually(lambda: all(future.done() for future in futures), timeout=60)
        return futures

    return made


def counted_reads(monkeypatch: pytest.MonkeyPatch) -> list[list[bytes]]:
    """The ids of each read of values from now on."""
    asked: list[list[bytes]] = []
    read = rows.values

    def counted(cursor: Any, owner: str, ids: list[bytes]) -> dict[bytes, bytes]:
        asked.append(ids)
        return read(cursor, owner, ids)

    monkeypatch.setattr(rows, "values", counted)
    return asked


def test_values_that_replies_leave_out_are_read_many_at_a_time(
    bare: Callable[[int], list[Future]], monkeypatch: pytest.MonkeyPatch
) -> None:
    futures = bare(2 * AHEAD + 2)
    asked = counted_reads(monkeypatch)

    assert [future.result(60) for future in futures] == [2 * number for number in range(2 * AHEAD + 2)]
    assert len(asked) == 2 and len(asked[0]) == AHEAD + 1
    assert {identity for ids in asked for identity in ids} == {future.identity for future in futures}


def test_values_of_futures_that_nobody_holds_are_not_read(
    bare: Callable[[int], list[Future]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = bare(10)[7]
    gc.collect()
    asked = counted_reads(monkeypatch)

    assert kept.result(60) == 14

    assert asked == [[kept.identity]]


def test_a_value_that_is_forgotten_is_said_to_be_by_its_own_future_alone(
    world: World, bare: Callable[[int], list[Future]]
) -> None:
    first, second = bare(2)
    execute(world.uri, f"UPDATE pyfi.outcome SET value = NULL WHERE id = '{second.id}'")

    assert first.result(60) == 0
    with pytest.raises(BadInput) as caught:
        second.result(60)
    assert caught.value.code == "E_FORGOTTEN"


def test_waiting_outlives_the_database_sessions(world: World) -> None:
    socket = world.place.socket("double")
    client = world.client()
    future = client.submit(socket, 3)
    execute(world.uri, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ '^pyfi client'")
    world.runner("double", replies=False)
    assert future.result(30) == 6


# ids


def test_the_same_id_twice_is_one_outcome(world: World) -> None:
    socket = world.place.socket("double")
    client, identity = world.client(), uuid.uuid4()
    world.runner("double")
    assert client.submit(socket, 5, id=identity).result(30) == 10
    again = client.submit(socket, 5, id=str(identity))
    assert again.done()
    assert again.result() == 10
    with pytest.raises(BadInput, match="E_ID_CONFLICT"):
        client.submit(socket, 6, id=identity)
    with pytest.raises(BadInput, match="E_ID"):
        client.submit(socket, 6, id=uuid.UUID(int=0))


def test_another_call_of_an_id_that_its_client_waits_for_is_refused_at_once(world: World) -> None:
    socket = world.place.socket("double")
    client, identity = world.client(), uuid.uuid4()
    known = client.future(identity)
    first, again = (client.submit(socket, 5, id=identity) for _ in range(2))
    with pytest.raises(BadInput, match="E_ID_CONFLICT"):
        client.submit(socket, 6, id=identity)
    with pytest.raises(BadInput, match="E_ID_CONFLICT"):
        client.submit(socket, 6, id=identity, delay=60)
    world.runner("double")
    assert [future.result(60) for future in (first, again, known)] == [10, 10, 10]
    ((queued,),) = execute(world.uri, "SELECT count(*) FROM pyfi.hold WHERE id = %s", (str(identity),))
    assert queued == 0


def test_another_call_of_an_id_that_is_held_is_refused_at_once(world: World) -> None:
    socket = world.place.socket("double")
    identity = uuid.uuid4()
    first = world.client().submit(socket, 5, id=identity, delay=3600)
    other = world.client()
    with pytest.raises(BadInput, match="E_ID_CONFLICT"):
        other.submit(socket, 6, id=identity)
    # the same call may come sooner
    world.runner("double")
    assert [other.submit(socket, 5, id=identity).result(60), first.result(60)] == [10, 10]


def test_another_message_of_an_id_is_sent_to_none_where_one_task_has_decided_the_first(world: World) -> None:
    first, last = sorted(("add", "double"), key=lambda task: world.place.socket(task))
    identity = uuid.uuid4()
    sent = world.client().publish(world.place.queue, 20, id=identity)
    world.runner(last)
    eventually(lambda: [future.done() for future in sent.values()] == [False, True], timeout=60)

    with pytest.raises(BadInput, match="E_ID_CONFLICT"):
        world.client().publish(world.place.queue, 21, id=identity)
    assert world.broker().depth(world.place.task_queue(first).name).ready == 1


def test_a_conflict_found_later_is_told_by_the_future(world: World) -> None:
    socket, identity = world.place.socket("double"), uuid.uuid4()
    first, second = (world.client().submit(socket, x, id=identity) for x in (5, 6))
    world.runner("double", replies=False)
    assert first.result(60) == 10
    with pytest.raises(BadInput, match="E_ID_CONFLICT"):
        second.result(60)


def test_a_future_takes_no_reply_to_another_call_of_its_id(world: World) -> None:
    socket, identity = world.place.socket("double"), uuid.uuid4()
    client = world.client()
    # one that the client gave up, not being told that it was accepted
    session, way = client.session, client.session.way(socket)
    data = values.encode_arguments((5,), {})
    call = Call(identity.bytes, data, call_digest(way.socket.id, data))
    given_up = Message(1, new_id(), session.owner, way.socket.id, way.socket.generation, (call,), session.sender.reply)
    publication = Publication(way.socket.exchange, way.socket.key, encode(given_up), new_id().hex())
    world.broker().publish(publication).result(60)

    future = client.submit(socket, 6, id=identity)
    world.runner("double")

    with pytest.raises(BadInput, match="E_ID_CONFLICT"):
        future.result(60)
    assert client.future(identity).result(60) == 10


def test_a_reply_to_a_call_of_a_chosen_id_has_the_record_asked_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiter, "FIRST_SECONDS", 1000.0)  # nobody asks the record by and by
    socket = world.place.socket("double")
    world.runner("double", values=False)
    client = world.client()
    assert [client.submit(socket, x, id=uuid.uuid4()).result(60) for x in range(3)] == [0, 2, 4]
    # many at a time, beside others
    mixed = [client.submit(socket, x, id=None if x % 2 else uuid.uuid4()) for x in range(20)]
    assert [future.result(60) for future in mixed] == list(range(0, 40, 2))


# refusals before anything is sent


def test_wrong_arguments_and_unknown_sockets_are_refused_with_what_is_right(world: World) -> None:
    socket = world.place.socket("add")
    client = world.client()
    for args, kwargs in (((), {}), ((1, 2, 3), {}), ((1,), {"z": 1})):
        with pytest.raises(BadInput, match=r"(?s)E_TYPE.*add\(x, y=…\)"):
            client.submit(socket, *args, **kwargs)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="code is never sent"):
        client.submit(socket, lambda: None)
    with pytest.raises(BadInput, match=rf"(?s)E_NOT_FOUND.*{socket}"):
        client.submit(socket + "x")
    assert world.broker().depth(world.place.task_queue("add").name).ready == 0


def test_an_option_that_may_have_been_meant_for_the_task_is_refused(world: World) -> None:
    socket, client = world.place.socket("limited"), world.client()
    with pytest.raises(BadInput, match=r"limited\(x, timeout=…\) has a parameter of this name.*E_TYPE") as refused:
        client.submit(socket, 2, timeout=7)
    assert "give timeout to the task by its position, the second argument" in str(refused.value)
    with pytest.raises(BadInput, match="E_TYPE"):
        client.call(socket, 2, timeout=7)
    with pytest.raises(BadInput, match="E_TYPE"):
        asyncio.run(AsyncClient.of(client).submit(socket, 2, timeout=7))
    with pytest.raises(BadInput, match="E_TYPE"):
        asyncio.run(AsyncClient.of(client).call(socket, 2, timeout=7))
    # what can only mean one thing does
    for args, options in (((2,), {}), ((2, 7), {}), ((2, 7), {"timeout": 8}), ((2,), {"deadline": 2e9})):
        client.submit(socket, *args, **options)
    sent, _ = client.begin(socket, (2,), {"timeout": 7}, timeout=8)
    eventually(lambda: world.broker().depth(world.place.task_queue("limited").name).ready == 5, timeout=60)
    (*_, last) = world.broker().peek(world.place.task_queue("limited").name, 10)
    (call,) = decode_message(last.body).calls
    assert (call.id, call.timeout) == (sent.identity, 8.0)


def test_a_queue_that_was_never_declared_is_declared_by_the_first_call(world: World) -> None:
    socket = world.place.socket("double", declared=False)
    future = world.client().submit(socket, 8)
    world.runner("double")
    assert future.result(30) == 16


def test_a_queue_that_the_broker_lost_is_declared_again(world: World) -> None:
    socket = world.place.socket("double")
    client = world.client()
    client.submit(socket, 1)
    world.broker().delete(world.place.task_queue("double"))
    future = client.submit(socket, 8)
    world.runner("double")
    assert future.result(30) == 16


# acceptance


def test_a_full_queue_is_waited_for_and_then_told(database_uri: str, tmp_path: Path, close: ExitStack) -> None:
    world = World(database_uri, tmp_path, close, max_length=1)
    socket = world.place.socket("double")
    patient, hasty = world.client(), world.client(connect_seconds=0.3)
    first = patient.submit(socket, 1)
    with pytest.raises(BrokerUnavailable, match=r"(?s)E_BACKPRESSURE.*with its id, .*it has one outcome"):
        hasty.submit(socket, 2)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        later = pool.submit(patient.submit, socket, 3)
        with pytest.raises(TimeoutError):
            later.result(0.2)
        world.runner("double")
        assert later.result(30).result(30) == 6
    assert first.result(30) == 2


def test_a_call_to_a_full_queue_is_given_up_within_its_own_time(
    database_uri: str, tmp_path: Path, close: ExitStack
) -> None:
    world = World(database_uri, tmp_path, close, max_length=1)
    socket, client = world.place.socket("double"), world.client(connect_seconds=90)
    client.submit(socket, 1)
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="E_BACKPRESSURE") as refused:
        client.call(socket, 2, timeout=0.3)
    assert time.monotonic() - began < 60
    assert refused.value.facts["id"]
    # an accepted one goes on
    world.runner("double")
    with pytest.raises(WaitTimeout, match="after 0 s; the work goes on") as late:
        client.call(world.place.socket("add"), 2, timeout=0)
    assert client.future(late.value.facts["id"])


def test_a_call_that_waits_behind_more_patient_ones_is_given_up_within_its_own_time(world: World) -> None:
    socket, broker = world.place.socket("double"), Stubborn(world.hub)
    client = world.client(lambda _: broker, connect_seconds=90)
    patient = [client.begin(socket, (x,), {})[0] for x in range(5)]
    assert len(client.session.sender._busy[0].waiting) > 1
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="nothing was accepted"):
        client.call(socket, 10, timeout=0.3)
    assert time.monotonic() - began < 60
    assert not any(future.done() for future in patient)


def test_a_call_waits_for_a_database_within_its_own_time(tmp_path: Path) -> None:
    settings = settings_with("postgresql://pyfi@127.0.0.1:1/pyfi", tmp_path, connect_seconds=90)
    with Client(settings) as client:
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            client.call("any.task", timeout=0.3)
        with pytest.raises(DatabaseUnavailable):
            client.map("any.task", [1], timeout=0.3)
        assert time.monotonic() - began < 60


def test_a_broker_that_gives_no_word_is_told_and_what_was_not_sent_is_taken_back(world: World) -> None:
    socket = world.place.socket("double")
    broker = Stubborn(world.hub)
    broker.up = False
    client = world.client(lambda _: broker, connect_seconds=0.3)
    with pytest.raises(BrokerUnavailable, match="nothing was accepted") as refused:
        client.submit(socket, 1)
    # this broker answers questions, so it must be that it takes no messages
    assert refused.value.code == "E_BROKER_BLOCKED"
    broker.let_go()
    assert world.broker().depth(world.place.task_queue("double").name).ready == 0
    assert len(client.session.waiter) == 0


def test_what_may_have_been_sent_is_told_to_be_unknown(world: World) -> None:
    socket = world.place.socket("double")
    broker = Stubborn(world.hub)
    client = world.client(lambda _: broker, connect_seconds=0.5)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        submitted = pool.submit(client.submit, socket, 1)
        eventually(lambda: broker.held)
        broker.held[0][1].set_running_or_notify_cancel()
        with pytest.raises(BrokerUnavailable, match="not known whether") as unknown:
            submitted.result(30)
    assert uuid.UUID(unknown.value.facts["id"])


def test_submit_many_raises_with_exactly_the_ids_that_are_not_accepted(world: World) -> None:
    socket = world.place.socket("double")
    broker = Stubborn(world.hub)
    client = world.client(lambda _: broker)
    error = BadInput.of("E_LIMIT", "message", "too large")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        submitted = pool.submit(client.submit_many, socket, range(17))
        eventually(lambda: len(broker.held) >= 2)
        (first,) = broker.let_go(count=1)
        refused: list[Publication] = []
        while not submitted.done():
            refused += broker.let_go(error)
            concurrent.futures.wait([submitted], timeout=0.01)
        with pytest.raises(PyfiError) as raised:
            submitted.result(30)
    assert raised.value.code == "E_NOT_ACCEPTED"
    ids = [id_text(call.id) for each in refused for call in decode_message(each.body).calls]
    assert sorted(raised.value.facts["ids"]) == sorted(ids)
    assert raised.value.__cause__ is error
    (ready,) = world.broker().peek(world.place.task_queue("double").name, 5)
    assert ready.body == first.body


def test_submit_many_reads_no_more_once_calls_are_refused_and_tells_of_all_it_read(
    database_uri: str, tmp_path: Path, close: ExitStack
) -> None:
    world = World(database_uri, tmp_path, close, max_length=3)
    socket = world.place.socket("double")
    client = world.client(connect_seconds=0.5)
    with pytest.raises(BrokerUnavailable, match="E_NOT_ACCEPTED") as raised:
        client.submit_many(socket, itertools.count())
    futures, refused = raised.value.facts["futures"], set(raised.value.facts["ids"])
    accepted = [each for each in futures if each.id not in refused]
    assert raised.value.facts["reason"] == "E_BACKPRESSURE"
    assert len(refused) == len(futures) - len(accepted) > 0
    world.runner("double")
    # what is not named is accepted, each under the id of the input at its place
    assert [each.result(60) for each in accepted] == [2 * futures.index(each) for each in accepted]
    assert len(client.session.waiter) == 0
    assert all(each.exception(0).code == "E_BACKPRESSURE" for each in futures if each.id in refused)


def test_submit_many_names_what_was_not_accepted_also_where_its_inputs_break_off(world: World) -> None:
    socket = world.place.socket("double")
    broker = Stubborn(world.hub)
    broker.up = False
    client = world.client(lambda _: broker, connect_seconds=0.3)

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with pytest.raises(BrokerUnavailable, match="E_NOT_ACCEPTED") as raised:
        client.submit_many(socket, broken())
    assert [each.id for each in raised.value.facts["futures"]] == raised.value.facts["ids"]
    assert isinstance(raised.value.__context__, OSError)


def test_map_tells_what_was_not_accepted(world: World) -> None:
    socket = world.place.socket("double")
    broker = Stubborn(world.hub)
    client = world.client(lambda _: broker)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        mapped = pool.submit(lambda: list(client.map(socket, range(1))))
        eventually(lambda: broker.held)
        broker.let_go(BadInput.of("E_LIMIT", "message", "too large"))
        with pytest.raises(PyfiError, match="E_NOT_ACCEPTED"):
            mapped.result(30)


def test_callers_wait_when_too_much_is_unconfirmed(world: World) -> None:
    socket = world.place.socket("double")
    broker = Stubborn(world.hub)
    client = world.client(lambda _: broker, connect_seconds=60)
    taken = 0

    def inputs() -> Iterator[int]:
        nonlocal taken
        for taken in range(20_000):  # noqa: UP028
            yield taken

    thread = threading.Thread(target=lambda: client.submit_many(socket, inputs()))
    thread.start()
    eventually(lambda: len(broker.held) == WINDOW and client.session.sender._waiting >= ROOM_CALLS)
    assert taken < WINDOW * MOST_CALLS + ROOM_CALLS + MOST_CALLS
    assert len(broker.held) == WINDOW
    while thread.is_alive():
        broker.let_go()
        thread.join(0.001)
    assert taken == 19_999


def test_accepted_ids_are_logged(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "accepted"
    monkeypatch.setenv("PYFI_ACCEPTED_LOG", str(log))
    socket = world.place.socket("double")
    futures = world.client().submit_many(socket, range(100))
    assert sorted(ids_in(log.read_text())) == sorted(each.id for each in futures)


def test_a_call_that_is_answered_before_its_confirm_is_logged_once_when_the_client_closes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "accepted"
    monkeypatch.setenv("PYFI_ACCEPTED_LOG", str(log))
    socket, broker = world.place.socket("double"), Stubborn(world.hub)
    world.runner("double")
    client = world.client(lambda _: broker)
    answered, stream = client.begin(socket, (1,), {})
    silent, other = client.begin(socket, (2,), {})
    eventually(lambda: len(broker.held) == 2)
    (publication, confirm), _ = broker.held
    MemoryBroker.publish(broker, publication).result()
    assert answered.result(60) == 2

    client.close()

    assert ids_in(log.read_text()) == [answered.id]
    assert (stream.ticket.refused, [future for future, _ in other.ticket.refused]) == ([], [silent])
    confirm.set_result(None)
    assert ids_in(log.read_text()) == [answered.id]


def test_a_call_that_is_answered_before_its_time_is_over_is_accepted(world: World) -> None:
    socket, broker = world.place.socket("double"), Stubborn(world.hub)
    world.runner("double")
    client = world.client(lambda _: broker, connect_seconds=1.0)
    answered, stream = client.begin(socket, (1,), {})
    eventually(lambda: broker.held)
    MemoryBroker.publish(broker, broker.held[0][0]).result()
    assert answered.result(60) == 2
    assert stream.refused() == []


# errors


def test_a_task_error_comes_as_its_own_type_with_its_traceback_and_place(world: World) -> None:
    socket = world.place.socket("fail")
    world.runner("fail")
    client = world.client()
    future = client.submit(socket, "no such thing")
    with pytest.raises(ValueError, match="no such thing") as raised:
        future.result(30)
    assert "line 7" in str(raised.value.__cause__)
    notes = raised.value.__notes__
    assert notes[0] == f"{socket}@3f9c21d, attempt 1 of 3"
    assert notes[-1] == f"pyfi logs {future.id[-10:]}"
    assert future.exception() is raised.value
    assert future.status == "FAILED"


def test_an_error_type_nobody_imported_is_a_remote_error(world: World) -> None:
    socket = world.place.socket("fail")
    world.runner("fail")
    with pytest.raises(RemoteError) as raised:
        world.client().call(socket, "unheard.of.Error", timeout=30)
    assert raised.value.facts["type"] == "unheard.of.Error"


def test_the_dead_come_back_with_a_new_budget(world: World) -> None:
    socket = world.place.socket("fail")
    runner = world.runner("fail", dead=True)
    client = world.client()
    by_user, by_time = client.submit(socket, "wrong"), client.submit(socket, "timeout")
    with pytest.raises(ValueError, match="wrong") as wrong:
        by_user.result(30)
    assert isinstance(wrong.value.__context__, Dead)
    with pytest.raises(Dead) as late:
        by_time.result(30)
    assert late.value.facts["cause"] == "timeout"
    operations = client.operations
    mine = {by_user.id, by_time.id}
    dead = operations.dead()
    assert {each["id"] for each in dead} >= mine
    # newest first, as every list is that a limit may cut
    assert [each["since"] for each in dead] == sorted((each["since"] for each in dead), reverse=True)
    assert operations.dead_show(by_user.id[-10:])["args"] == ["wrong"]
    runner.close()
    again = by_user.retry()
    assert again.status == "QUEUED"
    rows = execute(
        world.uri,
        "SELECT o.status, o.serial, h.state, h.serial, h.used FROM pyfi.outcome o JOIN pyfi.hold h USING (owner, id)"
        " WHERE id = %s",
        (again.id,),
    )
    assert rows == [("REOPENED", 2, "DUE", 2, 0)]
    with pytest.raises(BadInput, match="E_NOT_FOUND"):
        operations.requeue([again.id])
    assert operations.drop([by_time.id]) == [by_time.id]
    assert by_time.id not in {each["id"] for each in operations.dead()}
    assert again.cancel()
    assert world.client().future(again.id).cancelled()


# cancelling


def test_what_never_ran_can_be_cancelled(world: World) -> None:
    socket = world.place.socket("double")
    client = world.client()
    heard: list[str] = []
    world.broker().on_hint("default", heard.append)
    future = client.submit(socket, 1)
    assert future.cancel()
    assert future.cancelled()
    with pytest.raises(Cancelled):
        future.result()
    with pytest.raises(concurrent.futures.CancelledError):
        future.exception()
    eventually(lambda: f"cancel {future.identity.hex()}" in heard)
    world.runner("double")
    other = client.submit(socket, 2)
    assert other.result(30) == 4
    assert not other.cancel()
    (told,) = client.cancel(other.id)
    assert (told["cancelled"], told["status"]) == (False, "SUCCEEDED")


def test_what_was_announced_is_cancelled_only_when_asked(world: World) -> None:
    socket = world.place.socket("double")
    future = world.client().submit(socket, 1)
    execute(
        world.uri,
        "INSERT INTO pyfi.attempt (owner, id, serial, status) VALUES (session_user, %s, 1, 'STARTED')",
        (future.id,),
    )
    assert future.running()
    assert not future.cancel()
    assert future.cancel(running=True)


def test_a_purged_queue_leaves_an_outcome_for_each_call(world: World) -> None:
    socket = world.place.socket("double")
    client = world.client()
    futures = client.submit_many(socket, range(30))
    assert len(client.operations.peek(world.place.queue, 5)) == 5
    assert client.operations.purge(world.place.queue) == 30
    assert all(isinstance(each.exception_or_cancelled(), Cancelled) for each in map(_Probe, futures))
    ((what,),) = execute(
        world.uri, "SELECT what FROM pyfi.event WHERE kind = 'queue' AND name = %s", (world.place.queue,)
    )
    assert "30" in what


class _Probe:
    def __init__(self, future: Future) -> None:
        self._future = future

    def exception_or_cancelled(self) -> BaseException | None:
        try:
            return self._future.exception(30)
        except Cancelled as cancelled:
            return cancelled


# the end


def test_a_closed_client_lets_go_of_those_who_wait(world: World) -> None:
    socket = world.place.socket("double")
    client = world.client()
    future = client.submit(socket, 1)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(future.result)
        eventually(lambda: future._latches)
        client.close()
        with pytest.raises(BadInput, match="closed"):
            waiting.result(30)
    with pytest.raises(BadInput, match="closed"):
        client.submit(socket, 1)


@pytest.mark.parametrize("point", ["client_before_publish", "client_after_publish"])
def test_a_client_killed_around_its_publish_leaves_either_no_call_or_one(
    database_uri: str, tmp_path: Path, close: ExitStack, point: str
) -> None:
    broker = PostgresBroker(database_uri)
    close.callback(broker.close)
    place = Place(database_uri, broker)
    socket, identity = place.socket("double"), str(uuid.uuid4())
    code = f"from pyfi_hpc import Client; Client().submit({socket!r}, 21, id={identity!r})"
    environment = os.environ | {
        "PYFI_FAILPOINT": f"{point}:crash",
        "PYFI_DATABASE_URI": database_uri,
        "PYFI_ACCEPTED_LOG": str(tmp_path / "log"),
    }
    killed = subprocess.run([sys.executable, "-c", code], env=environment, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "log").exists()
    waiting = broker.depth(place.task_queue("double").name).ready
    assert waiting == (0 if point == "client_before_publish" else 1)
    # the caller does not know which; the same id again is always right
    client = Client(settings_with(database_uri, tmp_path))
    close.callback(client.close)
    future = client.submit(socket, 21, id=identity)
    runner = Runner(database_uri, broker, place.task_queue("double"))
    close.callback(runner.close)
    assert future.result(30) == 42
    eventually(lambda: broker.depth(place.task_queue("double").name).ready == 0)
    assert execute(database_uri, "SELECT count(*) FROM pyfi.outcome WHERE id = %s", (identity,)) == [(1,)]


_ENDS_UNCONFIRMED = """
import sys
from pyfi_hpc import Client
from pyfi_hpc.brokers.base import Confirm
from pyfi_hpc.brokers.postgres import PostgresBroker

class Silent(PostgresBroker):
    def publish(self, publication):
        super().publish(publication)
        return Confirm()

print(Client(make_broker=Silent).call(sys.argv[1], 21))
"""


def test_a_program_that_ends_before_its_call_is_confirmed_has_logged_it(
    database_uri: str, tmp_path: Path, close: ExitStack
) -> None:
    broker = PostgresBroker(database_uri)
    close.callback(broker.close)
    place = Place(database_uri, broker)
    socket, told = place.socket("double"), tmp_path / "log"
    close.callback(Runner(database_uri, broker, place.task_queue("double")).close)
    environment = os.environ | {"PYFI_DATABASE_URI": database_uri, "PYFI_ACCEPTED_LOG": str(told)}
    command = [sys.executable, "-c", _ENDS_UNCONFIRMED, socket]
    ended = subprocess.run(command, env=environment, timeout=60, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "42\n"), ended.stderr
    assert len(ids_in(told.read_text())) == 1


def test_over_the_embedded_broker_everything_arrives(database_uri: str, tmp_path: Path, close: ExitStack) -> None:
    broker: Broker = PostgresBroker(database_uri)
    close.callback(broker.close)
    place = Place(database_uri, broker)
    socket = place.socket("double")
    runner = Runner(database_uri, broker, place.task_queue("double"))
    close.callback(runner.close)
    with Client(settings_with(database_uri, tmp_path)) as client:
        assert list(client.map(socket, range(2000))) == list(range(0, 4000, 2))


@pytest.mark.slow
def test_over_rabbitmq_everything_arrives_though_the_broker_is_killed(
    database_uri: str, tmp_path: Path, close: ExitStack, rabbitmq_service: RabbitService
) -> None:
    broker = rabbitmq_service.connect()
    close.callback(broker.close)
    place = Place(database_uri, broker)
    socket = place.socket("double")
    runner = Runner(database_uri, broker, place.task_queue("double"))
    close.callback(runner.close)
    log = tmp_path / "accepted"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYFI_ACCEPTED_LOG", str(log))
        client = Client(
            settings_with(database_uri, tmp_path, connect_seconds=120), make_broker=lambda _: rabbitmq_service.connect()
        )
        close.callback(client.close)
        assert list(client.map(socket, range(500))) == list(range(0, 1000, 2))
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            mapped = pool.submit(lambda: list(client.map(socket, slowly(range(3000)))))
            eventually(lambda: len(log.read_text().splitlines()) > 600)
            rabbitmq_service.restart()
            assert mapped.result(120) == list(range(0, 6000, 2))
    accepted = ids_in(log.read_text())
    assert len(set(accepted)) == len(accepted) == 3500
    ((found,),) = execute(database_uri, "SELECT count(*) FROM pyfi.outcome WHERE id = ANY(%s::uuid[])", (accepted,))
    assert found == 3500


def slowly(numbers: range) -> Iterator[int]:
    """The numbers, about a thousand in a second."""
    for number in numbers:
        threading.Event().wait(0.001)
        yield number


# shown


def test_progress_shows_lines_in_a_log_and_the_first_failure(world: World) -> None:
    good, bad = world.place.socket("double"), world.place.socket("fail")
    client = world.client()
    out = io.StringIO()
    futures = progress([*client.submit_many(good, range(19)), client.submit(bad, "ouch")], out=out)
    world.runner("double")
    world.runner("fail")
    assert len(list(as_completed(futures, 30))) == 20
    eventually(lambda: "20 of 20 (100 %), 1 failed" in out.getvalue())
    assert "ValueError: ouch" in out.getvalue()
    assert len(out.getvalue().splitlines()) <= 13


def test_the_objects_of_the_api_are_found_and_called(world: World) -> None:
    name = world.place.socket("double")
    world.runner("double")
    client = world.client()
    api.use(client)
    try:
        socket = api.Socket(name=name, queue={"name": world.place.queue}, processor=f"steps-{world.place.mark}")
        assert socket(4, timeout=30) == 8
        assert socket.delay(5).get(timeout=30) == 10
        assert api.Queue(world.place.queue).type == "direct"
        made = api.Queue(f"news-{world.place.mark}", type="topic")
        assert api.Queue(made.name).id == made.id
        with pytest.raises(BadInput, match="E_EXISTS"):
            api.Queue(made.name, type="fanout")
        with pytest.raises(BadInput, match="E_EXISTS"):
            api.Socket(name=name, task="other")
    finally:
        api.use(None)


def test_no_database_is_told_with_its_place_and_without_the_password(tmp_path: Path) -> None:
    uri = "postgresql://ana:secret@127.0.0.1:1/none"
    with Client(settings_with(uri, tmp_path, connect_seconds=0.2)) as client, pytest.raises(PyfiError) as raised:
        client.submit("double", 1)
    assert raised.value.code == "E_DB_UNAVAILABLE"
    assert "127.0.0.1:1" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_lost_session_is_opened_again(database_uri: str) -> None:
    from pyfi_hpc.client.link import Link

    link = Link(database_uri, "test link", 5.0)

    def pid(cursor: Any) -> int:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])

    first = link.run(pid)
    execute(database_uri, "SELECT pg_terminate_backend(%s)", (first,))
    assert link.run(pid) != first
    with pytest.raises((psycopg2.Error, PyfiError)):
        link.run(lambda cursor: cursor.execute("SELECT nonsense"))
    link.close()
