"""Chains of processors on one node, by pipes: each result once, whatever dies, stalls or is slow on the way."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyfi_hpc.pipes.protocol import WINDOW_BYTES
from pyfi_hpc.wire import values
from tests.site import Site
from tests.support import eventually

embedded = pytest.mark.parametrize("broker_uri", ["postgres"], indirect=True)


def chain(site: Site, *tasks: str, **shape: Any) -> None:
    """Processors p, q, r of these tasks, each plugged to the next."""
    network = site.client.network
    for name, task in zip("pqr", tasks, strict=False):
        network.add_queue(name=f"{site.queue}.{name}")
        own = {"workers": 1, "retry_delay_seconds": 0.1, **shape}
        network.add_processor(name=name, gitrepo=site.repository, module="tasks", **own)
        network.add_socket(name=f"{name}.{task}", queue=f"{site.queue}.{name}", processor=name, task=task)
    for name, to in zip("pq", "qr"[: len(tasks) - 1], strict=False):
        network.add_plug(name=f"{name}-{to}", queue=f"{site.queue}.{to}", processor=name)


def piped(site: Site) -> list[int]:
    """How many results of each plug have gone by pipes, as far as the agent has told."""
    return [count for (count,) in site.rows("SELECT piped FROM pyfi.plug ORDER BY name")]


def warm(site: Site, socket: str, argument: object) -> int:
    """Send calls until each plug has its pipe: that the next task is short is learned from a few. Returns how many."""
    sent = 0

    def flows() -> bool:
        nonlocal sent
        futures = site.submit(socket, [(argument,)] * 5)
        sent += len(futures)
        for future in futures:
            future.result(timeout=60)
        return all(piped(site))

    eventually(flows, timeout=60.0, interval=0.2)
    return sent


def given(site: Site, socket: str) -> list[Any]:
    """Every value that calls of this socket gave, in order."""
    rows = site.rows(
        "SELECT o.value FROM pyfi.outcome o JOIN pyfi.socket s ON s.id = o.socket_id"
        " WHERE s.name = %s AND o.status = 'SUCCEEDED'",
        socket,
    )
    return sorted(values.decode(bytes(value)) for (value,) in rows)


def workers_of(site: Site, processor: str) -> list[int]:
    """The pids of its workers."""
    return [
        pid
        for (pid,) in site.rows(
            "SELECT w.pid FROM pyfi.worker w JOIN pyfi.processor p ON p.id = w.processor_id"
            " WHERE p.name = %s AND w.status = 'READY'",
            processor,
        )
    ]


def test_a_chain_of_three_gives_each_value_once(site: Site) -> None:
    chain(site, "double", "follow", "double")
    site.agent()
    site.ready(3)
    zeros = warm(site, "p.double", 0)

    futures = site.submit("p.double", [(number,) for number in range(1, 501)])

    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(1, 501)]
    site.quiet()
    assert given(site, "q.follow") == [1] * zeros + [2 * number + 1 for number in range(1, 501)]
    assert given(site, "r.double") == [2] * zeros + [4 * number + 2 for number in range(1, 501)]
    assert site.rows("SELECT count(*) FROM pyfi.event WHERE what = 'second result dropped'") == [(0,)]
    assert site.client.network.show("plug", "p-q")["way"] in ("pipe", "mixed")


@embedded
def test_a_plug_that_is_to_use_the_broker_uses_no_pipe(site: Site) -> None:
    chain(site, "double", "follow")
    agent = site.agent()
    site.ready(2)
    warm(site, "p.double", 0)
    (folder,) = site.home.glob("pyfi-pipes-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    site.client.network.update_plug("p-q", route="broker")

    def stays() -> bool:
        (before,) = piped(site)
        for future in site.submit("p.double", [(1,)] * 5):
            future.result(timeout=60)
        ((after, queued),) = site.rows("SELECT piped, queued FROM pyfi.plug")
        return bool(after == before and queued)

    eventually(stays, timeout=60.0, interval=1.0)
    site.quiet()
    assert agent.stop() == 0
    assert not folder.exists()


@embedded
def test_what_goes_wrong_with_a_call_that_came_by_a_pipe_is_charged_to_it_alone(site: Site) -> None:
    chain(site, "passes", "does", retries=1, timeout_seconds=1.5)
    site.agent()
    site.ready(2)
    good = warm(site, "p.passes", ["gives", 0])
    never = str(site.home / "never")

    bad = [["raises"], ["kills"], ["waits", never, 7]]
    futures = site.submit("p.passes", [(what,) for what in [["gives", 1], *bad, ["says", 2]]])

    for future in futures:
        future.result(timeout=60)
    site.quiet()
    assert given(site, "q.does") == [0] * good + [1, 2]
    attempts = site.rows(
        "SELECT a.cause, count(DISTINCT a.id), count(*) FROM pyfi.attempt a JOIN pyfi.socket s ON s.id = a.socket_id"
        " WHERE s.name = 'q.does' AND a.status = 'FAILED' AND a.cause IN ('user_error', 'signal', 'timeout')"
        " GROUP BY a.cause"
    )
    assert sorted(attempts) == [("signal", 1, 2), ("timeout", 1, 2), ("user_error", 1, 2)]
    assert site.rows("SELECT status, count(*) FROM pyfi.outcome WHERE status <> 'SUCCEEDED' GROUP BY 1") == [
        ("DEAD", 3)
    ]


@embedded
def test_a_call_that_came_by_a_pipe_is_cancelled_where_it_runs(site: Site) -> None:
    chain(site, "passes", "does")
    site.agent()
    site.ready(2)
    warm(site, "p.passes", ["gives", 0])
    never = str(site.home / "never")
    (future,) = site.submit("p.passes", [(["waits", never, 7],)])
    # it has become a lease, and is said to run
    future.result(timeout=60)
    ((child,),) = eventually(lambda: site.rows("SELECT id FROM pyfi.hold WHERE state = 'LEASED'"))
    eventually(lambda: site.rows("SELECT running FROM pyfi.worker WHERE running = %s", child))

    site.client.cancel(str(child))

    eventually(lambda: site.outcomes().get(str(child)) == "CANCELLED")
    site.quiet()
    # its worker is there still, and free
    (future,) = site.submit("p.passes", [(["gives", 3],)])
    future.result(timeout=60)
    eventually(lambda: 3 in given(site, "q.does"))
    assert site.rows("SELECT count(*) FROM pyfi.worker WHERE status = 'EXITED'") == [(0,)]


@contextmanager
def streaming(site: Site, socket: str) -> Iterator[list[Any]]:
    """Calls 1, 2, 3 … of the socket are sent meanwhile; yields their futures."""
    futures: list[Any] = []
    over = threading.Event()

    def send() -> None:
        while not over.is_set():
            first = len(futures) + 1
            futures.extend(site.submit(socket, [(number,) for number in range(first, first + 50)]))
            futures[-1].result(timeout=120)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield futures
    finally:
        over.set()
        thread.join()


def test_a_worker_downstream_dies_is_stopped_and_is_started_again_in_mid_stream(site: Site) -> None:
    chain(site, "double", "follow")
    site.agent()
    site.ready(2)
    zeros = warm(site, "p.double", 0)

    with streaming(site, "p.double") as futures:

        def goes_on(calls: int = 100) -> None:
            mark = len(futures) + calls
            eventually(lambda: len(futures) >= mark, timeout=120)

        def is_piped_again() -> None:
            (before,) = piped(site)
            eventually(lambda: piped(site)[0] > before, timeout=120)

        for _ in range(2):
            goes_on()
            os.kill(eventually(lambda: workers_of(site, "q"))[0], signal.SIGKILL)
            is_piped_again()
        stopped = eventually(lambda: workers_of(site, "q"))[0]
        os.kill(stopped, signal.SIGSTOP)
        goes_on()
        os.kill(stopped, signal.SIGCONT)
        site.client.network.stop("q")
        goes_on()
        site.client.network.start("q")
        is_piped_again()

    sent = len(futures)
    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(1, sent + 1)]
    site.quiet()
    assert given(site, "q.follow") == [1] * zeros + [2 * number + 1 for number in range(1, sent + 1)]


def test_tasks_of_one_processor_with_one_worker_pass_on_within_it(site: Site) -> None:
    network = site.client.network
    network.add_processor(name="p", gitrepo=site.repository, module="tasks", workers=1, retry_delay_seconds=0.1)
    for task in ("double", "follow"):
        network.add_queue(name=f"{site.queue}.{task}")
        network.add_socket(name=f"p.{task}", queue=f"{site.queue}.{task}", processor="p", task=task)
    network.add_plug(name="within", queue=f"{site.queue}.follow", source="p.double", target="p.follow", processor="p")
    site.agent()
    site.ready(1)
    zeros = warm(site, "p.double", 0)

    with streaming(site, "p.double") as futures:
        eventually(lambda: len(futures) >= 200, timeout=120)
        os.kill(eventually(lambda: workers_of(site, "p"))[0], signal.SIGKILL)
        mark = len(futures) + 200
        eventually(lambda: len(futures) >= mark, timeout=120)

    sent = len(futures)
    assert [future.result(timeout=60) for future in futures] == [2 * number for number in range(1, sent + 1)]
    site.quiet()
    assert given(site, "p.follow") == [1] * zeros + [2 * number + 1 for number in range(1, sent + 1)]


def resident_mib(pid: int) -> float:
    """Resident memory. Source: proc(5), statm."""
    with contextlib.suppress(FileNotFoundError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return 0.0


@embedded
def test_a_flood_fills_neither_end_of_a_pipe_and_flows_on_through_the_queue(site: Site) -> None:
    chain(site, "passes", "does")
    site.agent()
    site.ready(2)
    warm(site, "p.passes", ["gives", ""])
    watched = site.ready(2)
    before = {pid: resident_mib(pid) for pid in watched}
    gate, load = site.home / "gate", "x" * 240_000

    # the consumer takes nothing for as long as the gate is shut: 60 MB are on their way to it, three times its window
    futures = site.submit("p.passes", [(["waits", str(gate), load + str(number)],) for number in range(250)])
    for future in futures:
        future.result(timeout=120)
    grown = [resident_mib(pid) - before[pid] for pid in watched]
    # an agent tells with its next look
    eventually(lambda: site.rows("SELECT queued FROM pyfi.plug")[0][0] > 100, timeout=60)
    gate.touch()

    site.quiet(timeout=120)
    assert [value[240_000:] for value in given(site, "q.does") if value] == sorted(map(str, range(250)))
    assert max(grown) < WINDOW_BYTES / 2**20 + 8, grown


@embedded
@pytest.mark.parametrize("point", ["chain_after_heads", "agent_after_commit"])
def test_an_agent_dies_with_chains_in_hand(site: Site, point: str) -> None:
    chain(site, "passes", "does")
    # what is printed is on record too, by the longer way
    first = site.agent(f"{point}:crash:12")
    site.ready(2)
    sent: list[Any] = []

    def died() -> bool:
        sent.extend(site.submit("p.passes", [(["says", len(sent) + number],) for number in range(5)]))
        time.sleep(0.05)
        return first.process.poll() is not None

    eventually(died, timeout=60)
    flowed = piped(site)
    site.agent()

    for future in sent:
        future.result(timeout=60)
    site.quiet()
    assert given(site, "q.does") == list(range(len(sent)))
    assert flowed != [0] or point == "agent_after_commit"
