"""Control groups (version 1) that Slurm makes for its nodes: whether there can be any, and their end."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
#: What slurmd uses of them. Source: cgroup.conf(5), proctrack/cgroup and task/cgroup.
CONTROLLERS = ("freezer", "cpuset", "memory", "devices", "cpuacct")


def available() -> bool:
    """Whether slurmd may make them here: as root, on a machine with version 1."""
    return not os.geteuid() and all((ROOT / name / "tasks").exists() for name in CONTROLLERS)


def sweep(nodes: Collection[str]) -> None:
    """Take away those of `nodes`; no process is in them any more."""
    for node in nodes:
        for top in ROOT.glob(f"*/slurm_{node}"):
            for folder, _, _ in os.walk(top, topdown=False):
                with suppress(FileNotFoundError):
                    os.rmdir(folder)
