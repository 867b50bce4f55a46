"""Device files that stand in for GPUs, for Slurm and for NVML alike."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyfi_hpc.box.nvml import FakeGpu, FakeNode

#: Major number of devices that nobody has: opening one fails with ENXIO, or EPERM where the job does not own it.
#: Source: Documentation/admin-guide/devices.txt of Linux, "LOCAL/EXPERIMENTAL USE".
NO_DEVICE_MAJOR = 240
#: The first of the consoles that stand in for GPUs where we may not make device files.
FIRST_TTY = 10


def device_files(folder: Path, count: int) -> list[Path]:
    """`count` character devices that stand in for GPUs: made in `folder` as root, else consoles that are there."""
    if os.geteuid():
        return [Path(f"/dev/tty{FIRST_TTY + index}") for index in range(count)]
    made = [folder / f"nvidia{index}" for index in range(count)]
    for index, file in enumerate(made):
        os.mknod(file, 0o666 | stat.S_IFCHR, os.makedev(NO_DEVICE_MAJOR, index))
        file.chmod(0o666)
    return made


def _opens(file: Path) -> bool:
    """Whether a job that owns the device gets as far as to its driver, which nobody has.

    A console that is not ours does not, nor any device on a file system that is mounted with `nodev`.
    """
    try:
        os.close(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError as error:
        return error.errno == errno.ENXIO
    return True


def seen_by_nvml(uuids: Mapping[str, Sequence[str]], files: Sequence[Path]) -> dict[str, FakeNode]:
    """Node → its GPUs by UUID, each listed where its file opens; always, where such a file opens for nobody."""
    opened = [file if _opens(file) else None for file in files]
    return {
        node: FakeNode([FakeGpu(uuid=name, file=file) for name, file in zip(names, opened, strict=True)])
        for node, names in uuids.items()
    }
