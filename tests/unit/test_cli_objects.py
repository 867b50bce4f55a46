"""What `add`, `update`, `delete`, `ls`, `show` and `proc` refuse before they open any service."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from pyfi_hpc.cli.main import run

ADD = "add processor -n proc1 -g /srv/r -m flow.steps"


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that nobody answers for: a test that reached it would end with exit code 3."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("PYFI_DATABASE_URI", f"postgresql://ana@/d?host={tmp_path}")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("add processor -n proc1 -m flow", "E_MISSING", ["gitrepo is missing", "-g, --gitrepo"]),
        ("add processor -n proc1 -g /srv/r", "E_MISSING", ["module"]),
        ("add queue", "E_MISSING", ["name"]),
        ("add socket -n s -q q -t f", "E_MISSING", ["processor", "-pn or -pi"]),
        ("add queue -n 'Proc 1'", "E_NAME", ["--name Proc 1"]),
        ("add queue -n ''", "E_NAME", []),
        (f"add queue -n {'x' * 64}", "E_NAME", []),
        ("add queue -n ../x", "E_NAME", ["../x"]),
        ("add queue -n a/b", "E_NAME", ["a/b"]),
        ("add queue -n -rf", "E_NAME", ["-rf"]),
        ("add queue -n $'a\\x1b[31m'", "E_NAME", []),
        ('add queue -n "\'; DROP TABLE x;--"', "E_NAME", ["DROP TABLE"]),
        ("add queue -n q1 -t fanot", "E_CHOICE", ["--type fanot", "did you mean fanout?"]),
        (f"{ADD} --gpus -1", "E_RANGE", ["--gpus -1", "0 to 64"]),
        (f"{ADD} --cpus 0", "E_RANGE", ["--cpus 0"]),
        (f"{ADD} -cs 1e9", "E_RANGE", ["--cpus 1e9"]),
        (f"{ADD} --mem 32", "E_RANGE", ["32G?"]),
        (f"{ADD} -rs RUNING", "E_CHOICE", ["did you mean RUNNING?"]),
        (f"{ADD} --gpu 1", "E_USAGE", ["--gpus"]),
        ("add --id x queue -n q1", "E_ID", ["--id x"]),
        ("add --id 00000000-0000-0000-0000-000000000000 queue -n q1", "E_ID", ["nil"]),
        ("add queu -n q1", "E_USAGE", ["pyfi add queue"]),
        ("update processor proc1", "E_MISSING", ["nothing is to be changed"]),
        ("update processor -w 2", "E_MISSING", ["name is missing"]),
        ("update processor proc1 -n proc2 -w 2", "E_USAGE", ["only one name"]),
        ("update processor proc1 -rs RUNING", "E_CHOICE", ["did you mean RUNNING?"]),
        ("update processor proc1 --generation 0", "E_RANGE", ["--generation 0"]),
        ("delete queue", "E_MISSING", ["name is missing"]),
        ("show queue", "E_MISSING", ["name is missing"]),
        ("proc start", "E_MISSING", ["name is missing"]),
        ("proc remove proc1", "E_CONFIRM", ["remove processor proc1", "add -y"]),
        ("proc begin proc1", "E_USAGE", []),
        (f"{ADD} --time 25:61", "E_TIME_FORMAT", ["--time 25:61"]),
        (f"{ADD} --ntasks 0", "E_RANGE", ["--ntasks 0"]),
        (f"{ADD} --ntask 8", "E_USAGE", ["--ntasks"]),
        ("add scheduler", "E_MISSING", ["name"]),
        ("add scheduler --name 'sched 1'", "E_NAME", ["--name sched 1"]),
        ("scheduler add --node node1", "E_MISSING", ["name is missing", "scheduler -n"]),
        ("scheduler -n s add -n s --node node1", "E_USAGE", ["only one name"]),
        ("scheduler -n s add", "E_MISSING", ["--node"]),
        ("scheduler -n s begin", "E_USAGE", ["pyfi scheduler"]),
        ("show job", "E_MISSING", ["JOB"]),
        ("delete job 7", "E_USAGE", []),
    ],
)
def test_bad_input_is_refused_with_its_code_before_any_service_is_asked(
    line: str, code: str, words: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = shlex.split(line.replace("$'a\\x1b[31m'", "'a\x1b[31m'"))
    with open("/dev/null") as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert run(arguments) == 2
    shown = capfd.readouterr()
    assert not shown.out
    assert f"({code})" in shown.err.splitlines()[0]
    assert all(word in shown.err for word in words), shown.err
    assert "\x1b" not in shown.err
