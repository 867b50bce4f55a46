"""A process that forks: its clients work on, the child is told what to do, and neither waits for the other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pyfi_hpc.brokers.postgres import PostgresBroker
from tests.services.client_support import Place, Runner


@pytest.fixture
def answered(database_uri: str) -> Iterator[tuple[str, str]]:
    """Two sockets over the embedded broker, and only the calls of the first are answered."""
    with ExitStack() as close:
        broker = PostgresBroker(database_uri)
        close.callback(broker.close)
        place = Place(database_uri, broker)
        double, add = place.socket("double"), place.socket("add")
        close.callback(Runner(database_uri, broker, place.task_queue("double")).close)
        yield double, add


def ran(uri: str, program: str, *args: str) -> list[str]:
    """The lines that a program prints, which ends well and has nothing to complain of."""
    done = subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=120,
                          env=os.environ | {"PYFI_DATABASE_URI": uri})  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


_FORKS = """
import asyncio, concurrent.futures, faulthandler, itertools, os, sys
from pyfi_hpc import AsyncClient, Client, as_completed
from pyfi_hpc.client import api

double, add = sys.argv[1:]


def told(name, do):
    try:
        print(name, do(), flush=True)
    except Exception as error:
        print(name, error.code, error.cure, flush=True)


async def awaited(client, *how):
    return await client.call(double, 5, timeout=60)


unopened, used, apart = Client(), Client(), Client()
api.use(apart)
loops = AsyncClient.of(used)
done, open_ = used.submit(double, 1), used.submit(add, 1)
values = used.map(double, itertools.count(), max_in_flight=5)
print(done.result(60), next(values), used.network.list("queue") != [], api.client().call(double, 2, timeout=60),
      asyncio.run(awaited(loops)), flush=True)
if child := os.fork():
    _, status = os.waitpid(child, 0)
    told("parent", lambda: (os.waitstatus_to_exitcode(status), used.call(double, 3, timeout=60), next(values)))
    told("async parent", lambda: asyncio.run(awaited(loops)))
    values.close()
else:
    faulthandler.dump_traceback_later(60, exit=True)
    told("call", lambda: used.call(double, 3, timeout=60))
    told("submit", lambda: used.submit(double, 3))
    told("map", lambda: list(used.map(double, [1])))
    told("known", lambda: done.result())
    told("result", lambda: open_.result(60))
    told("wait", lambda: concurrent.futures.wait([open_]))
    told("as completed", lambda: list(as_completed([open_])))
    told("status", lambda: open_.status)
    told("api", lambda: api.client().call(double, 3, timeout=60))
    told("async", lambda: asyncio.run(awaited(loops)))
    told("network", lambda: used.network.list("queue") != [])
    used.close()
    told("unopened", lambda: unopened.call(double, 4, timeout=60))
    told("new", lambda: Client().future(done.id).result(60))
    told("new async", lambda: asyncio.run(awaited(AsyncClient())))
"""
_CURE = "make a Client in the child process; Client().future(id) asks for its calls"


def test_a_client_is_of_no_use_in_a_forked_child_and_says_so(database_uri: str, answered: tuple[str, str]) -> None:
    lines = ran(database_uri, _FORKS, *answered)
    assert lines.pop(0) == "2 0 True 4 10"
    refused = ("call", "submit", "map", "result", "wait", "as completed", "status", "api", "async", "network")
    assert [line for line in lines if "E_USAGE" in line] == [f"{name} E_USAGE {_CURE}" for name in refused]
    assert [line for line in lines if "E_USAGE" not in line] == [
        "known 2", "unopened 8", "new 2", "new async 10", "parent (0, 6, 2)", "async parent 10",
    ]  # fmt: skip


_POOL = """
import multiprocessing, sys
from pyfi_hpc import Client

client = Client()


def work(number):
    try:
        return client.call(sys.argv[1], number, timeout=60)
    except Exception as error:
        return error.code


def opened():
    global client
    client = Client()


print(client.call(sys.argv[1], 1, timeout=60))
fork = multiprocessing.get_context("fork")
with fork.Pool(2) as pool:
    print(pool.map(work, range(2)))
with fork.Pool(2, opened) as pool:
    print(pool.map(work, range(4)))
print(client.call(sys.argv[1], 2, timeout=60))
"""


def test_the_processes_of_a_pool_make_clients_of_their_own(database_uri: str, answered: tuple[str, str]) -> None:
    assert ran(database_uri, _POOL, answered[0]) == ["2", "['E_USAGE', 'E_USAGE']", "[0, 2, 4, 6]", "4"]
