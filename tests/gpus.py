"""NVIDIA's own Python module, in this process, on the stand-in for its library."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pynvml
import pytest

from pyfi_hpc.box import nvml
from pyfi_hpc.box.nvml import FakeGpu, FakeNode


@dataclass(frozen=True)
class FakeDriver:
    """A machine whose GPUs are what the last `has` said; `environment` lets another process see the same."""

    environment: dict[str, str]

    def has(self, *gpus: FakeGpu, **rest: bool | int) -> None:
        """From now on the machine has these GPUs; `rest` are fields of `FakeNode`."""
        self.node(FakeNode(gpus, **rest))  # type: ignore[arg-type]

    def node(self, node: FakeNode) -> None:
        """From now on the machine, whatever its name, is this one."""
        nvml.write_state(Path(self.environment[nvml.STATE]), {nvml.ANY_NODE: node})


@pytest.fixture(scope="session")
def built_nvml(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The library, built once, as the variables that make a process use it."""
    return nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(built_nvml: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    """A machine without GPUs, until the test gives it some."""
    folder = Path(built_nvml[nvml.STATE]).parent
    monkeypatch.setenv(nvml.STATE, built_nvml[nvml.STATE])
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(folder / nvml.LIBRARY)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    fake = FakeDriver(built_nvml)
    fake.has()
    yield fake
    Path(built_nvml[nvml.STATE]).unlink()
