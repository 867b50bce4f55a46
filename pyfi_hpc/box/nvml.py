"""A stand-in for NVIDIA's management library, so that its real Python module runs on machines without a GPU.

The library (`nvml.c`) answers from a text file that `write_state` writes; a change is seen at the next call.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from pyfi_hpc.errors import Unavailable

#: The variable that names the state file.
STATE = "PYFI_FAKE_NVML"
#: The name of every node that has no section of its own.
ANY_NODE = "*"
LIBRARY = "libnvidia-ml.so.1"
_SOURCE = Path(__file__).with_suffix(".c")


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeMig:
    """A MIG instance. `file`: as a GPU's. `error`: an NVML error number that answers every question about it."""

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
    mem_mib: int = 9_984
    mem_used_mib: int = 12
    file: Path | None = None
    error: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeGpu:
    """A GPU, with what NVML would say of it.

    Attributes:
        file: it is listed only while this opens; ENXIO, as from a device node without a driver, counts as open,
            EPERM (a device cgroup), EACCES and ENOENT do not. None: always listed.
        minor: N of /dev/nvidiaN. None: its place among the node's GPUs.
        utilization: percent.
        cores: of its NUMA node, such as `0-3,8`; "": NVML does not tell.
        error: an NVML error number that answers every question about it, such as 15, GPU_IS_LOST; 0: none.
        unsupported: questions that are answered by NOT_SUPPORTED: memory, utilization, temperature, power,
            serial, minor, affinity, mig, pci, processes.
        processes: pid and MiB.
        mig: its instances; where there are any, MIG is enabled.
        mig_enabled: also without instances.
    """

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    file: Path | None = None
    minor: int | None = None
    mem_mib: int = 81_559
    mem_used_mib: int = 0
    utilization: int = 0
    temperature: int = 30
    power_mw: int = 70_000
    cores: str = ""
    serial: str = "1320000000000"
    error: int = 0
    unsupported: Sequence[str] = ()
    processes: Mapping[int, int] | None = None
    mig: Sequence[FakeMig] = ()
    mig_enabled: bool = False


@dataclass(frozen=True, slots=True)
class FakeNode:
    """A node with these GPUs.

    `init_error`: what nvmlInit answers (9: no driver). `counts_all`: also those whose file does not open are counted,
    and asking for them is NO_PERMISSION, as NVML's manual has it; else they are not listed, as in a container.
    """

    gpus: Sequence[FakeGpu] = ()
    driver: str = "550.54.15"
    init_error: int = 0
    counts_all: bool = False


def build(folder: Path) -> dict[str, str]:
    """Compile the library into `folder`; the variables that make a process use it, and read `folder`/nvml.state.

    Raises:
        Unavailable: E_MISSING, no C compiler; E_INTERNAL, it does not compile.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / LIBRARY
    command = ["gcc", "-shared", "-fPIC", "-O1", f"-Wl,-soname,{LIBRARY}", "-o", str(target), str(_SOURCE), "-lpthread"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        what = "the stand-in for NVIDIA's library needs a C compiler, and gcc is not installed"
        raise Unavailable("E_MISSING", what, cure="apt-get install gcc libc6-dev") from error
    if done.returncode:
        what = f"the stand-in for NVIDIA's library does not compile: {done.stderr.strip()[-300:]}"
        raise Unavailable("E_INTERNAL", what, at=str(_SOURCE), cure="apt-get install gcc libc6-dev")
    return environment(folder)


def environment(folder: Path) -> dict[str, str]:
    """The variables for a library that `build` made in `folder`."""
    found = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": f"{folder}:{found}" if found else str(folder), STATE: str(folder / "nvml.state")}


def write_state(path: Path, nodes: Mapping[str, FakeNode]) -> None:
    """From now on these nodes have these GPUs; whoever reads sees the old state or the new one, never half of it."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.write_text("\n".join(line for name, node in nodes.items() for line in _node(name, node)) + "\n")
    draft.replace(path)


def _node(name: str, node: FakeNode) -> Iterator[str]:
    yield f"[node {name}]"
    yield from (f"driver = {node.driver}", f"init_error = {node.init_error}", f"counts_all = {int(node.counts_all)}")
    for place, gpu in enumerate(node.gpus):
        yield "[gpu]"
        yield from _values(gpu, ("minor", "processes", "mig", "mig_enabled", "unsupported"))
        yield f"minor = {place if gpu.minor is None else gpu.minor}"
        yield f"mig = {int(gpu.mig_enabled)}"
        yield f"unsupported = {' '.join(gpu.unsupported)}"
        yield f"processes = {','.join(f'{pid}:{mib}' for pid, mib in (gpu.processes or {}).items())}"
        for instance in gpu.mig:
            yield "[mig]"
            yield from _values(instance, ())


def _values(record: FakeGpu | FakeMig, but: Sequence[str]) -> Iterator[str]:
    for field in fields(record):
        value = getattr(record, field.name)
        if field.name not in but and value is not None:
            yield f"{field.name} = {value}"
