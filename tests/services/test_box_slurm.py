"""The Slurm in a box is a Slurm: jobs, GPUs, requeue, lost nodes; and nothing of it stays."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pyfi_hpc.box.slurm import SlurmCluster
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


def test_a_cluster_that_cannot_start_says_why_and_leaves_nothing() -> None:
    cluster = SlurmCluster(nodes=1, extra=["NoSuchKey=1"])
    with pytest.raises(Unavailable, match="NoSuchKey"), cluster:
        pass
    with pytest.raises(Unavailable, match="never started"):
        _ = cluster.home


def test_the_job_of_a_node_that_lost_its_power_is_requeued() -> None:
    with SlurmCluster(nodes=2) as cluster:
        job = cluster.ask("sbatch", "--parsable", "--nodelist=n1", "--requeue", "--wrap=sleep 1000")
        eventually(lambda: state(cluster, job) == "RUNNING")
        cluster.power_off("n1")
        eventually(lambda: node_states(cluster)["n1"].startswith("down"), timeout=40)
        assert state(cluster, job) == "PENDING"
        cluster.power_on("n1")
        eventually(lambda: state(cluster, job) == "RUNNING", timeout=30)


def test_a_controller_that_was_killed_knows_its_jobs_again_and_one_without_its_disk_does_not() -> None:
    with SlurmCluster(nodes=1) as cluster:
        job = cluster.ask("sbatch", "--parsable", "--hold", "--wrap=true")
        # Slurm writes its state some seconds after it has answered
        eventually(lambda: b"sbatch" in (cluster.home / "state" / "job_state").read_bytes())
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
