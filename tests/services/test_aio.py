"""The client for asyncio: same core, no blocked loop, and a cancelled task leaves its call alone."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import numpy
import pytest

from pyfi_hpc import AsyncClient
from pyfi_hpc.brokers.memory import MemoryBroker
from pyfi_hpc.brokers.postgres import PostgresBroker
from pyfi_hpc.client.sender import ROOM_CALLS
from pyfi_hpc.client.storing import WAITING, WRITERS
from pyfi_hpc.errors import BadInput, BrokerUnavailable, Cancelled, Unavailable, WaitTimeout
from pyfi_hpc.wire.blobs import Content
from pyfi_hpc.wire.limits import INLINE_BYTES
from pyfi_hpc.wire.values import BlobRef
from tests.services.client_support import Picky, Place, Runner, Stubborn, World, settings_with
from tests.support import eventually

T = TypeVar("T")

IN_ORDER = pytest.mark.parametrize("ordered", [True, False], ids=["in order", "as they come"])


@pytest.fixture
def client(world: World) -> Iterator[AsyncClient]:
    yield AsyncClient.of(world.client())


def run(work: Callable[[], Awaitable[T]], seconds: float = 60) -> T:
    """What `work` gives, in a loop of its own."""

    async def limited() -> T:
        async with asyncio.timeout(seconds):
            return await work()

    return asyncio.run(limited())


async def until(true: Callable[[], Any]) -> None:
    """Return once it is true, looking now and then."""
    while not true():
        await asyncio.sleep(0.01)


def test_calls_are_submitted_and_awaited(world: World, client: AsyncClient) -> None:
    socket = world.place.socket("double")
    world.runner("double")

    async def work() -> list[Any]:
        future = await client.submit(socket, 1)
        again = await client.future(future.id)
        many = await client.submit_many(socket, [4, 5])
        return [await future, await again, await client.call(socket, 3), *await asyncio.gather(*many)]

    assert run(work) == [2, 2, 6, 8, 10]


def test_a_whole_program_opens_and_closes_its_client(world: World, tmp_path: Path) -> None:
    socket = world.place.socket("double")
    world.runner("double")

    async def work() -> Any:
        settings = settings_with(world.uri, tmp_path)
        async with AsyncClient(settings, make_broker=lambda _: MemoryBroker(world.hub)) as client:
            return await client.call(socket, 21), client

    value, client = run(work)
    assert value == 42
    assert repr(client) == "<AsyncClient network default>"
    with pytest.raises(BadInput, match="closed"):
        run(lambda: client.submit(socket, 1))


@IN_ORDER
def test_map_takes_any_inputs_and_may_be_left_early(world: World, client: AsyncClient, ordered: bool) -> None:
    socket = world.place.socket("add")
    world.runner("add")
    read = 0

    async def tens() -> AsyncIterator[int]:
        nonlocal read
        for number in itertools.count():
            read += 1
            await asyncio.sleep(0)
            yield 10 * number

    async def work() -> list[Any]:
        got: list[Any] = []
        values = client.map(socket, itertools.count(), tens(), max_in_flight=20, ordered=ordered)
        async for value in values:
            got.append(value)
            if len(got) == 300:
                break
        await values.aclose()
        return got

    got = run(work)
    assert read <= 320
    if ordered:
        assert got == [11 * number for number in range(300)]
    assert all(value % 11 == 0 for value in got)
    assert len(client.client.session.waiter) == 0


@IN_ORDER
def test_map_tells_what_is_wrong_at_its_place(world: World, client: AsyncClient, ordered: bool) -> None:
    socket, failing = world.place.socket("double"), world.place.socket("fail")
    world.runner("double")
    world.runner("fail")

    async def work() -> None:
        told = [each async for each in client.map(socket, [1, object()], return_exceptions=True, ordered=ordered)]
        assert sorted("E_TYPE" if isinstance(each, BadInput) else each for each in told if each != 2) == ["E_TYPE"]
        with pytest.raises(ValueError, match="one"):
            await anext(client.map(failing, ["one"], ordered=ordered))
        with pytest.raises(OSError, match="gone"):
            async for value in client.map(socket, broken(), ordered=ordered):
                assert value == 14
        with pytest.raises(BadInput, match="E_NOT_FOUND"):
            await anext(client.map("nowhere", [1], ordered=ordered))

    def broken() -> Iterator[int]:
        yield 7
        raise OSError("gone")

    run(work)


@IN_ORDER
def test_map_has_a_time_limit(world: World, client: AsyncClient, ordered: bool) -> None:
    socket = world.place.socket("double")

    async def work() -> WaitTimeout:
        with pytest.raises(WaitTimeout) as late:
            await anext(client.map(socket, range(3), ordered=ordered, timeout=0.2))
        return late.value

    ids = run(work).facts["ids"]
    world.runner("double")
    assert sorted(client.client.future(each).result(60) for each in ids) == [0, 2, 4]


@IN_ORDER
def test_a_map_whose_time_is_over_or_that_is_refused_reads_no_more(world: World, ordered: bool) -> None:
    socket, read = world.place.socket("double"), itertools.count()

    async def mapped(make_broker: Any, **how: Any) -> None:
        values = AsyncClient.of(world.client(make_broker)).map(socket, read, ordered=ordered, **how)
        async for _ in values:
            raise AssertionError("there is no value")

    with pytest.raises(WaitTimeout, match="the 1 calls under way go on"):
        run(lambda: mapped(None, timeout=0, max_in_flight=100_000))
    assert next(read) == 1
    with pytest.raises(BadInput, match="E_NOT_ACCEPTED"):
        run(lambda: mapped(lambda _: Picky(world.hub), max_in_flight=1000))
    assert next(read) == 3


@IN_ORDER
def test_a_map_waits_for_room_no_longer_than_for_values(world: World, ordered: bool) -> None:
    socket, broker = world.place.socket("double"), Stubborn(world.hub)
    client = AsyncClient.of(world.client(lambda _: broker, connect_seconds=90))

    async def mapped() -> None:
        async for _ in client.map(socket, itertools.count(), ordered=ordered, timeout=0.5, max_in_flight=100_000):
            raise AssertionError("there is no value")

    with pytest.raises(WaitTimeout, match="as far as they are accepted"):
        run(mapped)


def test_a_call_to_a_full_queue_is_given_up_within_its_own_time(
    database_uri: str, tmp_path: Path, close: ExitStack
) -> None:
    world = World(database_uri, tmp_path, close, max_length=1)
    socket, client = world.place.socket("double"), AsyncClient.of(world.client(connect_seconds=90))
    run(lambda: client.submit(socket, 1))
    with pytest.raises(BrokerUnavailable, match="E_BACKPRESSURE"):
        run(lambda: client.call(socket, 2, timeout=0.3))


def test_a_cancelled_task_leaves_its_call_alone_unless_asked(world: World, client: AsyncClient) -> None:
    socket = world.place.socket("double")

    async def work() -> tuple[Any, Any]:
        kept, dropped = await client.submit(socket, 1), await client.submit(socket, 2)
        tasks = [asyncio.ensure_future(kept), asyncio.create_task(client.result(dropped, cancel=True))]
        await asyncio.sleep(0)
        await until(lambda: kept._waiters and dropped._waiters)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(kept, 0.05)
        assert kept._waiters == []
        assert (await client.status(kept), await client.status(dropped.id)) == ("QUEUED", "CANCELLED")
        world.runner("double")
        with pytest.raises(Cancelled):
            await dropped
        return await kept, await client.cancel(kept)

    value, cancelled = run(work)
    assert value == 2
    assert [each["cancelled"] for each in cancelled] == [False]


def test_one_message_calls_every_task_that_is_bound(world: World, client: AsyncClient) -> None:
    double, add = world.place.socket("double"), world.place.socket("add")
    world.runner("double")
    world.runner("add")

    async def work() -> None:
        sent = await client.publish(world.place.queue, 20)
        assert await sent == {double: 40, add: 20}
        again = await client.publish(world.place.queue, 20, id=sent.id, timeout=5, priority="normal")
        assert (again.id, await again[double]) == (sent.id, 40)
        with pytest.raises(BadInput, match="E_ID_CONFLICT"):
            await client.publish(world.place.queue, 21, id=sent.id)
        with pytest.raises(BadInput, match="no queue"):
            await client.publish("nowhere", 20)

    run(work)


def test_a_cancelled_task_leaves_all_that_it_published_alone(world: World, client: AsyncClient) -> None:
    double, add = world.place.socket("double"), world.place.socket("add")

    async def work() -> Any:
        sent = await client.publish(world.place.queue, 3)
        task = asyncio.ensure_future(sent)
        await until(lambda: all(future._waiters for future in sent.values()))
        task.cancel()
        await asyncio.wait([task])
        assert [await client.status(future) for future in sent.values()] == ["QUEUED", "QUEUED"]
        world.runner("double")
        world.runner("add")
        return await sent

    assert run(work) == {double: 6, add: 3}


def test_a_message_that_is_not_accepted_everywhere_may_be_sent_again(world: World) -> None:
    double, add = world.place.socket("double"), world.place.socket("add")
    broker = Stubborn(world.hub)
    client = AsyncClient.of(world.client(lambda _: broker, connect_seconds=120))

    async def work() -> Any:
        task = asyncio.create_task(client.publish(world.place.queue, 3))
        await until(lambda: len(broker.held) == 2)
        broker.let_go(count=1)
        broker.let_go(BadInput.of("E_LIMIT", "message", "1", "too large"))
        with pytest.raises(BadInput, match="E_NOT_ACCEPTED") as partly:
            await task
        assert len(partly.value.facts["ids"]) == 1
        world.runner("double")
        world.runner("add")
        again = asyncio.create_task(client.publish(world.place.queue, 3, id=partly.value.facts["id"]))
        await until(lambda: broker.held)
        while not again.done():
            broker.let_go()
            await asyncio.sleep(0.01)
        return await (await again)

    assert run(work) == {double: 6, add: 3}


def test_waiting_has_an_end_and_the_work_goes_on(world: World, client: AsyncClient) -> None:
    socket = world.place.socket("double")

    async def work() -> Any:
        future = await client.submit(socket, 4)
        with pytest.raises(WaitTimeout, match="the work goes on"):
            await client.result(future, 0.05)
        with pytest.raises(WaitTimeout):
            [each async for each in client.as_completed([future], 0.05)]
        world.runner("double")
        return [await each async for each in client.as_completed([future, *await client.submit_many(socket, [5])])]

    assert sorted(run(work)) == [8, 10]


def test_errors_and_large_values_are_awaited(world: World, client: AsyncClient) -> None:
    failing, double = world.place.socket("fail"), world.place.socket("double")
    world.runner("fail")
    world.runner("double")

    async def work() -> Any:
        with pytest.raises(ValueError, match="no"):
            await (await client.submit(failing, "no"))
        return await client.call(double, "x" * 100_000)

    assert run(work) == "x" * 200_000


def test_a_large_argument_is_put_aside_without_blocking(world: World, client: AsyncClient, tmp_path: Path) -> None:
    socket = world.place.socket("double")
    run(lambda: client.submit(socket, numpy.arange(100_000)))
    assert len(list((tmp_path / "blobs").rglob("*"))) >= 2


def test_large_arguments_are_stored_beside_the_reading_and_few_of_them_wait(
    world: World, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket, packer, let = world.place.socket("double"), client.client.session.packer, threading.Event()
    begun, read, stored, waiting, keep = 0, 0, 0, 0, packer.keep
    lock = threading.Lock()

    def slowly(content: Content) -> BlobRef:
        nonlocal begun, stored
        with lock:
            begun += 1
        assert let.wait(60)
        kept = keep(content)
        with lock:
            stored += 1
        return kept

    def inputs() -> Iterator[Any]:
        nonlocal read, waiting
        for number in range(40):
            with lock:
                read += 1
                waiting = max(waiting, read - stored)
            # one that a look finds, and one inside of another value
            text = bytes([number]) * INLINE_BYTES
            yield text if number % 2 else {"inside": text}

    async def work() -> int:
        task = asyncio.create_task(client.submit_many(socket, inputs()))
        await until(lambda: begun == WRITERS and read == WRITERS + WAITING + 1)
        let.set()
        return len({future.id for future in await task})

    monkeypatch.setattr(packer, "keep", slowly)
    assert run(work) == 40
    assert begun == stored == 40
    assert waiting <= WRITERS + WAITING + 1


@IN_ORDER
def test_large_arguments_that_have_no_room_are_calls_that_are_not_accepted(world: World, ordered: bool) -> None:
    socket = world.place.socket("double")
    client = AsyncClient.of(world.client(blobs_gib=2.5 * INLINE_BYTES / 2**30))
    some_fit = [bytes([number]) * INLINE_BYTES for number in range(6)]
    none_fits = [bytes([number]) * INLINE_BYTES * 3 for number in range(3)]

    async def work() -> None:
        with pytest.raises(Unavailable, match="E_NOT_ACCEPTED") as raised:
            await client.submit_many(socket, some_fit)
        assert raised.value.facts["reason"] == "E_STORAGE_FULL"
        assert raised.value.facts["ids"]
        with pytest.raises(BadInput, match="E_NOT_ACCEPTED") as of_map:
            async for _ in client.map(socket, none_fits, ordered=ordered):
                pass
        assert of_map.value.facts["reason"] == "E_LIMIT", "that has never room"

    run(work)


def test_the_loop_goes_on_while_there_is_no_room_and_nothing_is_refused(world: World) -> None:
    socket = world.place.socket("double")
    broker = Stubborn(world.hub)
    client = AsyncClient.of(world.client(lambda _: broker, connect_seconds=120))

    async def work() -> int:
        task = asyncio.create_task(client.submit_many(socket, range(15_000)))
        await until(lambda: client.client.session.sender._waiting >= ROOM_CALLS)
        turns = 0
        while not task.done():
            broker.let_go(count=min(8, len(broker.held)))
            await asyncio.sleep(0)
            turns += 1
        assert len(await task) == 15_000
        return turns

    assert run(work, 120) > 100


@IN_ORDER
def test_an_input_that_cannot_be_sent_is_named_and_is_the_last_that_is_read(
    world: World, client: AsyncClient, ordered: bool
) -> None:
    socket = world.place.socket("double")
    world.runner("double")

    async def work() -> None:
        inputs = iter([1, 2, object(), 4])
        with pytest.raises(BadInput, match=r"inputs\[2\] args\[0\]") as unsent:
            [each async for each in client.map(socket, inputs, ordered=ordered)]
        assert (list(inputs), unsent.value.facts["input"]) == ([4], 2)
        inputs = iter([1, 2, object(), 4])
        with pytest.raises(BadInput, match=r"inputs\[2\] args\[0\]") as unsent:
            await client.submit_many(socket, inputs)
        assert (list(inputs), unsent.value.facts["input"]) == ([4], 2)
        assert [await future for future in unsent.value.facts["futures"]] == [2, 4]

    run(work)


def test_what_is_not_accepted_is_raised_with_its_ids(world: World) -> None:
    socket = world.place.socket("double")
    broker = Stubborn(world.hub)
    broker.up = False
    client = AsyncClient.of(world.client(lambda _: broker, connect_seconds=0.2))

    async def work() -> None:
        with pytest.raises(BrokerUnavailable, match="E_BROKER_BLOCKED"):
            await client.submit(socket, 1)
        with pytest.raises(BrokerUnavailable, match="E_NOT_ACCEPTED") as raised:
            await client.submit_many(socket, [1, 2])
        assert len(raised.value.facts["ids"]) == 2
        with pytest.raises(BrokerUnavailable, match="E_NOT_ACCEPTED"):
            await anext(client.map(socket, [1, 2]))

    run(work)


def test_calls_of_another_priority_go_to_a_queue_of_their_own(world: World, client: AsyncClient) -> None:
    socket = world.place.socket("double")
    usual = world.place.task_queue("double")

    async def work() -> None:
        await client.submit_many(socket, [1, 2, 3], priority="high")
        with pytest.raises(BadInput, match="E_CHOICE"):
            await client.submit_many(socket, [4], priority="soon")
        with pytest.raises(BadInput, match="E_CHOICE"):
            await anext(client.map(socket, [5], priority="soon"))
        with pytest.raises(WaitTimeout):
            await anext(client.map(socket, [6, 7], priority="low", timeout=0.1))

    run(work)
    ready = {name: len(queue.ready) for name, queue in world.hub.queues.items() if name.startswith(usual.exchange)}
    assert ready.pop(usual.name) == 0
    assert len(ready) == 2
    assert all(ready.values())


def test_an_id_of_ones_own_makes_one_outcome(world: World, client: AsyncClient) -> None:
    socket = world.place.socket("double")
    world.runner("double")
    own = "0198c7a2-4f00-7abc-8def-001122334455"

    async def work() -> list[Any]:
        first = await (await client.submit(socket, 1, id=own))
        return [first, await (await client.submit(socket, 1, id=own))]

    assert run(work) == [2, 2]


def test_several_loops_and_threads_share_a_client(world: World, client: AsyncClient) -> None:
    socket = world.place.socket("double")
    world.runner("double")
    shared = run(lambda: client.submit(socket, 100))

    async def work(number: int) -> list[Any]:
        calls = [client.call(socket, 100 * number + each) for each in range(25)]
        assert await shared == 200
        return [*await asyncio.gather(*calls), *[v async for v in client.map(socket, [number] * 5)]]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: run(lambda: work(number)), range(4)))
    for number, values in enumerate(found):
        assert values == [2 * (100 * number + each) for each in range(25)] + [2 * number] * 5


def test_a_loop_that_has_ended_is_no_trouble_for_the_next(world: World, client: AsyncClient) -> None:
    socket = world.place.socket("double")
    future = run(lambda: client.submit(socket, 1))

    async def leave() -> None:
        asyncio.ensure_future(future)  # noqa: RUF006  the loop ends before it does
        await asyncio.sleep(0)

    run(leave)
    gc.collect()
    world.runner("double")
    assert run(lambda: client.result(future)) == 2


def test_closing_the_client_wakes_who_awaits(world: World, client: AsyncClient) -> None:
    socket = world.place.socket("double")
    future = run(lambda: client.submit(socket, 1))

    def close() -> None:
        eventually(lambda: future._waiters, timeout=60)
        client.client.close()

    closing = threading.Thread(target=close)
    closing.start()
    with pytest.raises(BadInput, match="closed"):
        run(lambda: client.result(future))
    closing.join()


def test_over_the_embedded_broker_coroutines_get_their_values(database_uri: str, tmp_path: Path) -> None:
    with ExitStack() as close:
        broker = PostgresBroker(database_uri)
        close.callback(broker.close)
        place = Place(database_uri, broker)
        socket = place.socket("double")
        runner = Runner(database_uri, broker, place.task_queue("double"))
        close.callback(runner.close)

        async def work() -> list[Any]:
            async with AsyncClient(settings_with(database_uri, tmp_path)) as client:
                together = await asyncio.gather(*[client.call(socket, each) for each in range(50)])
                return [*together, *[value async for value in client.map(socket, range(50))]]

        assert run(work) == [*range(0, 100, 2), *range(0, 100, 2)]
