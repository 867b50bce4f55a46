"""`pyfi submit` as people type it, against a real Slurm and a real database. The agents of its jobs are stand-ins."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pyfi_hpc.box.postgres import ADMIN, ROLE, Postgres
from pyfi_hpc.box.slurm import SlurmCluster
from pyfi_hpc.cli.main import run
from pyfi_hpc.db import schema
from tests.acceptance.test_docs import FENCE, fits
from tests.support import eventually

AGENT = f"""\
#!{sys.executable}
import os, signal, time
signal.signal(signal.SIGUSR2, lambda *_: os._exit(0))
while os.environ.get("STAY"):
    time.sleep(0.05)
"""
SCRIPT = """\
#!/bin/bash
#SBATCH --partition=main --time=20
#SBATCH -n 2
#PYFI --processor=proc1 --drain-before=90

export STAY=yes
echo "set up on $SLURMD_NODENAME"
"""


class Desk:
    """A login node: somebody's folder and settings, with processor `proc1` on a network of its own."""

    def __init__(self, cluster: SlurmCluster, uri: str, folder: Path) -> None:
        self.cluster, self.uri, self.folder = cluster, uri, folder
        self.network = f"n{uuid.uuid4().hex[:8]}"
        self.python = folder / "python"
        self.python.write_text(AGENT)
        self.python.chmod(0o755)
        self.rows("INSERT INTO pyfi.network (name) VALUES (%s)", self.network)
        self.rows(
            "INSERT INTO pyfi.processor (network_id, name, repository, commit, module, requested_status)"
            " SELECT id, 'proc1', 'file:///r', %s, 'm', 'STOPPED' FROM pyfi.network WHERE name = %s",
            "a" * 40, self.network,
        )  # fmt: skip

    def settings(self) -> dict[str, str]:
        return {
            "PYFI_DATABASE_URI": self.uri,
            "PYFI_AGENT_NETWORK": self.network,
            "PYFI_PATHS_STATE": str(self.folder / "state"),
            "PYFI_SLURM_PYTHON": str(self.python),
            "PYFI_SLURM_POLL_SECONDS": "1",
        }

    def sit_down(self, patch: pytest.MonkeyPatch) -> None:
        """Make this process one of somebody who works here."""
        for name, value in {**self.settings(), **self.cluster.environment}.items():
            patch.setenv(name, value)
        patch.setenv("XDG_CONFIG_HOME", str(self.folder / "config"))
        patch.chdir(self.folder)

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Do one statement; what it gives."""
        with closing(psycopg2.connect(self.uri)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def script(self, text: str = SCRIPT, name: str = "setup.sh") -> str:
        (self.folder / name).write_text(text)
        return name

    def jobs(self) -> list[dict[str, Any]]:
        """The rows of this network's jobs."""
        columns = ("slurm_id", "workers", "request", "script", "status", "token")
        found = self.rows(
            f"SELECT {', '.join(f'j.{name}' for name in columns)} FROM pyfi.job j JOIN pyfi.network n"
            " ON n.id = j.network_id WHERE n.name = %s ORDER BY j.created",
            self.network,
        )
        return [dict(zip(columns, row, strict=True)) for row in found]

    def processor(self) -> tuple[Any, ...]:
        ((*found,),) = self.rows(
            "SELECT p.requested_status, p.shape, p.generation FROM pyfi.processor p JOIN pyfi.network n"
            " ON n.id = p.network_id WHERE n.name = %s",
            self.network,
        )
        return tuple(found)

    def apart(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One `pyfi submit` in a process of its own."""
        command = [sys.executable, "-P", "-m", "pyfi_hpc", "submit", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.folder)

    def shown(self, job: str) -> str:
        return self.cluster.ask("scontrol", "show", "job", job)


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    """A database with our schema."""
    with Postgres() as server:
        schema.init(server.uri(ADMIN), grant_to=ROLE)
        yield server.uri()


@pytest.fixture
def desk(slurm: SlurmCluster, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    made = Desk(slurm, uri, tmp_path)
    made.sit_down(monkeypatch)
    yield made
    slurm.clear()


def typed(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one `pyfi submit`."""
    capfd.readouterr()
    code = run(["submit", *words])
    return (code, *capfd.readouterr())


# what it does


def test_a_pilot_is_submitted_and_says_what_to_do_next(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = typed(capfd, "-p", "main", "-N", "2", "-n", "8", "-t", "10", "--processor", "proc1")
    (job,) = desk.jobs()
    number = job["slurm_id"]
    assert code == 0, err
    assert out == f"Submitted job {number} (8 workers, one per task). pyfi logs -f {number} · pyfi ls jobs\n"
    assert (job["workers"], job["status"]) == (8, "PENDING")
    assert desk.processor()[0] == "RUNNING"
    shown = desk.shown(number)
    for word in (
        "JobName=pyfi-proc1",
        "TimeLimit=00:10:00",
        "NumNodes=2",
        "NumTasks=8",
        f"Comment=pyfi:{job['token']}",
    ):
        assert word in shown
    assert f"WorkDir={desk.folder}" in shown
    assert f"StdOut={desk.folder}/state/jobs/{number}.out" in shown


def test_the_id_alone_is_printed_for_scripts(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = typed(capfd, "--processor=proc1", "--gpus-per-node", "h100:2", "--parsable")
    (job,) = desk.jobs()
    assert (code, out, job["workers"]) == (0, f"{job['slurm_id']}\n", 2)


def test_line_then_our_lines_then_variables_then_sbatch_lines_then_settings(
    desk: Desk, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYFI_SLURM_PARTITION", "gpu")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "15")
    monkeypatch.setenv("SBATCH_JOB_NAME", "by-variable")
    monkeypatch.setenv("SBATCH_SIGNAL", "B:USR1@200")
    code, _, err = typed(capfd, "-J", "by-line", desk.script())
    (job,) = desk.jobs()
    assert code == 0, err
    assert job["request"] == {
        "partition": "main",  # #SBATCH over the setting
        "ntasks": 2,
        "time_minutes": 15,  # the variable over #SBATCH
        "signal_seconds": 90,  # #PYFI over the variable
        "job_name": "by-line",
        "chdir": str(desk.folder),
        "setup": '#!/bin/bash\n\nexport STAY=yes\necho "set up on $SLURMD_NODENAME"\n',
    }
    assert "JobName=by-line" in desk.shown(job["slurm_id"])
    output = desk.folder / "state" / "jobs" / f"{job['slurm_id']}.out"
    eventually(lambda: output.exists() and "set up on n" in output.read_text())


def test_a_dry_run_shows_everything_and_queues_nothing(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    before = desk.processor()
    code, out, err = typed(capfd, "--dry-run", "-c", "2", desk.script())
    assert (code, err) == (0, "") and not desk.jobs() and desk.processor() == before
    assert not desk.cluster.ask("squeue", "--noheader")
    for line in (
        "# sbatch --parsable --job-name=pyfi-proc1 --partition=main --time=00:20:00 --nodes=1 --ntasks=2",
        "# 2 workers, one per task. Where each value comes from:",
    ):
        assert line in out
    origins = dict(line[4:].split(maxsplit=1) for line in out.splitlines() if line.startswith("#   --"))
    assert origins["--time=00:20:00"] == "setup.sh line 2"
    assert origins["--cpus-per-task=2"] == "command line"
    assert origins["--signal=B:USR2@90"] == "setup.sh line 4"
    assert origins["--requeue"] == "default"
    assert origins["--processor=proc1"] == "setup.sh line 4"
    assert origins[f"--chdir={desk.folder}"] == "where you are"
    # what is printed is a script, and the one that is submitted
    assert subprocess.run(["bash", "-n"], input=out, text=True).returncode == 0
    assert typed(capfd, "-c", "2", desk.script())[0] == 0
    (job,) = desk.jobs()
    assert out.startswith(job["script"].replace(job["token"], "0" * 32))


def test_slurm_is_asked_when_it_might_start(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = typed(capfd, "--test-only", "--processor=proc1", "-N3")
    assert code == 0 and "to start at" in out and not desk.jobs()


@pytest.mark.parametrize(("setup", "code"), [("true", 0), ("exit 9", 1)])
def test_waiting_ends_with_the_job(desk: Desk, capfd: pytest.CaptureFixture[str], setup: str, code: int) -> None:
    name = desk.script(f"#!/bin/bash\n{setup}\n")
    found, out, err = typed(capfd, "--wait", "--processor=proc1", name)
    (job,) = desk.jobs()
    assert (found, out.startswith(f"Submitted job {job['slurm_id']}")) == (code, True), err
    assert f"job {job['slurm_id']} ENDED: {'FAILED' if code else 'COMPLETED'}" in err
    assert job["status"] == "ENDED"


def test_ctrl_c_ends_the_watching_and_not_the_job(desk: Desk) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "pyfi_hpc", "submit", "-W", desk.script()],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=desk.folder, env=dict(os.environ),
    )  # fmt: skip
    assert process.stdout is not None
    number = process.stdout.readline().split()[2]
    eventually(lambda: "JobState=RUNNING" in desk.shown(number))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"Stopped watching. job {number} still " in err and f"pyfi cancel {number}" in err
    assert "JobState=RUNNING" in desk.shown(number)


def test_further_options_of_sbatch_are_passed_on(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = typed(
        capfd, "--parsable", "--processor=proc1", "--slurm-arg=--nice=7", "--slurm-arg", "--time-min=3", "-t5"
    )
    assert code == 0, err
    assert "Nice=7" in desk.shown(out.strip()) and "TimeMin=00:03:00" in desk.shown(out.strip())


def test_each_job_of_an_array_brings_workers(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = typed(capfd, "-a", "0-2", "-n2", "--processor=proc1")
    assert code == 0, err
    assert "(6 workers, one per task)" in out and desk.jobs()[0]["workers"] == 6


# what it refuses


LATE = SCRIPT + "#SBATCH --gpus=4\n"
#: What is typed, and lines of what is said.
REFUSED: Sequence[tuple[str, str, Sequence[str]]] = [
    ("-n4", SCRIPT, ["processor is missing (E_MISSING)", "pyfi ls processors"]),
    ("--processor proc", SCRIPT, ["no processor 'proc' (E_NOT_FOUND)", "did you mean 'proc1'?  pyfi ls"]),
    ("--gpus -1", SCRIPT, ["(E_RANGE)", "at:  --gpus -1"]),
    ("-n 0", SCRIPT, ["(E_RANGE)", "at:  --ntasks 0"]),
    ("-n 1e9", SCRIPT, ["(E_RANGE)", "at:  --ntasks 1e9"]),
    ("-t 25:61", SCRIPT, ["61 seconds (E_TIME_FORMAT)", "at:  --time 25:61", "try: did you mean 26:01, or 25:01:00?"]),
    ("--mem 32", SCRIPT, ["32 MiB, as Slurm reads it, cannot start Python (E_RANGE)", "try: 32G?"]),
    ("-a 5-1", SCRIPT, ["array runs backwards (E_RANGE)", "try: 1-5?"]),
    ("--per gpus", SCRIPT, ["(E_CHOICE)", "did you mean gpu?"]),
    ("--gpus-per-node 12 setup.sh", SCRIPT, [
        "pyfi: 12 GPUs on one node cannot be had (E_UNSATISFIABLE)", "  at:  --gpus-per-node 12     most in 'main': 4",
        "  try: pyfi submit -N 3 --gpus-per-node 4 setup.sh"]),
    ("-n 9 --processor proc1", SCRIPT, [
        "9 tasks of 1 core on 1 node cannot be had", "try: pyfi submit -N 2 -n 9 --processor proc1"]),
    ("-p gpu -t 2:00:00 --processor proc1", SCRIPT, [
        "a time limit of 02:00:00 cannot be had", "try: pyfi submit -t 01:00:00 -p gpu --processor proc1"]),
    ("-p gpuu --processor proc1", SCRIPT, ["no partition 'gpuu' (E_NOT_FOUND)", "try: did you mean 'gpu'?"]),
    ("-N 4 --processor proc1", SCRIPT, ["4 nodes cannot be had (E_UNSATISFIABLE)", "most in 'main': 3"]),
    ("-D /no/such --processor proc1", SCRIPT, ["folder '/no/such' is not there (E_NOT_FOUND)"]),
    ("-o none/%j.out --processor proc1", SCRIPT, ["is not there (E_NOT_FOUND)", "try: mkdir -p "]),
    ("--tme 5", SCRIPT, ["no option '--tme' (E_USAGE)", "try: did you mean --time?"]),
    ("--wrap date", SCRIPT, ["a pilot cannot have --wrap (E_USAGE)", "pyfi call"]),
    ("--mail-type END", SCRIPT, ["--mail-type is an option of sbatch", "--slurm-arg=--mail-type=VALUE"]),
    ("--slurm-arg maint", SCRIPT, ["'maint' is no option (E_USAGE)"]),
    ("--mem 4G --mem-per-cpu 1G --processor proc1", SCRIPT, ["--mem and --mem-per-cpu cannot both hold (E_ARGUMENT)"]),
    ("setup.sh", LATE, [
        "pyfi: setup.sh line 8: '#SBATCH --gpus=4' comes after the first command (E_DIRECTIVE)",
        "  at:  line 6 'export STAY=yes' ended the directives", "  try: move line 8 above line 6"]),
    ("setup.sh", SCRIPT.replace("--time", "--tiem"), ["no option '--tiem' (E_DIRECTIVE)", "line 2", "--time?"]),
    ("setup.sh", SCRIPT.replace("=20", "=25:61"), ["(E_TIME_FORMAT)", "at:  setup.sh line 2: --time 25:61"]),
    ("setup.sh", SCRIPT.replace("#!/bin/bash\n", ""), ["setup.sh does not begin with #! and a shell (E_DIRECTIVE)"]),
    ("setup.sh", SCRIPT + "if true; then\n", ["setup.sh is not what its shell can read", "(E_DIRECTIVE)"]),
    ("setup.sh", "#!/usr/bin/python3\nprint()\n", ["set-up for a shell", "(E_DIRECTIVE)"]),
    ("none.sh", SCRIPT, ["script 'none.sh' cannot be read: No such file or directory (E_NOT_FOUND)"]),
    (". --processor proc1", SCRIPT, ["script '.' cannot be read: Is a directory (E_NOT_FOUND)"]),
    ("--export ALL,PYFI_DATABASE_URI=x --processor proc1", SCRIPT, ["PYFI_DATABASE_URI is a setting of pyfi"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "script", "said"), REFUSED, ids=[f"{line} {number}" for number, (line, _, _) in enumerate(REFUSED)]
)
def test_bad_input_is_refused_before_anything_is_queued(
    desk: Desk, capfd: pytest.CaptureFixture[str], line: str, script: str, said: Sequence[str]
) -> None:
    desk.script(script)
    before = desk.processor()
    code, out, err = typed(capfd, *shlex.split(line))
    assert (code, out) == (2, "")
    for each in said:
        assert each in err
    assert "Traceback" not in err and len(err.splitlines()) <= 3
    assert not desk.jobs() and desk.processor() == before
    assert not desk.cluster.ask("squeue", "--noheader")


def test_where_slurm_is_not_installed_it_is_said(
    desk: Desk, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("PATH", str(desk.folder))
        code, _, err = typed(capfd, "--processor", "proc1")
    assert code == 2 and "(E_NO_SLURM)" in err and not desk.jobs()


def test_what_slurm_itself_refuses_is_told_in_its_own_words(desk: Desk) -> None:
    before = desk.processor()[:2]
    done = desk.apart("--processor", "proc1", "-C", "no-such-feature")
    assert (done.returncode, done.stdout) == (2, "")
    assert "E_SUBMIT" in done.stderr and "Invalid feature specification" in done.stderr
    assert [line[:7] for line in done.stderr.splitlines()] == ["pyfi: S", "  at:  ", "  try: "]
    assert not desk.jobs() and desk.processor()[:2] == before


def test_an_account_that_one_may_not_charge_is_refused_with_those_that_one_may(
    slurm_accounting: SlurmCluster, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    desk = Desk(slurm_accounting, uri, tmp_path)
    desk.sit_down(monkeypatch)
    code, _, err = typed(capfd, "--processor", "proc1", "-A", "labb")
    assert code == 2 and not desk.jobs()
    assert "no account 'labb' (E_NOT_FOUND)" in err and "did you mean 'lab'?" in err


# what the docs say


class Shell:
    """Runs the commands of a page: plain ones of ours in this process, which is quicker, the others in one bash."""

    def __init__(self, desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self._bash = subprocess.Popen(
            ["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            cwd=desk.folder, env=environment,
        )  # fmt: skip

    def does(self, command: str) -> str:
        """What the command prints, errors too."""
        if command.startswith("pyfi submit ") and not {"|", "$"} & set(command):
            return "".join(typed(self._capfd, *shlex.split(command)[2:])[1:])
        assert self._bash.stdin is not None and self._bash.stdout is not None
        self._bash.stdin.write(f"{command}\necho '<done>'\n")
        self._bash.stdin.flush()
        return "".join(iter(self._bash.stdout.readline, "<done>\n"))

    def end(self) -> None:
        self._bash.communicate(timeout=60)


@pytest.mark.slow
def test_the_card_for_people_who_know_sbatch_does_what_it_says(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    desk.rows(
        "UPDATE pyfi.processor SET name = 'detect' WHERE network_id = (SELECT id FROM pyfi.network WHERE name = %s)",
        desk.network,
    )
    page = (Path(__file__).parents[2] / "docs" / "submit.md").read_text()
    (script,) = [found["text"] for found in FENCE.finditer(page) if found["kind"] == "bash"]
    desk.script(script)
    blocks = [found["text"] for found in FENCE.finditer(page) if found["kind"] == "console"]
    steps = [part.partition("\n") for text in blocks for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]]
    assert len(steps) > 8
    shell = Shell(desk, capfd)
    for command, _, shows in steps:
        said = shell.does(command)
        assert fits(shows, said), f"{command}\nshows:\n{shows}says:\n{said}"
    shell.end()
