"""A processor whose code cannot be had or built: FAILED with the reason, its work kept, mended by an update."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyfi_hpc.box.postgres import Postgres
from tests.faults.own import change, site_on
from tests.services.test_mirror import daemon, free_port
from tests.site import TASKS, Site
from tests.support import eventually
from tests.support_git import commit_files, git


@pytest.fixture
def site(own_postgres: Postgres, home: Path) -> Iterator[Site]:
    """A site on the embedded broker."""
    with site_on(own_postgres, home) as made:
        yield made


def failure(site: Site) -> dict[str, Any]:
    """Why processor p is FAILED, as `show processor` has it; empty while it is not."""
    shown = site.client.network.show("processor", "p")
    return dict(shown["reason"]) if shown["status"] == "FAILED" else {}


def failed(site: Site, code: str) -> dict[str, Any]:
    """The failure, once it has that code."""
    return eventually(lambda: (found := failure(site)) and found["code"] == code and found, timeout=60)


def again_seconds(site: Site) -> float:
    """How long after its last failure the processor is tried again."""
    query = """SELECT extract(epoch FROM p.retry_at - max(e.at))::float8 FROM pyfi.processor p
        JOIN pyfi.event e ON e.object_id = p.id AND e.what = 'FAILED' GROUP BY p.retry_at"""
    return float(site.rows(query)[0][0])


def doctor(site: Site) -> str:
    """What `pyfi doctor` says of the network."""
    words = [sys.executable, "-P", "-m", "pyfi_hpc", "doctor", "network"]
    return subprocess.run(words, env=site.environment, capture_output=True, text=True).stdout


def agent_elsewhere(site: Site) -> None:
    """Start an agent that has fetched nothing yet."""
    site.agent(XDG_CACHE_HOME=str(site.home / "other cache"))


def test_a_build_that_fails_shows_its_log_and_an_update_mends_it(site: Site) -> None:
    repository = site.home / "repository"
    url = site.repository
    broken = commit_files(repository, {"pyproject.toml": '[project]\nname = "p"\nversion = "not a version!"\n'})
    site.client.network.add_processor(name="p", gitrepo=url, module="tasks", commit=broken, workers=1)
    site.client.network.add_socket(name="p.work", queue=site.queue, processor="p", task="work")
    site.agent()
    futures = site.submit("p.work", [(number, str(site.runs)) for number in range(5)])

    reason = failed(site, "E_BUILD")
    assert "version" in reason["log"]
    first = again_seconds(site)
    assert first >= 4
    # it is tried again, later each time
    change(site, "UPDATE pyfi.processor SET retry_at = now()")
    eventually(lambda: failure(site) and again_seconds(site) >= 1.9 * first, timeout=60)
    # and its work is kept meanwhile
    assert not any(future.done() for future in futures)

    (repository / "pyproject.toml").unlink()
    mended = commit_files(repository, {})
    site.client.network.update_processor("p", commit=mended)

    assert [future.result(timeout=60) for future in futures] == [0, 2, 4, 6, 8]
    site.quiet()
    # a worker takes calls a moment before that is on record
    eventually(lambda: site.client.network.show("processor", "p")["status"] == "RUNNING", timeout=60)
    assert not site.client.network.show("processor", "p")["reason"]


def test_a_new_commit_that_cannot_be_imported_leaves_the_workers_of_the_old_one_serving(site: Site) -> None:
    repository = site.home / "repository"
    # every core has one of its own
    workers = len(os.sched_getaffinity(0))
    site.processor("work", workers=workers)
    site.agent(PYFI_AGENT_SHARED_CORES="no")
    site.ready(workers)
    network = site.client.network
    before = network.show("processor", "p")["commit"]
    broken = commit_files(
        repository, {"tasks.py": TASKS + "\n\ndef novel(x):\n    return -x\n\nraise OSError('no lib')\n"}
    )

    network.update_processor("p", commit=broken)
    network.add_socket(name="p.novel", queue=site.queue, processor="p", task="novel")
    novel = site.client.submit("p.novel", 7)

    assert "no lib" in failed(site, "E_IMPORT")["what"]
    # the old worker has been there all the time
    assert [future.result(timeout=60) for future in site.submit("p.work", [(2, str(site.runs))])] == [4]
    rows = "SELECT commit, status::text FROM pyfi.worker WHERE status NOT IN ('EXITED', 'LOST')"
    assert site.rows(rows).count((before, "READY")) == workers
    said = f"p FAILED ({workers} of its workers go on in an older version): "
    eventually(lambda: said in doctor(site), timeout=60)  # not while it is tried again
    assert not novel.done(), "a call of a task that is yet to come waits"

    mended = commit_files(repository, {"tasks.py": TASKS + "\n\ndef novel(x):\n    return -x\n"})
    network.update_processor("p", commit=mended)

    assert novel.result(timeout=60) == -7
    eventually(lambda: site.rows(rows) == [(mended, "READY")] * workers, timeout=60)
    eventually(lambda: network.show("processor", "p")["status"] == "RUNNING", timeout=60)
    site.quiet()


def test_a_commit_that_is_gone_is_named_and_an_update_mends_it(site: Site) -> None:
    repository = site.home / "repository"
    url = site.repository
    site.processor("work", workers=1)
    # somebody pushes another history over it
    git(repository, "commit", "-q", "--amend", "--allow-empty", "-m", "Another history")
    git(repository, "reflog", "expire", "--expire=now", "--all")
    git(repository, "gc", "-q", "--prune=now")
    futures = site.submit("p.work", [(number, str(site.runs)) for number in range(5)])
    agent_elsewhere(site)

    reason = failed(site, "E_COMMIT_UNAVAILABLE")
    assert site.client.network.show("processor", "p")["commit"] in f"{reason['what']} {reason['at']}"
    assert not any(future.done() for future in futures)

    site.client.network.update_processor("p", gitrepo=url, branch="main")

    assert [future.result(timeout=60) for future in futures] == [0, 2, 4, 6, 8]
    site.quiet()


def test_a_host_that_is_down_is_tried_until_it_is_back(own_postgres: Postgres, home: Path) -> None:
    port = free_port()
    base = home / "served"
    address = f"git://127.0.0.1:{port}"
    with site_on(own_postgres, home, PYFI_GIT_ALLOW=address) as site:
        shutil.copytree(Path(site.repository.removeprefix("file://")), base / "tasks")
        assert (base / "tasks" / "tasks.py").read_text() == TASKS
        with daemon(base, port):
            site.client.network.add_processor(name="p", gitrepo=f"{address}/tasks", module="tasks", workers=1)
            site.client.network.add_socket(name="p.work", queue=site.queue, processor="p", task="work")
        agent_elsewhere(site)
        futures = site.submit("p.work", [(number, str(site.runs)) for number in range(5)])

        reason = failed(site, "E_COMMIT_UNAVAILABLE")
        assert f"127.0.0.1:{port}" in f"{reason['what']} {reason['at']}"
        with daemon(base, port):
            # nobody does anything: it is tried again
            assert [future.result(timeout=60) for future in futures] == [0, 2, 4, 6, 8]
        site.quiet()
