"""A grant cut into slots: nothing is handed out twice unless it is said, and every slot has what was asked for."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfi_hpc.agent.grant import Grant
from pyfi_hpc.agent.slots import Layout, described, divided, layout
from pyfi_hpc.gpu.inventory import Device, Inventory
from pyfi_hpc.gpu.visible import worker_environment
from pyfi_hpc.model.request import Per

NO_NVML = Inventory()


def grant_of(cpus: int, *, tasks: int = 1, width: int = 1, gpus: int = 0, cpu_ids: tuple[int, ...] = ()) -> Grant:
    return Grant("1", "n1", 0, cpus, tasks, width, gpus, cpu_ids, mem_mib=1000)


def cores_of(found: Layout) -> list[tuple[int, ...]]:
    return [slot.cores for slot in found.slots]


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    """Up to eight GPUs, some of them divided into instances, some of a known NUMA node."""
    devices: list[Device] = []
    for gpu in range(draw(st.integers(0, 8))):
        cores = draw(st.none() | st.frozensets(st.integers(0, 15), min_size=1).map(lambda some: tuple(sorted(some))))
        instances = draw(st.integers(0, 3))
        names = [f"MIG-{gpu}-{n}" for n in range(instances)] or [f"GPU-{gpu}"]
        parent = f"GPU-{gpu}" if instances else None
        devices += [Device(name, len(devices) + n, gpu, "H100", 1, parent, cores) for n, name in enumerate(names)]
    return Inventory(tuple(devices), driver="550")


@st.composite
def grants(draw: st.DrawFn) -> Grant:
    """Any that Slurm gives: at least a core for each CPU of each task."""
    tasks, width = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    cpus = tasks * width + draw(st.integers(0, 3))
    gpus = draw(st.integers(0, 12))
    ids = draw(st.just(()) | st.permutations(range(cpus + 4)).map(lambda some: tuple(sorted(some[:cpus]))))
    indexes = draw(st.none() | st.permutations(range(16)).map(lambda some: tuple(some[:gpus])))
    return Grant("1", "n1", 0, cpus, tasks, width, gpus, ids, indexes, mem_mib=draw(st.none() | st.integers(1, 9999)))


MASKS = st.frozensets(st.integers(0, 31), min_size=1, max_size=32)


@given(grants(), st.sampled_from(Per), MASKS, st.booleans(), inventories())
def test_nothing_is_handed_out_twice_unless_it_is_said(
    grant: Grant, per: Per, mask: frozenset[int], unbound: bool, inventory: Inventory
) -> None:
    found = layout(grant, per, mask, len(mask) if unbound else 32, inventory)
    cores = [core for slot in found.slots for core in slot.cores]
    devices = [name for slot in found.slots for name in slot.devices]
    assert set(cores) <= mask
    assert found.shared or len(set(cores)) == len(cores) <= grant.cpus
    assert len(set(devices)) == len(devices) <= grant.gpus
    assert set(devices).isdisjoint(found.unused)
    assert set(devices) | set(found.unused) <= {one.uuid for one in inventory.devices}
    if grant.mem_mib is not None:
        assert sum(slot.mem_mib or 0 for slot in found.slots) <= grant.mem_mib


@given(grants(), st.sampled_from(Per), MASKS, inventories())
def test_every_slot_has_what_the_request_says(
    grant: Grant, per: Per, mask: frozenset[int], inventory: Inventory
) -> None:
    found = layout(grant, per, mask, 32, inventory)
    assert all(slot.cores for slot in found.slots)
    match per:
        case Per.TASK:
            assert len(found.slots) == grant.tasks
            assert found.shared or all(len(slot.cores) == grant.cpus_per_task for slot in found.slots)
        case Per.CORE:
            assert len(found.slots) == grant.cpus
            assert all(len(slot.cores) == 1 for slot in found.slots)
        case Per.GPU:
            assert all(len(slot.devices) == 1 for slot in found.slots)
            assert found.unused == ()
        case Per.MIG:
            instances = {one.uuid for one in inventory.devices if one.parent}
            assert all(len(slot.devices) == 1 and {*slot.devices} <= instances for slot in found.slots)
            assert instances.isdisjoint(found.unused)
    assert len({len(slot.devices) for slot in found.slots}) <= 1


@given(grants(), inventories())
def test_slots_of_gpus_have_all_cores_in_parts_of_like_size(grant: Grant, inventory: Inventory) -> None:
    found = layout(grant, Per.GPU, range(32), 64, inventory)
    if found.slots and len(found.slots) <= grant.cpus:
        sizes = [len(slot.cores) for slot in found.slots]
        assert (sum(sizes), max(sizes) - min(sizes) <= 1, found.shared) == (grant.cpus, True, False)


@given(MASKS, st.integers(1, 40))
def test_a_mask_smaller_than_the_grant_is_gone_round_evenly(mask: frozenset[int], cpus: int) -> None:
    found = layout(grant_of(cpus), Per.CORE, mask, 64, NO_NVML)
    counts = Counter(core for slot in found.slots for core in slot.cores)
    assert max(counts.values()) - min(counts.values()) <= 1 or len(counts) < len(mask)
    assert found.shared == (cpus > len(mask))


def test_tasks_have_cores_of_their_own() -> None:
    found = layout(grant_of(6, tasks=3, width=2), Per.TASK, {0, 1, 2, 3, 8, 9}, 16, NO_NVML)
    assert (cores_of(found), found.shared) == ([(0, 1), (2, 3), (8, 9)], False)
    assert [slot.mem_mib for slot in found.slots] == [333, 333, 333]


def test_eight_cpus_on_two_real_cores_are_shared_and_shown_as_shared() -> None:
    grant = grant_of(8, tasks=4, width=2, cpu_ids=tuple(range(8)))
    found = layout(grant, Per.TASK, {0, 1}, 2, NO_NVML)
    assert (cores_of(found), found.shared) == ([(0, 1)] * 4, True)
    assert described(found, Per.TASK) == "4 slots, one per task, 2 cores each, cores shared"


def test_two_jobs_that_are_not_bound_have_no_core_in_common() -> None:
    first, second = (layout(grant_of(2, cpu_ids=ids), Per.CORE, range(8), 8, NO_NVML) for ids in ((0, 3), (1, 2)))
    assert (cores_of(first), cores_of(second)) == ([(0,), (3,)], [(1,), (2,)])
    assert not first.shared and not second.shared


def test_two_jobs_on_more_cpus_than_there_are_say_that_they_share() -> None:
    found = layout(grant_of(2, cpu_ids=(6, 7)), Per.CORE, {0, 1}, 2, NO_NVML)
    assert (cores_of(found), found.shared) == ([(0,), (1,)], True)


def test_a_bound_job_has_its_mask_whatever_slurm_calls_it() -> None:
    found = layout(grant_of(2, cpu_ids=(6, 7)), Per.CORE, {12, 14}, 64, NO_NVML)
    assert (cores_of(found), found.shared) == ([(12,), (14,)], False)


def test_a_gpu_comes_with_the_cores_of_its_numa_node() -> None:
    near = [(4, 5, 6, 7), (0, 1, 2, 3), None]
    devices = tuple(Device(f"GPU-{n}", n, n, "H100", 1, None, cores) for n, cores in enumerate(near))
    found = layout(grant_of(6, gpus=3), Per.GPU, range(2, 8), 64, Inventory(devices, driver="550"))
    assert cores_of(found) == [(4, 5), (2, 3), (6, 7)]
    assert [slot.devices for slot in found.slots] == [("GPU-0",), ("GPU-1",), ("GPU-2",)]


def test_fewer_cores_than_gpus_are_shared() -> None:
    assert divided([3], [(), ()]) == [[3], [3]]
    found = layout(grant_of(1, gpus=2), Per.GPU, {3}, 64, NO_NVML)
    assert (cores_of(found), found.shared) == ([(3,), (3,)], True)
    assert [slot.devices for slot in found.slots] == [("index:0",), ("index:1",)]


def test_tasks_share_gpus_out_evenly_and_never_use_one_together() -> None:
    devices = tuple(Device(f"GPU-{n}", n, n, "H100", 1) for n in range(5))
    found = layout(grant_of(2, tasks=2, gpus=5), Per.TASK, {0, 1}, 64, Inventory(devices, driver="550"))
    assert [slot.devices for slot in found.slots] == [("GPU-0", "GPU-1"), ("GPU-2", "GPU-3")]
    assert found.unused == ("GPU-4",)
    assert described(found, Per.TASK) == "2 slots, one per task, 1 core each, 1 GPU not used"
    few = layout(grant_of(2, tasks=2, gpus=1), Per.TASK, {0, 1}, 64, Inventory(devices[:1], driver="550"))
    assert ([slot.devices for slot in few.slots], few.unused) == ([(), ()], ("GPU-0",))


@pytest.mark.parametrize("per", [Per.GPU, Per.MIG])
def test_a_node_without_what_was_asked_for_has_no_slots(per: Per) -> None:
    found = layout(grant_of(4), per, range(4), 64, NO_NVML)
    assert (found.slots, described(found, per).startswith("no slots")) == ((), True)


# what a worker sees


def test_a_worker_sees_its_own_gpus_by_identity() -> None:
    assert worker_environment(["GPU-b", "MIG-a"])["CUDA_VISIBLE_DEVICES"] == "GPU-b,MIG-a"
    assert worker_environment(["index:2"]) == {"CUDA_VISIBLE_DEVICES": "2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_a_worker_without_gpus_sees_none() -> None:
    assert worker_environment([])["CUDA_VISIBLE_DEVICES"] == ""
