"""The commands of the original, typed as printed, in embedded mode: nothing is configured, nothing is faked."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from pyfi_hpc.db.embedded import EmbeddedPostgres
from tests.support import eventually

SAMPLE = '''
"""Two tasks, one that fails and one that takes its time."""
import time


def do_something(message):
    print("working on", message)
    return f"Self: {message}"


def do_this(message):
    return {"this": message}


def fail(message):
    raise ValueError(f"bad {message}")


def slow(seconds):
    time.sleep(seconds)
    return seconds
'''
SETUP = "from setuptools import setup\nsetup(name='sample', version='0', packages=['pyfi', 'pyfi.processors'])\n"

pytestmark = pytest.mark.slow


class Shell:
    """Runs `pyfi` as a person does, in a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        ours = {"PYFI_HOME": str(home / "state"), "PYFI_PATHS_CACHE": str(home / "cache"), "HOME": str(home)}
        self.environment = {**{k: v for k, v in os.environ.items() if not k.startswith("PYFI_")}, **ours}

    def run(self, line: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        words = shlex.split(line)
        assert words[0] == "pyfi"
        done = subprocess.run(
            [sys.executable, "-m", "pyfi_hpc", *words[1:]],
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == status, f"{line}\n{done.stdout}{done.stderr}"
        return done

    def __call__(self, line: str, status: int = 0) -> str:
        done = self.run(line, status)
        return done.stdout if status == 0 else done.stderr

    def items(self, line: str) -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(self(f"{line} -o json"))["items"]
        return found


@pytest.fixture(scope="module")
def pyfi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A network of one processor with four sockets on one queue."""
    home = tmp_path_factory.mktemp("cli")
    repository = home / "repository"
    (repository / "pyfi" / "processors").mkdir(parents=True)
    (repository / "setup.py").write_text(SETUP)
    for name, text in (("__init__.py", ""), ("processors/__init__.py", ""), ("processors/sample.py", SAMPLE)):
        (repository / "pyfi" / name).write_text(text)
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "Begin"]):
        subprocess.run(["git", "-C", str(repository), *command], check=True)
    shell = Shell(home)
    try:
        shell("pyfi add queue -n pyfi.queue1 -t direct")
        shell(f"pyfi add processor -n proc1 -g {repository} -m pyfi.processors.sample")
        shell("pyfi add socket -n proc1.socket1 -q pyfi.queue1 -pn proc1 -t do_something")
        shell("pyfi add socket -n proc1.socket2 -q pyfi.queue1 -pn proc1 -t do_this")
        shell("pyfi add socket -n proc1.fail -q pyfi.queue1 -pn proc1 -t fail")
        shell("pyfi add socket -n proc1.slow -q pyfi.queue1 -pn proc1 -t slow")
        yield shell
    finally:
        shell("pyfi local stop")
        EmbeddedPostgres(home / "state").remove()


def test_a_call_prints_the_value_and_says_who_made_it(pyfi: Shell) -> None:
    done = pyfi.run("pyfi call proc1.socket1 '\"Hello World !\"' -v")
    assert done.stdout == "Self: Hello World !\n"
    assert "proc1.socket1@" in done.stderr and " core " in done.stderr and "attempt 1 of 3" in done.stderr
    assert pyfi("pyfi task run proc1.socket2 '\"x\"'") == '{"this": "x"}\n'


def test_what_a_call_printed_can_be_read_by_its_short_id(pyfi: Shell) -> None:
    ident = "0192f3c1-0000-7000-8000-001234567801"
    pyfi(f"pyfi call proc1.socket1 1 --id {ident}")
    assert pyfi("pyfi logs 1234567801") == "working on 1\n"
    assert pyfi("pyfi logs 1234567801 -f") == "working on 1\n"
    waited = pyfi.run("pyfi wait 1234567801 -v")
    assert waited.stdout == "Self: 1\n" and f"{ident} proc1.socket1@" in waited.stderr
    assert pyfi.items("pyfi ps 1234567801")[0]["status"] == "SUCCEEDED"


def test_a_failing_call_dies_after_its_budget_and_can_be_requeued_and_dropped(pyfi: Shell) -> None:
    said = pyfi("pyfi call proc1.fail '\"x\"'", status=1)
    assert "pyfi: ValueError: bad x (E_REMOTE)" in said and "Traceback" not in said
    (dead,) = pyfi.items("pyfi dead ls")
    assert (dead["socket"], dead["cause"], dead["attempts"]) == ("proc1.fail", "user_error", 3)
    assert pyfi.items(f"pyfi dead show {dead['id']}")[0]["args"] == ["x"]
    assert pyfi(f"pyfi dead requeue {dead['id']}") == "1 requeued\n"
    assert "E_REMOTE" in pyfi(f"pyfi wait {str(dead['id'])[-10:]} --timeout 60", status=1)
    assert "E_CONFIRM" in pyfi("pyfi dead drop --all", status=2)
    assert pyfi("pyfi dead drop --all -y") == "1 dropped\n"
    assert pyfi.items("pyfi dead ls") == []


def test_a_wait_that_is_over_leaves_the_work_alone_and_cancel_ends_it(pyfi: Shell) -> None:
    ident = "0192f3c1-0000-7000-8000-001234567802"
    said = pyfi(f"pyfi call proc1.slow 60 --id {ident} --timeout 1", status=4)
    assert "E_TIMEOUT" in said and f"try: pyfi wait {ident}" in said
    eventually(lambda: pyfi.items(f"pyfi ps {ident[-10:]}")[0]["status"] == "RUNNING", timeout=20)
    assert "calls are under way" in pyfi("pyfi verify", status=4) and pyfi("pyfi verify --strict", status=5) == ""
    assert [row["running_since"] is not None for row in pyfi.items("pyfi ps") if row["running"] == ident] == [True]
    assert pyfi.items(f"pyfi cancel {ident}") == [
        {"id": ident, "cancelled": True, "status": "CANCELLED", "begun": True}
    ]
    assert "E_CANCELLED" in pyfi(f"pyfi wait {ident}", status=1)


def test_an_id_without_a_row_is_called_queued_or_unknown(pyfi: Shell) -> None:
    ident = "0192f3c1-0000-7000-8000-001234567803"
    assert f"waiting for {ident}, queued or unknown" in pyfi(f"pyfi wait {ident} --timeout 3", status=4)
    assert "queued or unknown" in pyfi(f"pyfi ps {ident}")
    said = pyfi.run(f"pyfi logs {ident}").stderr
    # what an attempt raised is elsewhere
    assert "nothing was printed" in said and f"pyfi ps {ident}" in said
    assert "give all of the id" in pyfi(f"pyfi wait {ident[-10:]}", status=2)


def test_a_call_tells_what_its_value_was_sent_on_to(pyfi: Shell) -> None:
    pyfi("pyfi add queue -n pyfi.queue2")
    pyfi("pyfi add socket -n proc1.next -q pyfi.queue2 -pn proc1 -t do_this")
    pyfi("pyfi add plug -n plug1 -q pyfi.queue2 -pn proc1 -s proc1.socket1")
    try:
        ident = "0192f3c1-0000-7000-8000-001234567804"
        pyfi(f"pyfi call proc1.socket1 1 --id {ident}")
        (child,) = cast(list[dict[str, str]], pyfi.items(f"pyfi ps {ident}")[0]["children"])
        assert child["socket"] == "proc1.next"
        assert pyfi(f"pyfi wait {child['id']} --timeout 60") == '{"this": "Self: 1"}\n'
        (child,) = cast(list[dict[str, str]], pyfi.items(f"pyfi ps {ident}")[0]["children"])
        assert child["status"] == "SUCCEEDED"
    finally:
        pyfi("pyfi delete queue pyfi.queue2 --cascade -y")


def test_a_purge_says_first_how_many_messages_it_would_take(pyfi: Shell) -> None:
    pyfi("pyfi add queue -n pyfi.queue3")
    pyfi("pyfi add processor -n idle -g repository -m pyfi.processors.sample -rs stopped")
    pyfi("pyfi add socket -n idle.in -q pyfi.queue3 -pn idle -t slow")
    ident = "0192f3c1-0000-7000-8000-001234567805"
    pyfi(f"pyfi call idle.in 1 --id {ident} --no-wait")
    assert ident in pyfi("pyfi queue peek pyfi.queue3")
    assert "in the 1 messages" in pyfi("pyfi queue purge pyfi.queue3", status=2)
    assert "pyfi proc remove idle --discard" in pyfi("pyfi delete processor idle --cascade -y", status=2)
    assert "1 calls cancelled" in pyfi("pyfi queue purge pyfi.queue3 -y")
    pyfi("pyfi delete processor idle --cascade -y")
    pyfi("pyfi delete queue pyfi.queue3 -y")


def test_objects_are_listed_shown_changed_and_deleted(pyfi: Shell) -> None:
    assert pyfi("pyfi ls queues --no-header --columns name,type").split() == ["pyfi.queue1", "direct"]
    assert pyfi("pyfi ls queue -o name") == pyfi("pyfi ls queues -o name")
    assert [row["task"] for row in pyfi.items("pyfi ls outlets")] == ["fail", "slow", "do_something", "do_this"]
    pyfi("pyfi add queue -n spare -t topic --max-length 5")
    assert pyfi.items("pyfi show queue -n spare")[0]["max_length"] == 5
    assert pyfi("pyfi update queue spare --max-length 7 --generation 1") == "queue spare generation 2\n"
    assert "E_STALE" in pyfi("pyfi update queue spare --max-length 8 --generation 1", status=2)
    pyfi("pyfi delete queue spare -y")
    assert "E_NOT_FOUND" in pyfi("pyfi show queue spare", status=2)


def test_a_processor_is_paused_and_resumed(pyfi: Shell) -> None:
    assert pyfi("pyfi proc pause proc1") == "processor proc1 PAUSED\n"
    assert "E_BAD_TRANSITION" not in pyfi("pyfi proc resume -n proc1")
    assert "E_BAD_TRANSITION" in pyfi("pyfi proc resume proc1", status=2)
    assert pyfi("pyfi call proc1.socket1 1 --timeout 60") == "Self: 1\n"


@pytest.mark.parametrize(
    ("line", "code", "word"),
    [
        ("pyfi add queue -n pyfi.queue1", "E_EXISTS", "is there already: "),
        ("pyfi add outlet -n o -q nope -pn proc1 -t fail", "E_NOT_FOUND", "no queue 'nope'"),
        ("pyfi add plug -n p -q nope -pn proc1", "E_NOT_FOUND", "no queue 'nope'"),
        ("pyfi add socket -n s -q pyfi.queue1 -pn proc2 -t fail", "E_NOT_FOUND", "no processor 'proc2'"),
        ("pyfi add socket -n s -q pyfi.queue1 -pn proc1 -t fial", "E_TASK_NOT_FOUND", "do_something, do_this, fail"),
        ("pyfi add processor -n p2 -g repository -m os", "E_MODULE", "os"),
        ("pyfi add processor -n p2 -g 'ext::sh -c id' -m m", "E_REPO_SCHEME", "gitrepo"),
        ("pyfi delete processor proc1 -y", "E_IN_USE", "4 sockets"),
        ("pyfi call proc1.slo 1", "E_NOT_FOUND", "did you mean 'proc1.slow'?"),
        ("pyfi call proc1.slow", "E_TYPE", "'seconds'"),
        ("pyfi wait x", "E_ID", "x"),
        ("pyfi db init", "E_MISSING", "database.uri"),
    ],
)
def test_bad_input_changes_nothing(pyfi: Shell, line: str, code: str, word: str) -> None:
    before = pyfi("pyfi ls events -o name --all")
    said = pyfi(line, status=2)
    assert f"({code})" in said.splitlines()[0] and word in said
    assert pyfi("pyfi ls events -o name --all") == before


def test_the_record_is_whole_in_the_end(pyfi: Shell) -> None:
    line = pyfi("pyfi verify").strip().splitlines()[-1]
    assert line.startswith("sent ") and line.endswith("lost 0  recorded twice 0")
    assert pyfi.items("pyfi local status")[0]["running"] is True
    assert pyfi.items("pyfi whoami")[0]["embedded"] is True
