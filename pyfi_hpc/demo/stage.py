"""Where the demo plays: a service of its own, a repository, a network. All of it is gone afterwards."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path

from pyfi_hpc import local
from pyfi_hpc.client.client import Client
from pyfi_hpc.client.session import ACCEPTED_LOG
from pyfi_hpc.config import Broker, Database, Git, Settings
from pyfi_hpc.db.embedded import EmbeddedPostgres
from pyfi_hpc.errors import BadInput

ANALYSE, MERGE = "analysis.analyse", "analysis.merge"
_IDENTITY = ("-c", "user.name=pyfi demo", "-c", "user.email=demo@example.org", "-c", "commit.gpgsign=false")


class Stage:
    """The demo's folders and settings; `accepted` is the file of the ids that the broker has confirmed."""

    def __init__(self, settings: Settings) -> None:
        self._lock = settings.state_dir / "demo.lock"
        self.home = settings.state_dir / "demo"
        self.accepted = self.home / "accepted"
        self.settings = replace(
            settings,
            database=Database(),
            broker=Broker(),
            git=Git(),
            paths=replace(settings.paths, state=self.home, cache=self.home / "cache", blobs=None),
            agent=replace(settings.agent, network="default", idle_minutes=5.0),
        )

    @contextmanager
    def open(self) -> Iterator[Client]:
        """A client of the running stage.

        Raises:
            BadInput: E_IN_USE, another demo plays there.
        """
        with self._alone(), _variable(ACCEPTED_LOG, str(self.accepted)):
            self.close()  # what a demo that was killed has left
            self.home.mkdir(mode=0o700)
            try:
                local.ensure(self.settings, tell=False)
                with Client(self.settings) as client:
                    yield client
            finally:
                self.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput("E_IN_USE", "a demo runs already", at=str(self.home), cure="wait for its end") from None
            yield

    def close(self) -> None:
        """Nothing of the stage is left, running or stored."""
        local.stop(self.settings)
        EmbeddedPostgres(self.home).remove()
        shutil.rmtree(self.home, ignore_errors=True)

    def build(self, client: Client) -> str:
        """A processor with its two sockets, from a repository made now; the commit."""
        repository = self.home / "analysis"
        commit = make_repository(repository)
        network = client.network
        network.add_queue(name="analysis")
        network.add_processor(name="analysis", gitrepo=str(repository), module="code_analysis")
        for socket in (ANALYSE, MERGE):
            network.add_socket(name=socket, queue="analysis", processor="analysis", task=socket.rpartition(".")[2])
        return commit


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
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
