"""What a job was granted, read from what Slurm says: environments and answers recorded on a real Slurm 22.05."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import replace

import pytest

from pyfi_hpc.agent.grant import TASKS_PER_NODE, Grant, granted, on_node, own_devices
from pyfi_hpc.errors import Fault
from pyfi_hpc.gpu.inventory import Device, Inventory, LeftOut
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.slurm.detail import Detail, in_hostlist, numbers, parsed

NOTHING, ANY = Detail(), ResourceRequest()

#: The step on n2 of `sbatch -N2 -n8`, which had room for 7 tasks on n1.
LONE_TASK = {
    "SLURM_JOB_ID": "1",
    "SLURMD_NODENAME": "n2",
    "SLURM_CPUS_ON_NODE": "1",
    "SLURM_JOB_CPUS_PER_NODE": "7,1",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_MEM_PER_CPU": "100",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_TASKS_PER_NODE": "1(x2)",
    TASKS_PER_NODE: "7,1",
}

#: The step on n2 of `sbatch -N2 -n2 --gpus-per-node=2`, in a device cgroup, while another job had n2's first GPU.
CONSTRAINED = {
    "CUDA_VISIBLE_DEVICES": "0,1",
    "SLURM_JOB_ID": "4",
    "SLURMD_NODENAME": "n2",
    "SLURM_CPUS_ON_NODE": "1",
    "SLURM_GPUS_ON_NODE": "2",
    "SLURM_JOB_GPUS": "0,1",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_MEM_PER_CPU": "100",
    "SLURM_NODEID": "1",
    "SLURM_STEP_GPUS": "1,2",
    TASKS_PER_NODE: "1(x2)",
}
#: The same without a device cgroup.
OPEN = {**CONSTRAINED, "CUDA_VISIBLE_DEVICES": "1,2"}

SAID = (
    "JobId=4 JobName=pilot Comment=pyfi:0 Restarts=0 RunTime=00:00:01 TimeLimit=00:10:00 "
    "StartTime=2026-11-28T12:47:46 EndTime=2026-11-28T12:57:46 Deadline=N/A NumNodes=2 NumCPUs=2 "
    "JOB_GRES=gpu:h100:4   Nodes=n1 CPU_IDs=7 Mem=100 GRES=gpu:h100:2(IDX:0-1)   "
    "Nodes=n[2-3] CPU_IDs=6,8-9 Mem=150 GRES=gpu:a100:1(IDX:0),gpu:1g.10gb:2(IDX:2,4),shard:a100:2(1/8,1/8) "
    "MinCPUsNode=1 TresPerNode=gres:gpu:2 "
)


def gpus(*indexes: int) -> Inventory:
    return Inventory(tuple(Device(f"GPU-{index}", index, index, "H100", 81_559) for index in indexes), driver="550")


def grant_of(environment: Mapping[str, str], detail: Detail = NOTHING, asked: ResourceRequest = ANY) -> Grant:
    return granted(environment, asked, detail)


def test_the_tasks_of_a_node_are_the_jobs_own_and_not_the_steps() -> None:
    assert (grant_of(LONE_TASK).tasks, grant_of({**LONE_TASK, "SLURM_NODEID": "0"}).tasks) == (1, 7)


@pytest.mark.parametrize(
    ("cpus", "asked", "tasks"),
    [
        ("8", ResourceRequest(ntasks=8, cpus_per_task=2), 4),
        ("8", ResourceRequest(ntasks=2, cpus_per_task=1), 2),
        ("8", ANY, 1),
        ("1", ResourceRequest(ntasks=4, cpus_per_task=2), 1),
    ],
)
def test_without_the_jobs_own_word_tasks_are_what_fits_and_was_asked_for(
    cpus: str, asked: ResourceRequest, tasks: int
) -> None:
    step = {name: value for name, value in LONE_TASK.items() if name != TASKS_PER_NODE}
    assert grant_of({**step, "SLURM_CPUS_ON_NODE": cpus}, asked=asked).tasks == tasks


@pytest.mark.parametrize(
    ("variables", "mem_mib"),
    [
        ({"SLURM_MEM_PER_NODE": "1024", "SLURM_CPUS_ON_NODE": "4"}, 1024),
        ({"SLURM_MEM_PER_CPU": "100", "SLURM_CPUS_ON_NODE": "4"}, 400),
        ({"SLURM_MEM_PER_GPU": "700", "SLURM_GPUS_ON_NODE": "2"}, 1400),
        ({}, None),
    ],
)
def test_memory_is_the_nodes_share_however_it_was_asked_for(variables: dict[str, str], mem_mib: int | None) -> None:
    assert grant_of({"SLURM_JOB_ID": "1", **variables}).mem_mib == mem_mib


def test_what_the_controller_says_counts_for_more() -> None:
    grant = grant_of({**LONE_TASK, "SLURM_JOB_END_TIME": "1", "SLURM_MEM_PER_CPU": "7"}, parsed(SAID, "n1"))
    end = datetime.datetime(2026, 11, 28, 12, 57, 46, tzinfo=datetime.UTC)
    assert (grant.mem_mib, grant.cpu_ids, grant.ends_at) == (100, (7,), end)


def test_without_it_the_environment_may_tell_the_end() -> None:
    grant = grant_of({**LONE_TASK, "SLURM_JOB_END_TIME": "1795870666", "SLURM_RESTART_COUNT": "2"})
    end = datetime.datetime(2026, 11, 28, 12, 57, 46, tzinfo=datetime.UTC)
    assert (grant.ends_at, grant.restarts, grant.job, grant.node) == (end, 2, "1", "n2")


@pytest.mark.parametrize(
    "broken", [{"SLURM_CPUS_ON_NODE": "8(x2)"}, {TASKS_PER_NODE: "4(x"}, {TASKS_PER_NODE: "4"}, {TASKS_PER_NODE: "a,1"}]
)
def test_a_form_never_seen_is_told_and_not_guessed_at(broken: Mapping[str, str]) -> None:
    (value,) = broken.values()
    with pytest.raises(Fault, match=r"Slurm") as told:
        grant_of({**LONE_TASK, **broken})
    assert value in told.value.what


@pytest.mark.parametrize(("place", "tasks"), [(0, 2), (2, 2), (3, 1), (4, 12)])
def test_a_compressed_list_is_read_at_the_nodes_place(place: int, tasks: int) -> None:
    assert on_node("2(x3),1,12", place) == tasks


# the controller's answer


def test_the_controllers_answer_is_read_for_the_node() -> None:
    said = parsed(SAID, "n3")
    assert (said.cpu_ids, said.gpu_indexes, said.mem_mib) == ((6, 8, 9), (0, 2, 4), 150)


@pytest.mark.parametrize("end", ["Unknown", "N/A"])
def test_no_time_limit_has_no_end(end: str) -> None:
    said = parsed(SAID.replace("2026-11-28T12:57:46", end), "n1")
    assert (said.ends_at, said.cpu_ids) == (None, (7,))


def test_a_job_without_gpus_has_no_places_of_them() -> None:
    for gres in ("", "vgpu:2(IDX:0-1)"):
        said = parsed(SAID.replace("gpu:h100:2(IDX:0-1)", gres), "n1")
        assert (said.gpu_indexes, said.mem_mib) == (None, 100)


def test_memory_that_slurm_does_not_count_is_not_limited() -> None:
    assert parsed(SAID.replace("Mem=100", "Mem=0"), "n1").mem_mib is None


def test_an_answer_about_other_nodes_leaves_the_share_open() -> None:
    said = parsed(SAID, "n9")
    assert (said.cpu_ids, said.gpu_indexes, said.mem_mib, said.ends_at is None) == ((), None, None, False)


def test_numbers_are_read_in_their_order() -> None:
    assert (numbers("3,0-1,8"), numbers("")) == ((3, 0, 1, 8), ())


@pytest.mark.parametrize("node", ["n1", "n03", "n10", "x", "r1s07", "r2s10"])
def test_a_node_is_found_in_a_compressed_list(node: str) -> None:
    assert in_hostlist(node, "n[1,03-10],x,r[1-2]s[07-10]")


@pytest.mark.parametrize("node", ["n2", "n3", "n003", "n11", "n", "r3s07", "r1s7", "xx", "n[1,03-10]"])
def test_another_node_is_not(node: str) -> None:
    assert not in_hostlist(node, "n[1,03-10],x,r[1-2]s[07-10]")


# which GPUs


def test_in_a_device_cgroup_all_that_open_are_ours_whatever_their_numbers() -> None:
    assert own_devices(grant_of(CONSTRAINED), gpus(0, 1)) == ("GPU-0", "GPU-1")


def test_without_one_they_are_those_at_the_places_granted_on_this_node() -> None:
    assert own_devices(grant_of(OPEN), gpus(0, 1, 2, 3)) == ("GPU-1", "GPU-2")


def test_the_batch_nodes_places_are_not_taken_for_this_nodes() -> None:
    inherited = {name: value for name, value in OPEN.items() if name != "SLURM_STEP_GPUS"}
    assert own_devices(grant_of(inherited), gpus(0, 1, 2, 3)) == ()
    assert own_devices(grant_of(inherited, Detail(gpu_indexes=(2, 3))), gpus(0, 1, 2, 3)) == ("GPU-2", "GPU-3")
    alone = {**inherited, "SLURM_JOB_NUM_NODES": "1"}
    assert own_devices(grant_of(alone), gpus(0, 1, 2, 3)) == ("GPU-0", "GPU-1")


def test_a_lost_gpu_of_ours_is_not_replaced_by_one_of_another_job() -> None:
    seen = replace(gpus(0, 2), left_out=(LeftOut(1, "GPU is lost"),))
    assert own_devices(grant_of(OPEN), seen) == ("GPU-2",)


def test_uuids_from_slurm_are_taken_at_their_word() -> None:
    named = {**OPEN, "CUDA_VISIBLE_DEVICES": "GPU-3,GPU-0"}
    assert own_devices(grant_of(named), gpus(0, 1, 2, 3)) == ("GPU-0", "GPU-3")


def test_without_nvml_gpus_are_known_by_number() -> None:
    assert own_devices(grant_of(OPEN), Inventory()) == ("index:1", "index:2")
    unset = {name: value for name, value in OPEN.items() if name != "CUDA_VISIBLE_DEVICES"}
    assert own_devices(grant_of(unset), Inventory()) == ("index:1", "index:2")
    bare = {name: value for name, value in unset.items() if name != "SLURM_STEP_GPUS"}
    assert own_devices(grant_of(bare), Inventory()) == ("index:0", "index:1")


def test_a_job_that_asked_for_none_has_none_of_the_gpus_that_open() -> None:
    assert own_devices(grant_of(LONE_TASK), gpus(0, 1)) == ()
    # a variable of the person's own shell, which came with the job
    assert own_devices(grant_of({**LONE_TASK, "CUDA_VISIBLE_DEVICES": "0"}), Inventory()) == ()
