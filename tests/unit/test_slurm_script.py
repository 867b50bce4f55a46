"""The job script of a pilot: readable, quoted, safe whatever is put into it. A shell runs it here, without Slurm."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.slurm.launcher import Submission
from pyfi_hpc.slurm.request.script import MAX_SETUP_BYTES, make_submission, output_pattern
from tests.support import eventually

TOKEN = "0123456789abcdef" * 2
SRUN = ("srun", "-N", "$SLURM_JOB_NUM_NODES", "-n", "$SLURM_JOB_NUM_NODES", "--ntasks-per-node=1")

#: Stands in for the interpreter: writes what it was given, and ends as it is told to.
AGENT = """\
#!@
import os, pathlib, signal, sys, time
def drain(*_):
    print("drained")
    sys.exit(3)
signal.signal(signal.SIGUSR2, drain)
print(*sys.argv[1:], sep="\\n")
print(*sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith(("PYFI", "SLURM", "SET"))), sep="\\n")
if "STAY" in os.environ:
    pathlib.Path(os.environ["STAY"]).touch()
    while True:
        time.sleep(0.05)
sys.exit(7)
"""


def submission(request: ResourceRequest, step: Sequence[str] = SRUN, **changed: Any) -> Submission:
    given: dict[str, Any] = {
        "token": TOKEN,
        "network": "default",
        "python": "/opt/py fi/bin/python",
        "ini": Path(f"/home/ana/.local/state/pyfi/jobs/{TOKEN}.ini"),
        "processor_name": "detect",
        "state_dir": Path("/home/ana/.local/state/pyfi"),
    }
    return make_submission(request, step=step, **{**given, **changed})


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter that shows what it was given; its path has a blank in it."""
    path = tmp_path / "the python"
    path.write_text(AGENT.replace("@", sys.executable, 1))
    path.chmod(0o755)
    return path


def start(script: str, **environment: str) -> subprocess.Popen[str]:
    """Run the script as Slurm's batch shell does."""
    pipe = subprocess.PIPE
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("PYFI_", "SLURM_"))}
    shell = subprocess.Popen(
        ["bash", "-s"], stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**bare, **environment}
    )
    assert shell.stdin is not None
    shell.stdin.write(script)
    shell.stdin.close()
    shell.stdin = None
    return shell


# what it says

GOLDEN = """\
#!/bin/bash
#SBATCH --job-name=pyfi-detect
#SBATCH --partition=gpu
#SBATCH --time=02:00:00
#SBATCH --nodes=2
#SBATCH --gpus-per-node=h100:4
#SBATCH --output=/home/ana/.local/state/pyfi/jobs/%j.out
#SBATCH --requeue
#SBATCH --signal=B:USR2@120
#SBATCH --comment="pyfi:0123456789abcdef0123456789abcdef for \\"Ana\\""
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --mail-type=END
"""


def test_the_script_alone_tells_all_and_the_sbatch_line_says_the_same() -> None:
    request = ResourceRequest(
        partition="gpu", nodes=2, time_minutes=120, gpus_per_node="h100:4", comment='for "Ana"',
        extra=("--mail-type=END",), setup="#!/bin/bash\nmodule load cuda\n",
    )  # fmt: skip
    made = submission(request)
    assert made.token == TOKEN
    assert made.script.startswith(GOLDEN)
    directives = [line.removeprefix("#SBATCH ") for line in made.script.splitlines() if line.startswith("#SBATCH")]
    assert [shlex.split(line)[0] for line in directives] == list(made.arguments)
    assert "\n#!/bin/bash\nmodule load cuda\nPYFI_END\n" in made.script
    assert (
        f"exec '/opt/py fi/bin/python' -P -m pyfi_hpc.agent.main --respawn --network default --job {TOKEN}"
        in made.script
    )
    assert '$SLURM_JOB_NUM_NODES --ntasks-per-node=1 /bin/bash -c "$on_node" pyfi "$setup"' in made.script


def test_what_a_person_says_wins_over_what_a_pilot_has_by_itself() -> None:
    request = ResourceRequest(
        job_name="mine", output="/x/%j", requeue=False, signal_seconds=300,
        extra=("--open-mode=truncate", "--no-kill=off"),
    )  # fmt: skip
    assert list(submission(request).arguments) == [
        "--job-name=mine", "--nodes=1", "--output=/x/%j", "--no-requeue", "--signal=B:USR2@300",
        f"--comment=pyfi:{TOKEN}", "--open-mode=truncate", "--no-kill=off",
    ]  # fmt: skip


def test_output_goes_into_the_state_directory_whatever_its_name() -> None:
    state = Path("/tmp/100%/s")
    assert output_pattern(ResourceRequest(), state) == "/tmp/100%%/s/jobs/%j.out"
    assert output_pattern(ResourceRequest(array="0-3"), state) == "/tmp/100%%/s/jobs/%A_%a.out"


@pytest.mark.parametrize("first", ["#!/usr/bin/env python3", "#!/usr/bin/perl", "#!"])
def test_a_set_up_that_no_shell_runs_is_refused(first: str) -> None:
    with pytest.raises(BadInput, match="E_DIRECTIVE"):
        submission(ResourceRequest(setup=f"{first}\nprint(1)\n"))


def test_a_set_up_that_cannot_travel_is_refused() -> None:
    with pytest.raises(BadInput, match="E_LIMIT"):
        submission(ResourceRequest(setup="#" * (MAX_SETUP_BYTES + 1)))
    with pytest.raises(BadInput, match="dos2unix"):
        submission(ResourceRequest(setup="module load cuda\r\n"))


# what it does


def test_a_node_runs_the_set_up_then_the_agent_with_the_path_of_its_settings(python: Path) -> None:
    setup = '#!/bin/bash\nexport SETTING="it\'s $((6 * 7))"\nset -- lost\ncd /\n'
    request = ResourceRequest(cpus_per_task=2, setup=setup)
    made = submission(request, (), python=str(python))
    secret = {"PYFI_DATABASE_URI": "postgresql://ana:secret@db/pyfi", "SLURM_GPUS_PER_TASK": "1"}
    shell = start(made.script, **secret, SLURM_TASKS_PER_NODE="2(x3)")
    out, err = shell.communicate(timeout=30)
    assert (shell.returncode, err) == (7, "")
    assert out.splitlines() == [
        *("-P", "-m", "pyfi_hpc.agent.main", "--respawn", "--network", "default", "--job", TOKEN),
        f"PYFI_INI=/home/ana/.local/state/pyfi/jobs/{TOKEN}.ini",
        "PYFI_SETUP=SETTING",
        "PYFI_TASKS_PER_NODE=2(x3)",
        "SETTING=it's 42",
        "SLURM_CPUS_PER_TASK=2",
        "SLURM_EXPORT_ENV=ALL",
        "SLURM_TASKS_PER_NODE=2(x3)",
    ]


@pytest.mark.parametrize("first", ["#!/bin/bash -eu", "#!/bin/sh"])
def test_what_the_set_up_exports_is_named_for_the_workers(python: Path, first: str) -> None:
    setup = f"""{first}
set -eu
export SET_NEW='two
lines' SET_CHANGED=new
SET_LOCAL=x
export SET_SAME=same PYTHONPATH=/of/a/module PYTHONHOME=/of/a/module
"""
    given = {"SET_CHANGED": "old", "SET_SAME": "same", "SET_KEPT": "kept", "PYTHONPATH": ""}
    shell = start(submission(ResourceRequest(setup=setup), (), python=str(python)).script, **given)
    out, err = shell.communicate(timeout=30)
    assert (shell.returncode, err) == (7, "")
    named = out.partition("PYFI_SETUP=")[2].partition("\nPYFI_TASKS")[0]
    assert sorted(named.split()) == ["PYTHONHOME", "PYTHONPATH", "SET_CHANGED", "SET_NEW"]
    assert "SET_NEW=two\nlines\n" in out and "SET_CHANGED=new\n" in out


def test_a_set_up_runs_in_the_shell_that_it_names(python: Path) -> None:
    setup = '#!/usr/bin/env bash\nexport SET="${BASH_VERSION:+bash}"\n'
    out, _ = start(submission(ResourceRequest(setup=setup), (), python=str(python)).script).communicate(timeout=30)
    assert "SET=bash" in out
    setup = '#!/bin/sh\nexport SET="posix $-"\n'
    out, _ = start(submission(ResourceRequest(setup=setup), (), python=str(python)).script).communicate(timeout=30)
    assert "SET=posix" in out


def test_a_set_up_that_gives_up_ends_the_node_without_an_agent(python: Path) -> None:
    shell = start(submission(ResourceRequest(setup="exit 9"), (), python=str(python)).script)
    assert shell.communicate(timeout=30) == ("", "")
    assert shell.returncode == 9


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_warning_to_the_batch_shell_drains_the_agent_and_its_status_is_the_jobs(
    python: Path, tmp_path: Path, number: signal.Signals
) -> None:
    ready = tmp_path / "ready"
    shell = start(submission(ResourceRequest(), (), python=str(python)).script, STAY=str(ready))
    eventually(ready.exists)
    shell.send_signal(number)
    out, err = shell.communicate(timeout=30)
    assert (shell.returncode, err) == (3, "")
    assert out.endswith("drained\n")


def test_a_warning_during_the_set_up_reaches_the_agent_that_comes_behind_it(python: Path, tmp_path: Path) -> None:
    began, go = tmp_path / "began", tmp_path / "go"
    setup = f"touch {began}\nwhile [ ! -e {go} ]; do sleep 0.05; done\n"
    shell = start(submission(ResourceRequest(setup=setup), (), python=str(python)).script, STAY=str(tmp_path / "ready"))
    eventually(began.exists)
    shell.send_signal(signal.SIGUSR2)
    go.touch()
    out, _ = shell.communicate(timeout=30)
    assert (shell.returncode, out.splitlines()[-1]) == (3, "drained")


# whatever is put into it

HOSTILE = [
    "$(touch {trap})", "`touch {trap}`", "'; touch {trap}; '", '"; touch {trap}; "', "\\", "PYFI_END", "@SETUP@ @STEP@",
    "#SBATCH --uid=0", "}; touch {trap}; {", "é ü 漢", "a\\'b", "%j %% %x", "-rf", "${IFS}", "!x",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
def test_no_value_is_run(value: str, python: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    value = value.replace("{trap}", str(trap))
    request = ResourceRequest(job_name=value, comment=value, constraint=value, output=value, export=value)
    made = submission(request, (), python=str(python), network=value, processor_name=value, ini=tmp_path / value)
    out, err = start(made.script).communicate(timeout=30)
    assert not trap.exists() and err == ""
    assert out.splitlines()[5] == value


@pytest.mark.parametrize("text", ["PYFI_END", "a\nPYFI_END\nPYFI_END_\ntouch {trap}", "cat <<'PYFI_END'\nx\nPYFI_END"])
def test_no_line_of_the_set_up_ends_it_early(text: str, python: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    setup = "cat << 'OUTER' > /dev/null\n" + text.replace("{trap}", str(trap)) + "\nOUTER\n"
    shell = start(submission(ResourceRequest(setup=setup), (), python=str(python)).script)
    _, err = shell.communicate(timeout=30)
    assert (shell.returncode, err) == (7, "") and not trap.exists()


_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=40)
_SETUP = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=200).filter(
    lambda text: not text.startswith("#!")
)


@settings(max_examples=40, deadline=None)
@given(_TEXT, _TEXT, _SETUP)
def test_any_values_make_a_script_that_a_shell_can_read(name: str, path: str, setup: str) -> None:
    request = ResourceRequest(job_name=name, chdir=name, account=name)
    made = submission(replace(request, setup=setup), python=path, ini=Path(path), processor_name=name, network=name)
    done = subprocess.run(["bash", "-n"], input=made.script, capture_output=True, text=True)
    # a set-up may be wrong in itself: it is text here, and no part of the script
    assert (done.returncode, done.stderr) == (0, "")
    assert made.script.count("#SBATCH --job-name=") == 1 + setup.count("#SBATCH --job-name=")


def test_a_value_of_several_lines_is_refused() -> None:
    with pytest.raises(BadInput, match="E_USAGE"):
        submission(ResourceRequest(comment="a\nrm -rf /"))
