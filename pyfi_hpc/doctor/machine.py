"""This machine: folders, disks, programs, GPUs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pyfi_hpc.config import Settings
from pyfi_hpc.doctor.findings import Finding, Mark, looked
from pyfi_hpc.wire import meter

#: Free bytes below which a disk is worth a look, and below which work stops.
LITTLE_BYTES, TOO_LITTLE_BYTES = 2**30, 64 * 2**20

#: The share of a quota from which on it is worth a look.
_MUCH = 0.9
#: Kinds of file system that other nodes see as well. Source: statfs(2) and proc(5), mounts.
SHARED = frozenset(
    {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "9p", "afs", "pvfs2", "glusterfs"}
)


def look(settings: Settings, nodes: int) -> Iterator[Finding]:
    """Everything here; `nodes` is how many nodes serve the network."""
    yield from _folder("state", settings.state_dir, "PYFI_PATHS_STATE")
    yield from _folder("cache", settings.cache_dir, "PYFI_PATHS_CACHE")
    yield from _folder("blobs", settings.blob_dir, "PYFI_PATHS_BLOBS")
    if nodes > 1:
        yield _shared(settings.blob_dir, nodes)
    if settings.blob_quota_bytes:
        yield _quota(settings.blob_dir, settings.blob_quota_bytes)
    yield from _disks({settings.state_dir, settings.cache_dir, settings.blob_dir})
    yield from looked("git", partial(_program, "git", shutil.which("git"), "apt-get install git"))
    yield from looked("uv", partial(_program, "uv", _uv(), "pip install uv"))
    yield _gpus()


def _folder(name: str, folder: Path, variable: str) -> Iterator[Finding]:
    at = nearest(folder)
    seen = f"{folder} can be written" if at == folder else f"{folder} can be made"
    try:
        with tempfile.TemporaryFile(dir=at):
            yield Finding(Mark.GOOD, name, seen)
    except OSError as error:
        why = f"{folder} cannot be written: {(error.strerror or str(error)).lower()}"
        yield Finding(Mark.BAD, name, why, f"name another folder: {variable}=/FOLDER")


def nearest(folder: Path) -> Path:
    """`folder`, or the folder above it that is there."""
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def _shared(folder: Path, nodes: int) -> Finding:
    kind = kind_of_disk(nearest(folder).resolve(), Path("/proc/self/mounts").read_text())
    if kind in SHARED or kind.startswith("fuse."):
        return Finding(Mark.GOOD, "shared blobs", f"{folder} is on {kind}")
    seen = f"{nodes} nodes serve, but {folder} is on {kind}, which looks like this machine's own"
    cure = "name a folder that all nodes share: pyfi config set paths.blobs /FOLDER"
    return Finding(Mark.DOUBTFUL, "shared blobs", seen, cure)


def _quota(folder: Path, quota_bytes: int) -> Finding:
    used = meter.used_bytes(folder)
    used = meter.walked(folder) if used is None else used
    mark = Mark.BAD if used >= quota_bytes else Mark.DOUBTFUL if used > _MUCH * quota_bytes else Mark.GOOD
    seen = f"large values take {used / 2**30:.2f} of {quota_bytes / 2**30:.2f} GiB in {folder}"
    return Finding(mark, "blob quota", seen, None if mark is Mark.GOOD else meter.CURE)


def kind_of_disk(folder: Path, mounts: str) -> str:
    """The kind of file system that `folder` is on, by the lines of `/proc/self/mounts`."""
    kinds = {
        Path(os.fsdecode(words[1].encode().decode("unicode_escape").encode("latin-1"))): words[2]
        for words in (line.split() for line in mounts.splitlines())
    }
    return next((kinds[each] for each in (folder, *folder.parents) if each in kinds), "unknown")


def _disks(folders: set[Path]) -> Iterator[Finding]:
    disks = {nearest(folder).stat().st_dev: nearest(folder) for folder in sorted(folders)}
    for at in disks.values():
        free = shutil.disk_usage(at).free
        mark = Mark.BAD if free < TOO_LITTLE_BYTES else Mark.DOUBTFUL if free < LITTLE_BYTES else Mark.GOOD
        yield Finding(
            mark, "disk", f"{free / 2**30:.1f} GiB free at {at}", None if mark is Mark.GOOD else f"du -sh {at}/*"
        )


def _uv() -> str | None:
    import uv

    try:
        return uv.find_uv_bin()
    except FileNotFoundError:
        return None


def _program(name: str, path: str | None, cure: str) -> Iterator[Finding]:
    if path is None:
        yield Finding(Mark.BAD, name, "is not here: no environment can be built", cure)
        return
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True)
        yield Finding(Mark.GOOD, name, done.stdout.strip())
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding(Mark.BAD, name, f"{path} does not run: {error}", cure)


def _gpus() -> Finding:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return Finding(Mark.ABSENT, "GPUs", "no NVML here")
    try:
        return Finding(Mark.GOOD, "GPUs", f"{pynvml.nvmlDeviceGetCount()} by NVML")
    finally:
        pynvml.nvmlShutdown()
