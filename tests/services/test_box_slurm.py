"""The Slurm in a box is a Slurm: jobs, GPUs, requeue, lost nodes; and nothing of it stays."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyfi_hpc.box import cgroups
from pyfi_hpc.box.slurm import Profile, SlurmCluster
from pyfi_hpc.errors import Unavailable
from pyfi_hpc.processes import alive, children
from tests.support import eventually


def state(cluster: SlurmCluster, job: str) -> str:
    """Slurm's word for the state of a job."""
    return cluster.ask("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}")


def node_states(cluster: SlurmCluster) -> dict[str, str]:
    """Node → state, flags and all."""
    lines = cluster.ask("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines()
    return {line.split()[0]: line.split()[1] for line in lines}


def below(pid: int) -> list[int]:
    """The processes below one, at every depth."""
    return [found for child in children(pid) for found in (child, *below(child))]


def listens(address: str, port: int) -> bool:
    """Whether somebody takes connections there within a second."""
    try:
        socket.create_connection((address, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def addresses() -> str:
    """Those of this machine."""
    return subprocess.run(["ip", "-4", "-oneline", "address"], capture_output=True, text=True, check=True).stdout


def test_a_step_runs_on_three_nodes(slurm: SlurmCluster) -> None:
    named = slurm.ask("srun", "--nodes=3", "printenv", "SLURMD_NODENAME")
    assert sorted(named.splitlines()) == ["n1", "n2", "n3"]


def test_a_job_sees_the_gpus_it_was_given(slurm: SlurmCluster) -> None:
    seen = slurm.ask("srun", "--gpus=h100:2", "printenv", "CUDA_VISIBLE_DEVICES")
    assert seen == "0,1"


def test_more_gpus_than_a_node_has_are_refused(slurm: SlurmCluster) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        slurm.run("srun", "--nodes=1", "--gpus-per-node=5", "true")
    assert "node configuration is not available" in refused.value.stderr


def test_a_job_beyond_the_limit_of_its_partition_waits(slurm: SlurmCluster) -> None:
    job = slurm.ask("sbatch", "--parsable", "--partition=gpu", "--time=2:00:00", "--wrap=true")
    eventually(lambda: slurm.ask("squeue", "--noheader", "--format=%r", f"--jobs={job}") == "PartitionTimeLimit")
    slurm.clear()


def test_a_requeued_job_runs_again(slurm: SlurmCluster, tmp_path: Path) -> None:
    output = tmp_path / "out"
    script = "echo ${SLURM_RESTART_COUNT:-0}; [ ${SLURM_RESTART_COUNT:-0} = 1 ] || sleep 100"
    job = slurm.ask("sbatch", "--parsable", "--open-mode=append", f"--output={output}", f"--wrap={script}")
    eventually(lambda: output.exists() and output.read_text() == "0\n")
    slurm.run("scontrol", "requeue", job)
    eventually(lambda: state(slurm, job) == "COMPLETED", timeout=30)
    assert [line for line in output.read_text().splitlines() if line.isdigit()] == ["0", "1"]


def test_removal_leaves_no_process_and_no_file() -> None:
    with SlurmCluster(nodes=2) as cluster:
        home = cluster.home
        job = cluster.ask("sbatch", "--parsable", "--nodes=2", "--wrap=setsid sleep 1000 & srun sleep 1000")
        hosts = [host.pid for host in cluster.hosts.values()]
        eventually(lambda: cluster.ask("squeue", "--noheader", "--steps", "--format=%i").count(f"{job}.0") == 1)
        below_all = [pid for host in hosts for pid in below(host)]
        assert len(below_all) > 6
    assert not [pid for pid in (*hosts, *below_all) if alive(pid)]
    assert not home.exists()


def test_a_cluster_that_was_stopped_knows_its_jobs_when_it_starts_again() -> None:
    with SlurmCluster(nodes=1) as cluster:
        job = cluster.ask("sbatch", "--parsable", "--hold", "--wrap=true")
        cluster.stop()
        assert not cluster.runs("slurmctld")
        cluster.start()
        assert state(cluster, job) == "PENDING"


def test_a_cluster_that_cannot_start_says_why_and_leaves_nothing() -> None:
    cluster = SlurmCluster(nodes=1, extra=["NoSuchKey=1"])
    with pytest.raises(Unavailable, match="NoSuchKey"), cluster:
        pass
    with pytest.raises(Unavailable, match="never started"):
        _ = cluster.home


PROFILES = ["multi", pytest.param("netns", marks=pytest.mark.root)]


@pytest.mark.parametrize("profile", PROFILES)
def test_the_job_of_a_node_that_lost_its_power_is_requeued(profile: Profile) -> None:
    with SlurmCluster(nodes=2, profile=profile) as cluster:
        job = cluster.ask("sbatch", "--parsable", "--nodelist=n1", "--requeue", "--wrap=sleep 1000")
        eventually(lambda: state(cluster, job) == "RUNNING")
        cluster.power_off("n1")
        # instead of waiting for SlurmdTimeout
        cluster.run("scontrol", "update", "nodename=n1", "state=down", "reason=power")
        eventually(lambda: state(cluster, job) == "PENDING")
        cluster.power_on("n1")
        eventually(lambda: state(cluster, job) == "RUNNING", timeout=120)


def test_a_controller_that_was_killed_knows_its_jobs_again_and_one_without_its_disk_does_not() -> None:
    with SlurmCluster(nodes=1) as cluster:
        job = cluster.ask("sbatch", "--parsable", "--hold", "--wrap=true")
        # Slurm writes its state some seconds after it has answered
        saved = cluster.home / "state" / "job_state"
        eventually(lambda: saved.exists() and b"--hold" in saved.read_bytes())
        cluster.kill_slurmctld()
        assert not cluster.runs("slurmctld")
        cluster.start_slurmctld()
        cluster.wait_idle()
        assert state(cluster, job) == "PENDING"

        cluster.kill_slurmctld()
        cluster.lose_state()
        cluster.start_slurmctld()
        cluster.wait_idle()
        assert cluster.ask("squeue", "--noheader") == ""


OPENED = """
import pynvml
pynvml.nvmlInit()
print(*(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())))
"""


@pytest.mark.root
@pytest.mark.parametrize("profile", PROFILES)
def test_with_cgroups_a_job_is_held_to_what_it_asked_for(profile: Profile) -> None:
    cluster = SlurmCluster(nodes=1, profile=profile, cgroups=True, nvml=True)
    if not cgroups.available():
        with pytest.raises(Unavailable, match="cgroups"), cluster:
            pass
        return
    (node,) = cluster.nodes
    with cluster:
        cluster.run("sbatch", "--gpus=1", "--wrap=sleep 1000")
        seen = cluster.ask("srun", "--gpus=2", sys.executable, "-c", OPENED).split()
        assert seen == [cluster.gpu_uuid(node, 1), cluster.gpu_uuid(node, 2)]
        greedy = cluster.run("srun", "--mem=50", sys.executable, "-c", "bytearray(200 << 20)", check=False)
        assert "Out Of Memory" in greedy.stderr
    assert not list(cgroups.ROOT.glob(f"*/slurm_{node}"))


@pytest.mark.root
class TestHostsOfTheirOwn:
    """What takes namespaces: names, addresses and cables."""

    @pytest.fixture(scope="class")
    def apart(self) -> Iterator[SlurmCluster]:
        with SlurmCluster(nodes=3, profile="netns") as cluster:
            yield cluster

    def test_each_has_its_name(self, apart: SlurmCluster) -> None:
        assert sorted(apart.ask("srun", "--nodes=3", "hostname").splitlines()) == apart.nodes

    def test_a_node_reaches_a_service_of_this_machine(self, apart: SlurmCluster) -> None:
        with socket.create_server((apart.address, 0)) as server:
            connect = f"import socket; socket.create_connection(('{apart.address}', {server.getsockname()[1]}))"
            apart.run("srun", sys.executable, "-c", connect)
            server.settimeout(10)
            server.accept()[0].close()

    def test_a_cut_cable_lets_nothing_through_until_it_is_whole_again(self, apart: SlurmCluster) -> None:
        node = apart.plan.nodes[2]
        assert listens(node.address, node.port)
        apart.disconnect("n3")
        assert not listens(node.address, node.port)
        apart.connect("n3")
        eventually(lambda: listens(node.address, node.port))

    def test_a_stalled_slurmd_answers_again_once_it_goes_on(self, apart: SlurmCluster) -> None:
        apart.stall_slurmd("n2")
        with pytest.raises(subprocess.TimeoutExpired):
            apart.run("srun", "--nodelist=n2", "true", timeout=3)
        apart.resume_slurmd("n2")
        apart.clear()
        eventually(lambda: node_states(apart)["n2"] == "idle", timeout=60, interval=0.2)

    def test_removal_leaves_no_network(self) -> None:
        with SlurmCluster(nodes=1, profile="netns") as cluster:
            assert cluster.address in addresses()
            pids = [host.pid for host in cluster.hosts.values()]
            address = cluster.address
        assert not [pid for pid in pids if alive(pid)]
        assert address not in addresses()


class TestAccounting:
    """slurmdbd and what hangs on it."""

    def test_sacct_knows_how_a_job_ended(self, slurm_accounting: SlurmCluster) -> None:
        job = slurm_accounting.ask("sbatch", "--parsable", "--gpus=2", "--wrap=exit 3")
        asked = (
            "sacct",
            "-X",
            "--noheader",
            "--parsable2",
            "--format=state,exitcode,account,alloctres",
            f"--jobs={job}",
        )
        eventually(lambda: slurm_accounting.ask(*asked).startswith("FAILED"))
        assert slurm_accounting.ask(*asked).startswith("FAILED|3:0|lab|")
        assert "gres/gpu:h100=2" in slurm_accounting.ask(*asked)

    def test_high_preempts_normal(self, slurm_accounting: SlurmCluster) -> None:
        low = slurm_accounting.ask("sbatch", "--parsable", "--nodes=3", "--exclusive", "--wrap=sleep 1000")
        eventually(lambda: state(slurm_accounting, low) == "RUNNING")
        slurm_accounting.run("srun", "--qos=high", "--nodes=3", "true")
        assert state(slurm_accounting, low) == "PENDING"
        slurm_accounting.clear()

    def test_who_has_no_account_is_refused(self, slurm_accounting: SlurmCluster) -> None:
        with pytest.raises(subprocess.CalledProcessError) as refused:
            slurm_accounting.run("sbatch", "--account=other", "--wrap=true")
        assert "Invalid account" in refused.value.stderr
