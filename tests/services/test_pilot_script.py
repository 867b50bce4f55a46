"""A pilot's job script on a real Slurm: one agent a node with all of the job, set-up, warning, and no secret."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyfi_hpc.box.slurm import SlurmCluster
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.model.status import JobStatus
from pyfi_hpc.slurm.command_line import SlurmCommands
from pyfi_hpc.slurm.launcher import Observation, Submission
from pyfi_hpc.slurm.request.script import make_submission
from tests.support import eventually

SECRET = "s3cret-of-ana"
#: Stands in for the interpreter: writes what it finds on its node, and ends with 0 when it is warned.
AGENT = """\
#!@
import json, os, pathlib, signal, subprocess, sys, time
def drain(*_):
    found.with_suffix(".drained").touch()
    os._exit(0)
signal.signal(signal.SIGUSR2, drain)
node = os.environ["SLURMD_NODENAME"]
found = pathlib.Path(os.environ["FOUND"]) / f"{node}.{os.environ['SLURM_PROCID']}"
step = f"{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
shown = subprocess.run(["scontrol", "show", "step", step], capture_output=True, text=True).stdout
text = json.dumps({"words": sys.argv[1:], "env": dict(os.environ), "step": shown})
found.with_suffix(".new").write_text(text)
found.with_suffix(".new").rename(found.with_suffix(".json"))
while os.environ["STAY"] == "yes":
    time.sleep(0.05)
"""


class Pilots:
    """Sends pilots whose agents write down what they find."""

    def __init__(self, cluster: SlurmCluster, folder: Path) -> None:
        self.cluster, self.folder, self.launcher = cluster, folder, SlurmCommands(environment=cluster.environment)
        self.found = folder / "found"
        self.python = folder / "python"
        (folder / "jobs").mkdir()
        self.found.mkdir()
        self.python.write_text(AGENT.replace("@", sys.executable, 1))
        self.python.chmod(0o755)
        self.jobs: list[str] = []

    def submission(self, request: ResourceRequest) -> Submission:
        token = secrets.token_hex(16)
        return make_submission(
            request,
            token=token,
            network="default",
            python=str(self.python),
            ini=self.folder / "jobs" / f"{token}.ini",
            step=self.launcher.step,
            processor_name="detect",
            state_dir=self.folder,
        )

    def send(self, *, stay: bool = False, setup: str = "", **values: Any) -> str:
        mine = f"export FOUND={self.found} STAY={'yes' if stay else 'no'}\n"
        request = ResourceRequest(chdir=str(self.folder), setup=mine + setup, **values)
        job = self.launcher.submit(self.submission(request))
        self.jobs.append(job)
        return job

    def agents(self, count: int) -> list[dict[str, Any]]:
        """What `count` agents found, by node."""
        files: list[Path] = []

        def all_there() -> bool:
            files[:] = sorted(self.found.glob("*.json"))
            return len(files) == count

        eventually(all_there, timeout=30)
        return [json.loads(file.read_text()) for file in files]

    def ended(self, job: str) -> Observation:
        """How the job ended."""
        eventually(lambda: self.launcher.observe([job])[job].status is JobStatus.ENDED, timeout=30)
        return self.launcher.observe([job])[job]

    def output(self, job: str) -> str:
        """What it wrote, without what srun says where the cluster binds no cores."""
        lines = (self.folder / "jobs" / f"{job}.out").read_text().splitlines()
        return "\n".join(line for line in lines if "lacks support for cpu binding" not in line)


@pytest.fixture
def pilots(slurm: SlurmCluster, tmp_path: Path) -> Iterator[Pilots]:
    made = Pilots(slurm, tmp_path)
    yield made
    for job in made.jobs:
        made.launcher.cancel(job)
    slurm.clear()


@pytest.mark.parametrize(
    ("values", "nodes", "cores", "gpus"),
    [
        ({"nodes": 2, "ntasks": 8}, 2, 8, 0),
        ({"nodes": 2, "ntasks": 8, "cpus_per_task": 2}, 2, 16, 0),
        ({"nodes": 2, "ntasks": 4, "gpus_per_node": "2"}, 2, 4, 4),
        ({"nodes": 2, "gpus": "5", "mem": "500M"}, 2, 2, 5),
        ({"gres": "gpu:h100:3", "cpus_per_task": 3, "mem_per_cpu": "100M"}, 1, 3, 3),
    ],
    ids=["tasks", "cores", "gpus-per-node", "gpus", "gres"],
)
def test_each_node_has_one_agent_with_all_that_the_job_has_there(
    pilots: Pilots, values: dict[str, Any], nodes: int, cores: int, gpus: int
) -> None:
    job = pilots.send(stay=True, **values)
    agents = pilots.agents(nodes)
    assert len({each["env"]["SLURMD_NODENAME"] for each in agents}) == nodes
    assert sum(int(each["env"]["SLURM_CPUS_ON_NODE"]) for each in agents) == cores
    assert sum(len(each["env"].get("SLURM_STEP_GPUS", "").split(",")) for each in agents if gpus) == gpus
    wanted = values.get("cpus_per_task")
    assert {each["env"].get("SLURM_CPUS_PER_TASK") for each in agents} == {str(wanted) if wanted else None}
    # the step has the memory of the whole job
    shown = pilots.cluster.ask("scontrol", "show", "job", job)
    mem = next(word for word in shown.replace(",", " ").split() if word.startswith("mem="))
    assert all(mem in each["step"] for each in agents)


def test_the_set_up_runs_on_each_node_before_its_agent(pilots: Pilots) -> None:
    job = pilots.send(nodes=2, setup='export MODULE="cuda on $SLURMD_NODENAME"\necho "setting up"\n')
    agents = pilots.agents(2)
    assert [each["env"]["MODULE"] for each in agents] == [
        f"cuda on {each['env']['SLURMD_NODENAME']}" for each in agents
    ]
    assert all(each["words"][:3] == ["-P", "-m", "pyfi_hpc.agent.main"] for each in agents)
    assert pilots.ended(job).state == "COMPLETED"
    assert pilots.output(job) == "setting up\nsetting up"


@pytest.mark.parametrize("options", [["--signal=USR2"], ["--signal=TERM"]])
def test_a_warning_to_the_batch_shell_drains_the_agents_of_every_node(pilots: Pilots, options: list[str]) -> None:
    job = pilots.send(nodes=2, stay=True)
    pilots.agents(2)
    pilots.cluster.run("scancel", "--batch", *options, job)
    seen = pilots.ended(job)
    assert (seen.state, seen.exit_code) == ("COMPLETED", "0:0")
    assert len(list(pilots.found.glob("*.drained"))) == 2


def test_a_warning_that_comes_with_the_start_of_the_job_is_not_lost(pilots: Pilots) -> None:
    began, go = pilots.folder / "began", pilots.folder / "go"
    job = pilots.send(nodes=2, stay=True, setup=f"touch {began}\nwhile [ ! -e {go} ]; do sleep 0.05; done\n")
    eventually(began.exists)
    pilots.cluster.run("scancel", "--batch", "--signal=USR2", job)
    go.touch()
    assert pilots.ended(job).state == "COMPLETED"
    assert len(list(pilots.found.glob("*.drained"))) == 2


def test_a_failed_set_up_is_the_jobs_own_failure(pilots: Pilots) -> None:
    job = pilots.send(setup="echo no such module >&2\nexit 9\n")
    seen = pilots.ended(job)
    assert (seen.state, seen.exit_code) == ("FAILED", "9:0")
    assert "no such module" in pilots.output(job)
    assert not list(pilots.found.iterdir())


def test_variables_that_are_not_exported_still_leave_the_agent_its_settings(pilots: Pilots) -> None:
    pilots.send(nodes=2, export="NONE")
    assert all(each["env"]["PYFI_INI"].startswith(str(pilots.folder / "jobs")) for each in pilots.agents(2))


def test_no_secret_is_to_be_seen_anywhere(pilots: Pilots, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYFI_DATABASE_URI", f"postgresql://ana:{SECRET}@db/pyfi")
    job = pilots.send(stay=True, nodes=2, comment="mine")
    agents = pilots.agents(2)
    shown = pilots.cluster.ask("scontrol", "show", "job", "-dd", job)
    script = pilots.cluster.ask("scontrol", "write", "batch_script", job, "-")
    assert "Comment=pyfi:" in shown and "mine" in shown
    assert "pyfi_hpc.agent.main" in script
    for text in (shown, script, *map(str, agents), str(sorted(pilots.folder.rglob("*")))):
        assert SECRET not in text
    pilots.cluster.run("scancel", "--batch", "--signal=USR2", job)
    pilots.ended(job)
    assert SECRET not in pilots.output(job)


@pytest.mark.parametrize(
    "values",
    [
        {"comment": 'it\'s "quoted" \\ and #1', "job_name": "a b", "partition": "gpu", "time_minutes": 30},
        {"nodes": 3, "ntasks": 24, "mem_per_cpu": "100M", "array": "0-3%2", "requeue": False, "begin": "now+1hour"},
        {"gpus": "h100:2", "exclude": "n3", "nodelist": "n1", "dependency": "singleton", "export": "ALL,A=b"},
        {"gres": "gpu:h100:1", "signal_seconds": 300, "extra": ("--exclusive", "--mail-type=NONE"), "qos": "normal"},
    ],
)  # fmt: skip
def test_slurm_takes_what_we_render_and_reads_it_as_we_do(pilots: Pilots, values: dict[str, Any]) -> None:
    made = pilots.submission(ResourceRequest(chdir=str(pilots.folder), **values))
    assert "to start at" in pilots.launcher.test(made)
    # by the lines of the script alone it is the same job
    alone = pilots.cluster.ask("sbatch", "--parsable", "--hold", input=made.script)
    both = pilots.cluster.ask("sbatch", "--parsable", "--hold", *made.arguments, input=made.script)
    shown = [_job(pilots.cluster, job) for job in (alone, both)]
    assert shown[0] == shown[1]
    assert (
        shown[0]["Comment"] == next(word for word in made.arguments if word.startswith("--comment=")).partition("=")[2]
    )


#: Where they differ, it is because two jobs are two.
_OWN = frozenset({"JobId", "ArrayJobId", "LastSchedEval", "AllocNode:Sid", "Priority"})


def _job(cluster: SlurmCluster, job: str) -> dict[str, str]:
    """What Slurm tells of the job that another one could have too; its number in the names of files is JOB."""
    lines = cluster.ask("scontrol", "show", "job", job).splitlines()
    found = dict(word.split("=", 1) for line in lines for word in _fields(line.strip()))
    shown = {name: value for name, value in found.items() if name not in _OWN and not name.endswith("Time")}
    files = {name: value.replace(f"/{job}", "/JOB") for name, value in shown.items() if name.startswith("Std")}
    return shown | files


def _fields(line: str) -> list[str]:
    return [line] if line.startswith("Comment=") else [word for word in line.split() if "=" in word]
