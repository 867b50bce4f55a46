"""`Client.map` against a real database: lazy, bounded, in order or as they come, and nothing left behind."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import tracemalloc
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import pyfi_hpc.client
from pyfi_hpc.brokers.postgres import PostgresBroker
from pyfi_hpc.client.client import Client
from pyfi_hpc.errors import BadInput, PyfiError, Unavailable, WaitTimeout
from pyfi_hpc.wire import blobs, messages, values
from pyfi_hpc.wire.ids import id_text
from pyfi_hpc.wire.limits import INLINE_BYTES
from tests.services.client_support import Picky, Place, Runner, Stubborn, World, settings_with
from tests.support import eventually

IN_ORDER = pytest.mark.parametrize("ordered", [True, False], ids=["in order", "as they come"])


class Inputs:
    """Numbers without end; `read` is how many were taken."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.read += 1
        return self.read


def held_by_clients() -> int:
    """Bytes that the client's own code has taken and not given back."""
    gc.collect()
    folder = str(Path(pyfi_hpc.client.__file__).parent / "*")
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, folder)])
    return sum(each.size for each in snapshot.statistics("filename"))


def test_large_inputs_are_stored_beside_the_reading_and_what_has_no_room_is_not_accepted(
    world: World, tmp_path: Path
) -> None:
    socket = world.place.socket("add")
    inputs = [bytes([number]) * INLINE_BYTES for number in range(8)]
    client = world.client(blobs_gib=6.5 * INLINE_BYTES / 2**30)

    with pytest.raises(Unavailable) as caught:
        client.submit_many(socket, inputs)

    assert caught.value.code == "E_NOT_ACCEPTED" and caught.value.facts["reason"] == "E_STORAGE_FULL"
    queue = world.place.task_queue("add").name
    sent = [each.args for message in world.broker().peek(queue, 100)
            for each in messages.decode_message(message.body).calls]  # fmt: skip
    found = [values.decode_arguments(args, resolve=partial(blobs.get, tmp_path / "blobs")) for args in sent]
    refused = set(caught.value.facts["ids"])
    accepted = [each for each in caught.value.facts["futures"] if each.id not in refused]
    assert 1 <= len(accepted) == len(found) < 8
    assert {args[0] for args, _ in found} < set(inputs)


@IN_ORDER
def test_inputs_without_end_are_mapped_in_the_same_memory(world: World, ordered: bool) -> None:
    socket = world.place.socket("double")
    world.runner("double")
    values = world.client().map(socket, itertools.count(), max_in_flight=50, ordered=ordered)
    tracemalloc.start()
    try:
        first = list(itertools.islice(values, 500))
        before = held_by_clients()
        more = list(itertools.islice(values, 2000))
        grown = held_by_clients() - before
    finally:
        tracemalloc.stop()
    together = first + more
    assert (together if ordered else sorted(together)[:2400]) == [2 * x for x in range(2500 if ordered else 2400)]
    # 2,000 futures would take some hundred kilobytes
    assert grown < 50_000


@IN_ORDER
def test_closing_a_map_reads_no_more_and_leaves_nothing_behind(world: World, ordered: bool) -> None:
    socket, client, inputs = world.place.socket("double"), world.client(), Inputs()
    runner = world.runner("double")
    values: Any = client.map(socket, inputs, max_in_flight=20, ordered=ordered)
    assert next(values) == 2 if ordered else next(values) % 2 == 0
    runner.close()  # what is in flight has no outcome for now
    values.close()
    assert inputs.read <= 21
    assert len(client.session.waiter) == 0
    watched = weakref.ref(inputs)
    del inputs, values
    gc.collect()
    assert watched() is None
    # what was sent goes on, for anybody who asks
    world.runner("double")
    eventually(lambda: world.broker().depth(world.place.task_queue("double").name).ready == 0, timeout=60)


@IN_ORDER
def test_a_map_that_is_dropped_after_an_error_lets_go_of_the_rest(world: World, ordered: bool) -> None:
    socket = world.place.socket("fail")
    client, runner = world.client(), world.runner("fail")
    values: Any = client.map(socket, ["one"], ordered=ordered)
    with pytest.raises(ValueError, match="one"):
        next(values)
    runner.close()
    with pytest.raises(WaitTimeout):
        list(client.map(socket, ["two", "three"], ordered=ordered, timeout=0.2))
    assert len(client.session.waiter) == 0


@IN_ORDER
def test_a_map_whose_time_is_over_reads_no_more(world: World, ordered: bool) -> None:
    socket, client, inputs = world.place.socket("double"), world.client(), Inputs()
    with pytest.raises(WaitTimeout, match="the 1 calls under way go on"):
        list(client.map(socket, inputs, ordered=ordered, timeout=0, max_in_flight=100_000))
    assert inputs.read == 1


@IN_ORDER
def test_a_map_waits_for_room_no_longer_than_for_values(world: World, ordered: bool) -> None:
    socket, broker, inputs = world.place.socket("double"), Stubborn(world.hub), Inputs()
    client = world.client(lambda _: broker, connect_seconds=90)
    began = time.monotonic()
    with pytest.raises(WaitTimeout, match="as far as they are accepted"):
        list(client.map(socket, inputs, ordered=ordered, timeout=0.5, max_in_flight=100_000))
    assert time.monotonic() - began < 60
    assert inputs.read < 100_000


@IN_ORDER
def test_a_map_reads_no_more_once_a_call_is_refused(world: World, ordered: bool) -> None:
    socket, inputs = world.place.socket("double"), Inputs()
    client = world.client(lambda _: Picky(world.hub))
    with pytest.raises(PyfiError, match="E_NOT_ACCEPTED"):
        list(client.map(socket, inputs, ordered=ordered, max_in_flight=1000))
    assert inputs.read == 1


@IN_ORDER
def test_a_map_has_a_time_limit_and_names_what_goes_on(world: World, ordered: bool) -> None:
    socket, client = world.place.socket("double"), world.client()
    began = time.monotonic()
    with pytest.raises(WaitTimeout, match="3 calls under way go on") as late:
        list(client.map(socket, range(3), ordered=ordered, return_exceptions=True, timeout=0.3))
    assert isinstance(late.value, TimeoutError)
    assert time.monotonic() - began >= 0.3
    world.runner("double")
    assert sorted(client.future(each).result(60) for each in late.value.facts["ids"]) == [0, 2, 4]


def test_an_input_that_cannot_be_sent_is_told_at_its_place(world: World) -> None:
    socket, client = world.place.socket("double"), world.client()
    world.runner("double")
    inputs = [1, object(), 3]
    values: Any = client.map(socket, inputs)
    assert next(values) == 2
    with pytest.raises(BadInput, match=r"E_TYPE"):
        next(values)
    told = list(client.map(socket, inputs, return_exceptions=True))
    assert [each if isinstance(each, int) else each.code for each in told] == [2, "E_TYPE", 6]
    found = list(client.map(socket, inputs, return_exceptions=True, ordered=False))
    assert sorted(each for each in found if isinstance(each, int)) == [2, 6]
    assert [each.code for each in found if not isinstance(each, int)] == ["E_TYPE"]


@IN_ORDER
def test_an_input_that_cannot_be_sent_is_the_last_that_is_read(world: World, ordered: bool) -> None:
    socket, client = world.place.socket("double"), world.client()
    world.runner("double")
    inputs = iter([1, 2, object(), 4, 5])
    with pytest.raises(BadInput, match=r"inputs\[2\] args\[0\]") as unsent:
        list(client.map(socket, inputs, ordered=ordered))
    assert list(inputs) == [4, 5]
    assert unsent.value.facts["input"] == 2
    going_on = unsent.value.facts["ids"]
    assert {client.future(each).result(60) for each in going_on} <= {2, 4} and (not ordered or going_on == [])


def test_submit_many_says_which_input_cannot_be_sent_and_which_calls_are_accepted(world: World) -> None:
    socket, client = world.place.socket("double"), world.client()
    world.runner("double")
    inputs = iter([901, 902, lambda: 0, 904])
    with pytest.raises(BadInput, match=r"inputs\[2\] args\[0\].*; the inputs before it are accepted: 2") as unsent:
        client.submit_many(socket, inputs)
    assert list(inputs) == [904]
    assert unsent.value.facts["input"] == 2
    assert [future.result(60) for future in unsent.value.facts["futures"]] == [1802, 1804]


@IN_ORDER
def test_inputs_that_break_off_do_so_after_the_values_of_those_before(world: World, ordered: bool) -> None:
    socket, client = world.place.socket("double"), world.client()
    world.runner("double")

    def broken() -> Iterator[int]:
        yield from range(5)
        raise OSError("the disk is gone")

    got = []
    with pytest.raises(OSError, match="the disk is gone"):
        for value in client.map(socket, broken(), ordered=ordered, return_exceptions=True):
            got.append(value)
    assert sorted(got) == [0, 2, 4, 6, 8]


@IN_ORDER
def test_closing_the_client_ends_a_map_that_waits(world: World, ordered: bool) -> None:
    socket, client = world.place.socket("double"), world.client()
    values: Any = client.map(socket, range(3), ordered=ordered)

    def close() -> None:
        eventually(lambda: len(client.session.waiter) == 3, timeout=60)
        client.close()

    closing = threading.Thread(target=close)
    closing.start()
    with pytest.raises(BadInput, match="this client is closed"):
        next(values)
    closing.join()


def test_no_calls_at_all_are_refused_before_anything_is_read(world: World) -> None:
    inputs = Inputs()
    with pytest.raises(BadInput, match="E_RANGE"):
        world.client().map("no.such", inputs, max_in_flight=0)
    assert inputs.read == 0


def test_over_the_embedded_broker_a_map_without_end_can_be_cut(database_uri: str, tmp_path: Path) -> None:
    with ExitStack() as close:
        broker = PostgresBroker(database_uri)
        close.callback(broker.close)
        place = Place(database_uri, broker)
        socket = place.socket("double")
        client = Client(settings_with(database_uri, tmp_path))
        close.callback(client.close)
        runner = Runner(database_uri, broker, place.task_queue("double"))
        close.callback(runner.close)
        values = client.map(socket, itertools.count(), max_in_flight=100)
        assert list(itertools.islice(values, 300)) == [2 * x for x in range(300)]
        sent = [id_text(identity) for identity in list(client.session.waiter._pending)]
        del values
        gc.collect()
        assert len(client.session.waiter) == 0
        assert all(client.future(each).result(60) is not None for each in sent[:5])
