"""What one agent a node finds that its job was granted, in steps of a real Slurm."""

from __future__ import annotations

import datetime
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pyfi_hpc.agent.grant import TASKS_PER_NODE
from pyfi_hpc.agent.slots import share_here
from pyfi_hpc.box import nvml
from pyfi_hpc.box.places import Places
from pyfi_hpc.box.slurm import SlurmCluster
from pyfi_hpc.box.slurm_files import Plan
from pyfi_hpc.model.request import Per, ResourceRequest
from pyfi_hpc.slurm.detail import Detail, ask
from tests.support import eventually

CGROUPS = Path("/sys/fs/cgroup")
#: One task a node, as for agents; what the job script exports stands before it.
SCRIPT = f"""#!/bin/bash
export {TASKS_PER_NODE}="$SLURM_TASKS_PER_NODE"
srun -N "$SLURM_JOB_NUM_NODES" -n "$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --no-kill --kill-on-bad-exit=0 \\
    --cpu-bind=none --gpu-bind=none --quiet "$@"
"""
PROGRAM = """
import dataclasses, json, os, sys
from pyfi_hpc.agent.slots import share_here
from pyfi_hpc.model.request import ResourceRequest
share = share_here(ResourceRequest.from_json(json.loads(sys.argv[1])))
told = {"share": dataclasses.asdict(share), "environment": dict(os.environ), "mask": sorted(os.sched_getaffinity(0))}
path = f"{sys.argv[2]}/{os.environ['SLURMD_NODENAME']}"
with open(path, "w") as file:
    json.dump(told, file, default=str)
os.rename(path, f"{path}.json")
"""


@dataclass(frozen=True)
class Found:
    """What the agent of one node told."""

    share: dict[str, Any]
    environment: Mapping[str, str]
    mask: list[int]

    @property
    def devices(self) -> list[list[str]]:
        return [slot["devices"] for slot in self.share["layout"]["slots"]]

    @property
    def widths(self) -> list[int]:
        return [len(slot["cores"]) for slot in self.share["layout"]["slots"]]


@dataclass
class Nodes:
    """A cluster whose nodes have GPUs that NVML sees as well, the same four files on each."""

    cluster: SlurmCluster
    variables: dict[str, str]
    folder: Path

    def found(self, request: ResourceRequest, *options: str) -> dict[str, Found]:
        """Node → what its agent found in a job submitted with `options`."""
        script, place = self.folder / "pilot", self.folder / f"found{len(list(self.folder.iterdir()))}"
        script.write_text(SCRIPT)
        place.mkdir(mode=0o777)
        words = [sys.executable, "-c", PROGRAM, json.dumps(request.to_json()), str(place)]
        command = ["sbatch", "-t10", f"--output={place}/out", *options, str(script), *words]
        self.cluster.run(*command, env=self.variables)
        files = eventually(lambda: _complete(place, request.nodes), timeout=30)
        return {file.stem: Found(**json.loads(file.read_text())) for file in files}

    def gpus(self, node: str, *indexes: int) -> list[str]:
        """Their UUIDs."""
        return [self.cluster.gpu_uuid(node, index) for index in indexes]

    def occupy(self, node: str) -> None:
        """Another job has the node's first GPU."""
        job = self.cluster.ask(
            "sbatch", "--parsable", f"-w{node}", "--gpus-per-node=1", "--mem=100", "--wrap=sleep 300"
        )
        eventually(lambda: self.cluster.ask("squeue", "-h", "-o%T", f"-j{job}") == "RUNNING")


def _complete(place: Path, count: int) -> list[Path]:
    """The files of all nodes; the job's own words while some are missing."""
    files = sorted(place.glob("*.json"))
    output = place / "out"
    assert len(files) == count, output.read_text() if output.exists() else "not started"
    return files


class Confined(SlurmCluster):
    """Jobs on it can open no device but those they were granted."""

    def __init__(self, count: int) -> None:
        super().__init__()
        # cgroups are named by node, and there may be other clusters on this machine
        self.nodes = [f"p{os.getpid()}n{number}" for number in range(1, count + 1)]

    def _planned(self, home: Path, places: Places) -> Plan:
        return replace(super()._planned(home, places), cgroups=True)

    def remove(self) -> None:
        super().remove()
        eventually(self._cgroups_gone)

    def _cgroups_gone(self) -> bool:
        """Slurm leaves those of its nodes behind; they go by rmdir alone, from the bottom up, once they are empty."""
        for root in (path for node in self.nodes for path in CGROUPS.glob(f"*/slurm_{node}")):
            for folder, _, _ in os.walk(root, topdown=False):
                with suppress(OSError):
                    os.rmdir(folder)
        return not [path for node in self.nodes for path in CGROUPS.glob(f"*/slurm_{node}")]


def with_gpus(cluster: SlurmCluster, variables: dict[str, str], folder: Path) -> Nodes:
    nvml.write_state(Path(variables[nvml.STATE]), cluster.gpu_state())
    return Nodes(cluster, variables, folder)


@pytest.fixture
def nodes(slurm: SlurmCluster, built_nvml: dict[str, str], tmp_path: Path) -> Iterator[Nodes]:
    """Three nodes where nothing hides one job's GPUs from another."""
    yield with_gpus(slurm, built_nvml, tmp_path)
    slurm.clear()


@pytest.fixture(scope="module")
def confined(built_nvml: dict[str, str]) -> Iterator[SlurmCluster]:
    """Two nodes with device cgroups."""
    with Confined(2) as cluster:
        yield cluster


def test_eight_tasks_on_two_nodes_are_eight_slots_however_slurm_spreads_them(nodes: Nodes) -> None:
    found = nodes.found(ResourceRequest(nodes=2, ntasks=8), "-N2", "-n8")
    slots = [len(one.widths) for one in found.values()]
    assert (sum(slots), {width for one in found.values() for width in one.widths}) == (8, {1})
    # what makes the job's own word necessary: Slurm counts the agents
    assert {one.environment["SLURM_TASKS_PER_NODE"] for one in found.values()} == {"1(x2)"}
    assert sorted(slots) == sorted(int(one.environment["SLURM_CPUS_ON_NODE"]) for one in found.values())


def test_more_cpus_than_there_are_cores_is_shown(nodes: Nodes) -> None:
    (one,) = nodes.found(ResourceRequest(ntasks=4, cpus_per_task=2), "-n4", "-c2").values()
    slots = one.share["layout"]["slots"]
    assert len(slots) == 4
    assert all(set(slot["cores"]) <= set(one.mask) for slot in slots)
    assert one.share["layout"]["shared"] == (len(one.mask) < 8)


def test_two_gpus_a_node_are_a_slot_each_with_the_cores_between_them(nodes: Nodes) -> None:
    request = ResourceRequest(nodes=2, ntasks=8, cpus_per_task=2, gpus_per_node="2")
    found = nodes.found(request, "-N2", "-n8", "-c2", "--gpus-per-node=2")
    assert {node: one.devices for node, one in found.items()} == {
        node: [nodes.gpus(node, 0), nodes.gpus(node, 1)] for node in found
    }
    assert [one.share["grant"]["cpus"] for one in found.values()] == [8, 8]


def test_gpus_are_this_nodes_own_where_another_job_has_the_first(nodes: Nodes) -> None:
    nodes.occupy("n2")
    request = ResourceRequest(nodes=2, gpus_per_node="2")
    found = nodes.found(request, "-N2", "-wn1,n2", "--gpus-per-node=2", "--mem=100")
    assert found["n1"].devices == [nodes.gpus("n1", 0), nodes.gpus("n1", 1)]
    assert found["n2"].devices == [nodes.gpus("n2", 1), nodes.gpus("n2", 2)]
    # why SLURM_JOB_GPUS is not asked: it is handed down from the first node
    assert found["n2"].environment["SLURM_JOB_GPUS"] == "0,1"


@pytest.mark.cgroup
def test_in_a_device_cgroup_the_gpus_that_open_are_ours_under_new_numbers(
    confined: SlurmCluster, built_nvml: dict[str, str], tmp_path: Path
) -> None:
    first, second = confined.nodes
    nodes = with_gpus(confined, built_nvml, tmp_path)
    nodes.occupy(second)
    found = nodes.found(ResourceRequest(nodes=2, gpus_per_node="2"), "-N2", "--gpus-per-node=2", "--mem=500")
    assert found[first].devices == [nodes.gpus(first, 0), nodes.gpus(first, 1)]
    assert found[second].devices == [nodes.gpus(second, 1), nodes.gpus(second, 2)]
    seen = found[second].share["inventory"]["devices"]
    assert [(one["index"], one["minor"]) for one in seen] == [(0, 1), (1, 2)]
    # Slurm counts as the job sees them, and tells the places on the node beside that
    told = found[second].environment
    assert (told["CUDA_VISIBLE_DEVICES"], told["SLURM_STEP_GPUS"]) == ("0,1", "1,2")


def test_gpus_may_be_spread_unevenly(nodes: Nodes) -> None:
    found = nodes.found(ResourceRequest(nodes=2, gpus="5"), "-N2", "--gpus=5")
    assert sorted(len(one.devices) for one in found.values()) == [1, 4]


def test_memory_and_end_are_those_of_the_grant(nodes: Nodes) -> None:
    (one,) = nodes.found(ResourceRequest(ntasks=2, mem="1G"), "-n2", "--mem=1G").values()
    assert [slot["mem_mib"] for slot in one.share["layout"]["slots"]] == [512, 512]
    # in 22.05 no variable tells the end
    assert "SLURM_JOB_END_TIME" not in one.environment
    said = nodes.cluster.ask("scontrol", "show", "job", "-o", one.environment["SLURM_JOB_ID"], env={"TZ": "UTC"})
    (started,) = re.findall(r" StartTime=(\S+) ", said)
    end = datetime.datetime.fromisoformat(f"{started}+00:00") + datetime.timedelta(minutes=10)
    assert datetime.datetime.fromisoformat(one.share["grant"]["ends_at"]) == end


def test_a_job_without_gpus_has_none_of_those_that_open(nodes: Nodes) -> None:
    (one,) = nodes.found(ResourceRequest(), "-n1").values()
    assert one.devices == [[]]
    assert (len(one.share["inventory"]["devices"]), Per.TASK) == (4, ResourceRequest().slot)


def test_a_controller_that_does_not_say_leaves_the_share_open(
    slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    with capture_logs() as said:
        assert ask("4000000", "n1") == Detail()
        monkeypatch.setenv("PATH", "")
        assert ask("1", "n1") == Detail()
    assert [entry["event"] for entry in said] == ["slurm does not say what the job was granted"] * 2


def test_a_controller_that_stalls_holds_no_agent_up(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    slurm.stall("slurmctld")
    try:
        assert ask("1", "n1", timeout_seconds=0.5) == Detail()
    finally:
        slurm.resume("slurmctld")
        slurm.wait_idle()


def test_outside_of_a_job_there_is_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert share_here(ResourceRequest()) is None
