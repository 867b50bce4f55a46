"""GPUs through NVIDIA's own module: on the stand-in for its library, and (marker `gpu`) on a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pynvml
import pytest
from structlog.testing import capture_logs

from pyfi_hpc.box import nvml
from pyfi_hpc.box.nvml import FakeGpu, FakeMig, FakeNode
from pyfi_hpc.errors import Unavailable
from pyfi_hpc.gpu.inventory import Device, Inventory, LeftOut, devices, look
from pyfi_hpc.gpu.nvml import session, text
from pyfi_hpc.gpu.sampling import Sample, sample
from tests.gpus import FakeDriver

LOST = 15
NO_DRIVER = 9
NEEDLESS = ("memory", "utilization", "temperature", "power", "minor", "affinity", "mig")


def uuids() -> list[str]:
    return [device.uuid for device in devices()]


def test_a_gpu_is_known_by_what_its_driver_says(driver: FakeDriver) -> None:
    driver.has(FakeGpu(uuid="GPU-a", name="NVIDIA A100-SXM4-40GB", minor=3, mem_mib=40_960, cores="0-2,64,130"))
    known = Device("GPU-a", 0, 3, "NVIDIA A100-SXM4-40GB", 40_960, None, None)
    cores = tuple(core for core in (0, 1, 2, 64, 130) if core < 64 * -(-os.sysconf("SC_NPROCESSORS_CONF") // 64))
    assert look() == Inventory((Device(**{**asdict(known), "cores": cores}),), (), "550.54.15")


def test_a_change_is_seen_at_the_next_look(driver: FakeDriver) -> None:
    driver.has(FakeGpu(uuid="GPU-a", utilization=37, mem_used_mib=100, temperature=41, power_mw=312_500))
    with session():
        assert sample(["GPU-a"]) == (Sample("GPU-a", 0.37, 100, 41, 312.5),)
        driver.has(FakeGpu(uuid="GPU-a", utilization=99, mem_used_mib=200, temperature=80, power_mw=700_000))
        assert sample(["GPU-a"]) == (Sample("GPU-a", 0.99, 200, 80, 700.0),)


def test_the_instances_of_a_divided_gpu_are_the_devices(driver: FakeDriver) -> None:
    parts = [FakeMig(uuid=f"MIG-{n}", mem_mib=9_984, mem_used_mib=n) for n in range(2)]
    driver.has(FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-b", mig=parts, cores="1"), FakeGpu(uuid="GPU-c"))
    found = [(one.uuid, one.index, one.parent, one.minor, one.cores) for one in devices()]
    assert found == [
        ("GPU-a", 0, None, 0, None),
        ("MIG-0", 1, "GPU-b", 1, (1,)),
        ("MIG-1", 2, "GPU-b", 1, (1,)),
        ("GPU-c", 3, None, 2, None),
    ]


def test_an_instance_tells_no_utilization(driver: FakeDriver) -> None:
    driver.has(FakeGpu(uuid="GPU-b", utilization=50, mig=[FakeMig(uuid="MIG-0", mem_used_mib=7)]))
    assert sample(["MIG-0", "GPU-b"]) == (Sample("MIG-0", None, 7), Sample("GPU-b", None, 0, 30, 70.0))


def test_a_gpu_that_is_to_be_divided_and_is_not_cannot_be_used(driver: FakeDriver) -> None:
    driver.has(FakeGpu(uuid="GPU-a", mig_enabled=True), FakeGpu(uuid="GPU-b"))
    assert uuids() == ["GPU-b"]


def test_a_lost_gpu_is_left_out_and_named_and_the_others_keep_their_places(driver: FakeDriver) -> None:
    driver.has(FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-b", error=LOST), FakeGpu(uuid="GPU-c"))
    found = look()
    assert [(one.uuid, one.index) for one in found.devices] == [("GPU-a", 0), ("GPU-c", 2)]
    assert found.left_out == (LeftOut(1, "GPU is lost"),)
    with capture_logs() as said:
        assert uuids() == ["GPU-a", "GPU-c"]
    assert [entry["reason"] for entry in said] == ["GPU is lost"]


def test_a_gpu_lost_between_two_samples_is_one_that_nothing_is_known_of(driver: FakeDriver) -> None:
    driver.has(FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-b", error=LOST))
    assert sample(["GPU-b", "GPU-a", "GPU-never"]) == (
        Sample("GPU-b"),
        Sample("GPU-a", 0.0, 0, 30, 70.0),
        Sample("GPU-never"),
    )


def test_what_a_driver_does_not_tell_is_none_and_no_error(driver: FakeDriver) -> None:
    driver.has(FakeGpu(uuid="GPU-a", unsupported=NEEDLESS))
    assert devices() == (Device("GPU-a", 0, None, "NVIDIA H100 80GB HBM3", 0),)
    assert sample(["GPU-a"]) == (Sample("GPU-a"),)


@pytest.mark.parametrize("counts_all", [False, True], ids=["hidden", "counted"])
def test_a_gpu_whose_file_is_not_there_is_not_ours(driver: FakeDriver, tmp_path: Path, counts_all: bool) -> None:
    (tmp_path / "nvidia1").touch()
    gpus = [FakeGpu(uuid=f"GPU-{n}", file=tmp_path / f"nvidia{n}") for n in range(2)]
    driver.node(FakeNode(gpus, counts_all=counts_all))
    assert [(one.uuid, one.index, one.minor) for one in devices()] == [("GPU-1", 0, 1)]
    assert look().left_out == ()


LOOK = """
import dataclasses, json
from pyfi_hpc.gpu.inventory import look
print(json.dumps(dataclasses.asdict(look())))
"""


def seen_by(environment: dict[str, str], *prefix: str) -> dict[str, object]:
    """What a process of its own sees of the GPUs."""
    command = [*prefix, sys.executable, "-c", LOOK]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def names(seen: dict[str, object]) -> list[str]:
    found = seen["devices"]
    assert isinstance(found, list)
    return [one["uuid"] for one in found]


def test_a_gpu_whose_file_may_not_be_opened_is_not_ours(driver: FakeDriver, tmp_path: Path) -> None:
    for number, mode in enumerate((0o000, 0o600)):
        (tmp_path / f"nvidia{number}").touch()
        (tmp_path / f"nvidia{number}").chmod(mode)
    driver.has(*(FakeGpu(uuid=f"GPU-{n}", file=tmp_path / f"nvidia{n}") for n in range(2)))
    # the superuser opens everything, unless it lets go of the capability for it
    without_override = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    assert names(seen_by(driver.environment, *without_override)) == ["GPU-1"]


def test_each_node_of_one_file_has_its_own_gpus(driver: FakeDriver) -> None:
    nodes = {"n1": FakeNode([FakeGpu(uuid="GPU-1")]), nvml.ANY_NODE: FakeNode([FakeGpu(uuid="GPU-any")])}
    nvml.write_state(Path(driver.environment[nvml.STATE]), nodes)
    seen = [names(seen_by({**driver.environment, "SLURMD_NODENAME": node})) for node in ("n1", "n2")]
    assert seen == [["GPU-1"], ["GPU-any"]]


def test_a_driver_that_does_not_start_is_a_machine_without_gpus(driver: FakeDriver) -> None:
    driver.has(FakeGpu(uuid="GPU-a"), init_error=NO_DRIVER)
    assert (look(), sample(["GPU-a"])) == (Inventory(), (Sample("GPU-a"),))


def test_no_library_is_a_machine_without_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", absent)
    assert (look(), devices(), sample(["GPU-a"])) == (Inventory(), (), (Sample("GPU-a"),))


def test_a_session_that_is_open_stays_so_when_an_inner_one_ends(driver: FakeDriver) -> None:
    driver.has(FakeGpu(uuid="GPU-a"))
    with session() as outer:
        assert uuids() == ["GPU-a"]
        assert outer.nvmlDeviceGetCount() == 1
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()


def test_old_versions_of_the_module_give_bytes() -> None:
    assert (text(b"GPU-a"), text("GPU-a")) == ("GPU-a", "GPU-a")


def test_the_stand_in_answers_the_rest_of_the_module_too(driver: FakeDriver) -> None:
    driver.has(FakeGpu(uuid="GPU-a", processes={7: 5, 8: 6}, mig=[FakeMig(uuid="MIG-0")]), FakeGpu(uuid="GPU-b"))
    with session() as module:
        gpu, part = module.nvmlDeviceGetHandleByIndex(0), module.nvmlDeviceGetHandleByUUID("MIG-0")
        used = [(one.pid, one.usedGpuMemory >> 20) for one in module.nvmlDeviceGetComputeRunningProcesses(gpu)]
        assert used == [(7, 5), (8, 6)]
        assert module.nvmlDeviceGetMemoryInfo(gpu, module.nvmlMemory_v2).total == 81_559 << 20
        assert module.nvmlDeviceGetPciInfo(gpu).busId == "00000000:01:00.0"
        assert module.nvmlDeviceGetUUID(module.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)) == "GPU-a"
        assert module.nvmlDeviceIsMigDeviceHandle(part).value == 1
        with pytest.raises(pynvml.NVMLError_FunctionNotFound):
            module.nvmlDeviceGetFanSpeed(gpu)
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            module.nvmlDeviceGetHandleByIndex(2)


def test_without_a_compiler_building_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=r"gcc is not installed"):
        nvml.build(tmp_path / "lib")


# a real one: pytest -m gpu


@pytest.mark.gpu
def test_a_real_gpu_is_listed_with_what_makes_it_itself() -> None:
    found = look()
    assert found.driver
    assert found.left_out == ()
    for device in found.devices:
        assert device.uuid.startswith(("GPU-", "MIG-"))
        assert device.model.startswith("NVIDIA")
        assert device.minor is not None
        assert device.cores is None or set(device.cores) <= set(range(os.sysconf("SC_NPROCESSORS_CONF")))
    assert len({device.uuid for device in found.devices}) == len(found.devices) > 0


@pytest.mark.gpu
def test_a_real_gpu_is_sampled_within_its_bounds() -> None:
    found = devices()
    for device, seen in zip(found, sample(device.uuid for device in found), strict=True):
        assert seen.uuid == device.uuid
        assert seen.mem_used_mib is not None
        assert 0 <= seen.mem_used_mib <= device.mem_mib or device.mem_mib == 0
        if device.parent is None:
            assert seen.utilization is not None
            assert 0 <= seen.utilization <= 1
        assert seen.temperature_celsius is None or 0 < seen.temperature_celsius < 120
        assert seen.power_watts is None or 0 < seen.power_watts < 2000
