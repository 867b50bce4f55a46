"""What every demo runs: the example `analysis` as a git repository, and the processor made from it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from pyfi_hpc.client.client import Client

ANALYSE, MERGE = "analysis.analyse", "analysis.merge"
_IDENTITY = ("-c", "user.name=pyfi demo", "-c", "user.email=demo@example.org", "-c", "commit.gpgsign=false")


def add_processor(client: Client, repository: Path) -> str:
    """Add the processor `analysis` with its two sockets, from a repository made at `repository`; says so."""
    commit = make_repository(repository)
    network = client.network
    network.add_queue(name="analysis")
    network.add_processor(name="analysis", gitrepo=str(repository), module="code_analysis")
    for socket in (ANALYSE, MERGE):
        network.add_socket(name=socket, queue="analysis", processor="analysis", task=socket.rpartition(".")[2])
    return f"Made the processor 'analysis' from a git repository, pinned at commit {commit[:12]}"


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """`name` is set in our own environment meanwhile."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def make_repository(path: Path) -> str:
    """A git repository of the example `analysis` at `path`; its commit."""
    with resources.as_file(resources.files("pyfi_hpc") / "examples" / "analysis") as source:
        shutil.copytree(source, path, ignore=shutil.ignore_patterns("__pycache__"))
    _git(path, "init", "--quiet", "--initial-branch=main")
    _git(path, "add", "--all")
    _git(path, *_IDENTITY, "commit", "--quiet", "--no-verify", "--message=Two tasks that read Python")
    return _git(path, "rev-parse", "HEAD")


def _git(path: Path, *arguments: str) -> str:
    command = ["git", "-C", str(path), *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout.strip()
