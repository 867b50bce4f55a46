"""The original's flow script, typed as printed; then what is refused about its schedulers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyfi_hpc.db.embedded import EmbeddedPostgres
from tests.acceptance.test_cli import SAMPLE, SETUP
from tests.acceptance.typed import Typed

pytestmark = pytest.mark.slow

#: As SEED prints it, blanks and all; only the repository is another one.
SCRIPT = """
pyfi add node -n node1 -h phoenix
pyfi add node -n node2 -h radiant
pyfi add node -n node3 -h miko
pyfi add scheduler --name sched1

pyfi scheduler -n sched1  add --node node1
pyfi scheduler -n sched1  add --node node2
pyfi scheduler -n sched1  add --node node3

pyfi add processor -n proc1 -g {repository} -m pyfi.processors.sample -t do_something
pyfi add queue -n pyfi.queue1 -t direct
pyfi add queue -n pyfi.queue2 -t direct
pyfi add queue -n pyfi.queue3 -t direct

pyfi add outlet -n proc1.outlet1 -q pyfi.queue1 -pn proc1
pyfi add plug -n plug1 -q pyfi.queue2 -pn proc1
pyfi add plug -n plug3 -q pyfi.queue3 -pn proc1
pyfi add processor -n proc2 -g {repository} -m pyfi.processors.sample -t do_this -h radiant
pyfi add outlet -n proc2.outlet1 -q pyfi.queue2 -pn proc2

pyfi add processor -n proc4 -g {repository} -m pyfi.processors.sample -t do_something -h radiant
pyfi add outlet -n proc4.outlet1 -q pyfi.queue1 -pn proc4

pyfi add processor -n proc3 -g {repository} -m pyfi.processors.sample -t do_this -h miko
pyfi add outlet -n proc3.outlet1 -q pyfi.queue3 -pn proc3
"""


@pytest.fixture(scope="module")
def pyfi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typed]:
    """The flow of the script, in embedded mode."""
    home = tmp_path_factory.mktemp("seed")
    repository = home / "repository"
    _make(repository)
    shell = Typed(home, {})
    try:
        for line in SCRIPT.format(repository=repository).splitlines():
            if line:
                shell(line)
        yield shell
    finally:
        shell("pyfi local stop")
        EmbeddedPostgres(home / "state").remove()


def _make(repository: Path) -> None:
    (repository / "pyfi" / "processors").mkdir(parents=True)
    files = {"setup.py": SETUP, "pyfi/__init__.py": "", "pyfi/processors/__init__.py": ""}
    for name, text in (files | {"pyfi/processors/sample.py": SAMPLE}).items():
        (repository / name).write_text(text)
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "Begin"]):
        subprocess.run(["git", "-C", str(repository), *command], check=True)


def test_a_task_is_called_by_the_name_of_its_processor_though_its_socket_has_another(pyfi: Typed) -> None:
    said = pyfi.run("pyfi call proc1.do_something '\"Hello World !\"' -v --timeout 120")
    assert said.stdout == "Self: Hello World !\n", said.stderr
    assert " proc1.outlet1@" in said.stderr
    assert pyfi("pyfi call proc1.do_something '\"again\"' --timeout 120") == "Self: again\n"
    assert "no socket 'proc1.do_this' (E_NOT_FOUND)" in pyfi("pyfi call proc1.do_this 1", status=2)


@pytest.mark.parametrize("command", ["cancel", "logs", "logs -f"])
def test_a_number_that_is_no_job_is_said_to_be_none(pyfi: Typed, command: str) -> None:
    said = pyfi(f"pyfi {command} 88121", status=2)
    assert "no job, and no invocation on record, is called 88121 (E_NOT_FOUND)" in said and "pyfi ls jobs" in said


def test_the_script_makes_the_scheduler_with_its_nodes(pyfi: Typed) -> None:
    (scheduler,) = pyfi.items("pyfi ls schedulers")
    assert (scheduler["name"], scheduler["nodes"]) == ("sched1", ["node1", "node2", "node3"])
    assert (scheduler["leader"], scheduler["live_jobs"]) == (None, 0)
    assert pyfi.items("pyfi ls jobs") == []
    assert {row["name"]: row["host"] for row in pyfi.items("pyfi ls nodes")}.items() >= {
        ("node1", "phoenix"),
        ("node2", "radiant"),
        ("node3", "miko"),
    }


def test_no_pilot_is_sent_for_processors_without_a_shape(pyfi: Typed) -> None:
    assert {row["shape"] for row in pyfi.items("pyfi ls processors")} == {None}


def test_a_node_is_under_one_scheduler_alone(pyfi: Typed) -> None:
    pyfi("pyfi add scheduler -n sched2")
    refused = pyfi("pyfi scheduler -n sched2 add --node node1", status=2)
    assert "node node1 is under scheduler sched1 (E_IN_USE)" in refused
    assert "pyfi scheduler -n sched1 remove --node node1" in refused
    pyfi("pyfi scheduler remove -n sched1 --node node1")
    pyfi("pyfi scheduler -n sched2 add --node node1")
    assert "(E_NODE)" in pyfi("pyfi scheduler -n sched1 remove --node node1", status=2)
    assert pyfi.items("pyfi ls schedulers")[1]["nodes"] == ["node1"]


def test_a_scheduler_goes_once_it_has_no_nodes(pyfi: Typed) -> None:
    pyfi("pyfi add scheduler -n sched3")
    pyfi("pyfi add node -n node9 -h nine")
    pyfi("pyfi scheduler -n sched3 add --node node9")
    assert "1 node" in pyfi("pyfi delete scheduler sched3 -y", status=2)
    pyfi("pyfi delete scheduler sched3 --cascade -y")
    assert "sched3" not in {row["name"] for row in pyfi.items("pyfi ls schedulers")}
    (node,) = [row for row in pyfi.items("pyfi ls nodes") if row["name"] == "node9"]
    assert node["scheduler"] is None


def test_bad_names_are_refused(pyfi: Typed) -> None:
    assert "did you mean 'sched1'?" in pyfi("pyfi scheduler -n shed1 add --node node1", status=2)
    assert "(E_NOT_FOUND)" in pyfi("pyfi scheduler -n sched1 add --node nobody", status=2)
    assert "name is missing" in pyfi("pyfi scheduler add --node node2", status=2)
    assert "only one name" in pyfi("pyfi scheduler -n sched1 add -n sched1 --node node2", status=2)
    assert "(E_NOT_FOUND)" in pyfi("pyfi scheduler start -n sched9", status=2)
    assert "(E_NOT_FOUND)" in pyfi("pyfi show job 88121", status=2)
