"""A worker dies, stalls or eats up the memory: its call alone pays for it (fault matrix 1, 3 and 4)."""

from __future__ import annotations

import os
import signal

import pytest

from pyfi_hpc.cli.waiting import waiting_for
from pyfi_hpc.errors import Dead, TaskError
from pyfi_hpc.wire import blobs, meter
from tests.site import Site, embedded_broker_only
from tests.support import eventually

pytestmark = embedded_broker_only

#: task that ends its worker -> what the attempt's row says of it
ENDS = {"killed": "SIGKILL", "aborts": "SIGABRT", "segfaults": "SIGSEGV", "leaves": "status 3"}


def test_an_attempt_names_what_ended_its_worker(site: Site) -> None:
    for task in ENDS:
        site.processor(task, name=task, workers=1, retries=1)
    agent = site.agent()
    site.ready(len(ENDS))

    futures = {task: site.submit(f"{task}.{task}", [(1, str(site.runs))])[0] for task in ENDS}

    for task, words in ENDS.items():
        dead = futures[task].exception(timeout=30)
        assert isinstance(dead, Dead), dead
        assert site.causes(futures[task]) == ["signal", "signal"]
        assert all(words in row["error"] for row in site.client.operations.attempts(futures[task].id))
        assert site.executions()[futures[task].id] == 2
    assert agent.process.poll() is None
    site.quiet()


def test_a_result_that_has_no_room_is_tried_again_and_one_that_never_has_is_not(site: Site) -> None:
    site.processor("huge", name="p", workers=1, retry_delay_seconds=2)
    site.client.network.add_socket(name="p.larger", queue=site.queue, processor="p", task="larger")
    folder = site.home / "blobs"
    other = blobs.path_of(folder, blobs.put(folder, os.urandom(2_000_000)).digest)
    site.agent(PYFI_PATHS_BLOBS_GIB="0.003")

    never = site.client.submit("p.larger", 1).exception(timeout=60)
    assert isinstance(never, TaskError) and never.code == "E_LIMIT", never
    assert "4000" in never.what and "paths.blobs_gib" in never.what
    (later,) = site.submit("p.huge", [(1, str(site.runs))])
    line = eventually(
        lambda: [said for said in [waiting_for(later, site.client)] if "another attempt" in said], timeout=60
    )
    assert "for another attempt at 20" in line[0] and "bytes are taken" in line[0]
    other.unlink()
    meter.recount(folder)

    assert later.result(timeout=60) == bytes(2_000_000)
    site.quiet()


def test_only_the_call_that_was_running_is_tried_again(site: Site) -> None:
    site.processor("once_killed", workers=1)
    site.agent()
    site.ready()
    flags = [str(site.home / ("flag" if number == 50 else "runs")) for number in range(100)]
    site.runs.touch()

    futures = site.submit("p.once_killed", [(number, str(site.runs), flag) for number, flag in enumerate(flags)])

    assert [future.result(timeout=30) for future in futures] == list(range(100))
    site.quiet()
    assert site.causes(futures[50]) == ["signal"]
    assert site.rows("SELECT count(*) FROM pyfi.attempt WHERE status = 'FAILED'") == [(1,)]
    # results of calls this short travel in bunches: what had not been sent yet ran again, at no cost
    assert site.executions()[futures[50].id] == 2
    assert max(site.executions().values()) == 2


def test_a_stalled_call_is_ended_by_its_time_limit_and_tried_again(site: Site) -> None:
    site.processor("work", workers=1, timeout_seconds=2)
    site.agent()
    (worker,) = site.ready()
    (future,) = site.submit("p.work", [(21, str(site.runs), 1.0)])
    eventually(site.executions)

    os.kill(worker, signal.SIGSTOP)

    assert future.result(timeout=30) == 42
    site.quiet()
    assert site.causes(future) == ["timeout"]
    assert site.executions() == {future.id: 2}


def test_a_stalled_worker_that_wakes_up_goes_on(site: Site) -> None:
    site.processor("work", workers=1)
    site.agent()
    (worker,) = site.ready()
    (future,) = site.submit("p.work", [(21, str(site.runs), 0.5)])
    eventually(site.executions)

    os.kill(worker, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        future.result(timeout=2)
    os.kill(worker, signal.SIGCONT)

    assert future.result(timeout=10) == 42
    site.quiet()
    assert site.executions() == {future.id: 1}


def test_a_call_that_passes_the_memory_limit_dies_without_its_neighbours(site: Site) -> None:
    site.processor("hungry", workers=1, mem_mib=150, retries=1)
    agent = site.agent()
    site.ready()

    futures = site.submit("p.hungry", [(number, str(site.runs), 4000 if number == 3 else 1) for number in range(8)])
    greedy = futures.pop(3)

    dead = greedy.exception(timeout=60)
    assert isinstance(dead, Dead), dead
    assert dead.facts["cause"] == "host_oom"
    assert site.causes(greedy) == ["host_oom", "host_oom"]
    assert [future.result(timeout=30) for future in futures] == [1] * 7
    assert agent.process.poll() is None
    site.quiet()
    # neighbours in the same message spent nothing
    assert site.rows("SELECT count(*) FROM pyfi.attempt WHERE status = 'FAILED'") == [(2,)]
    assert max(site.executions()[future.id] for future in futures) == 1
