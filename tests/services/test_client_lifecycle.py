"""Opening, using and closing clients from many threads at once: nobody waits for himself, nothing stays open."""

from __future__ import annotations

import concurrent.futures
import faulthandler
import gc
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pyfi_hpc.brokers.postgres.broker import PostgresBroker
from pyfi_hpc.client.client import Client
from pyfi_hpc.client.link import Link
from pyfi_hpc.errors import BadInput
from pyfi_hpc.wire.ids import id_text, new_id
from tests.services.client_support import Place, Runner, execute, settings_with
from tests.support import eventually

#: Far more than anything here takes; a hang is told with every thread's place.
HANG_SECONDS = 60.0


@pytest.fixture(autouse=True)
def told_where_it_hangs() -> Iterator[None]:
    faulthandler.dump_traceback_later(HANG_SECONDS)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def socket(database_uri: str) -> Iterator[str]:
    """A socket over the embedded broker whose calls are answered."""
    with ExitStack() as close:
        broker = PostgresBroker(database_uri)
        close.callback(broker.close)
        place = Place(database_uri, broker)
        name = place.socket("double")
        runner = Runner(database_uri, broker, place.task_queue("double"))
        close.callback(runner.close)
        yield name


def finished(threads: list[threading.Thread]) -> None:
    """All have ended, in time."""
    deadline = time.monotonic() + HANG_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert [thread.name for thread in threads if thread.is_alive()] == []


def none_left(uri: str) -> bool:
    """Nobody is connected as a client."""
    gc.collect()  # a session of the engine that was in use at `close` goes with whoever used it
    names = execute(uri, "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'pyfi client%%'")
    assert names == []
    return True


def test_work_that_uses_its_own_session_again_is_refused_and_does_not_wait_for_itself(database_uri: str) -> None:
    link = Link(database_uri, "test link", 1.0)
    found: list[BaseException] = []

    def nested() -> None:
        try:
            link.run(lambda cursor: link.run(lambda inner: None))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=nested, daemon=True)
    thread.start()
    thread.join(10)
    assert found and "recursively" in str(found[0])
    link.close()


def test_the_first_thing_that_a_client_does_may_be_to_read_a_short_id(
    database_uri: str, tmp_path: Path, socket: str
) -> None:
    with Client(settings_with(database_uri, tmp_path)) as client:
        ident = client.submit(socket, 4).id
        assert client.future(ident).result(30) == 8
    with Client(settings_with(database_uri, tmp_path)) as another:
        assert another.future(ident[-10:]).result(30) == 8


def test_what_a_closed_client_has_in_hand_can_still_be_read(database_uri: str, tmp_path: Path, socket: str) -> None:
    with Client(settings_with(database_uri, tmp_path)) as client:
        future = client.submit(socket, 4)
        concurrent.futures.wait([future], timeout=30)
    assert future.result() == 8


def test_closing_wakes_the_waiter_whatever_it_is_about_to_do(database_uri: str, tmp_path: Path) -> None:
    for _ in range(30):
        client = Client(settings_with(database_uri, tmp_path))
        client.future(id_text(new_id()))  # the waiter's thread starts, and may be about to wait when told to end
        (waiting,) = [thread for thread in threading.enumerate() if thread.name == "pyfi-waiter"]
        client.close()
        assert not waiting.is_alive()


def test_clients_are_opened_used_and_closed_by_many_threads_at_once(
    database_uri: str, tmp_path: Path, socket: str
) -> None:
    with Client(settings_with(database_uri, tmp_path)) as client:
        assert client.call(socket, 1, timeout=30) == 2  # the runner's own threads are there
    before = set(threading.enumerate())
    wrong: list[BaseException] = []

    def one_life(seed: int) -> None:
        chance = random.Random(seed)
        client = Client(settings_with(database_uri, tmp_path, connect_seconds=5.0))
        users = [threading.Thread(target=use, args=(client, chance.random()), daemon=True) for _ in range(3)]
        for user in users:
            user.start()
        time.sleep(chance.choice([0.0, 0.02, 0.2]))
        client.close()
        finished(users)

    def use(client: Client, chance: float) -> None:
        steps: list[Any] = [
            lambda: client.submit(socket, 1).result(30),
            lambda: client.future(id_text(new_id())).result(0.01),
            lambda: client.operations.dead(),
            lambda: client.network.list("queue"),
            lambda: list(client.map(socket, range(20))),
        ]
        random.Random(chance).shuffle(steps)
        for step in steps:
            try:
                step()
            except Exception as error:
                if not isinstance(error, TimeoutError) and "closed" not in str(error):
                    wrong.append(error)

    def lives_of(number: int) -> None:
        for turn in range(5):
            one_life(100 * number + turn)

    lives = [threading.Thread(target=lives_of, args=[number]) for number in range(4)]
    for life in lives:
        life.start()
    finished(lives)
    eventually(lambda: none_left(database_uri))
    left = [thread.name for thread in set(threading.enumerate()) - before]
    assert (wrong, left) == ([], [])


def test_nothing_is_opened_once_a_client_is_closed(database_uri: str, tmp_path: Path, socket: str) -> None:
    client = Client(settings_with(database_uri, tmp_path))
    client.close()
    for use in (lambda: client.submit(socket, 1), lambda: client.network, lambda: client.future("ff")):
        with pytest.raises(BadInput, match="closed"):
            use()
    assert none_left(database_uri)
