"""Two hosts in a box: a network namespace each, a bridge between them and the servers, agents started by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import conftest
from pyfi_hpc.box.postgres import ADMIN, ROLE, Postgres
from pyfi_hpc.box.rabbitmq import RabbitMQ
from pyfi_hpc.db import schema
from tests.support_git import make_repository

ROOT = Path(conftest.__file__).parent
PYFI = Path(sys.executable).with_name("pyfi")

# its interfaces' names end with our pid, so that two runs do not meet
_MARK = f"{os.getpid() % 100_000:x}"
_NET = f"10.{200 + os.getpid() % 50}.{os.getpid() % 250}"
SERVER = f"{_NET}.1"


def ip(*arguments: str) -> str:
    """What `ip …` prints; raises where it fails."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


@dataclass
class Host:
    """A namespace with one link to the bridge, and a state directory of its own."""

    name: str
    number: int
    folder: Path
    services: dict[str, str]
    agents: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def space(self) -> str:
        return f"pyfi{_MARK}-{self.number}"

    @property
    def link(self) -> str:
        """The bridge's end of its cable."""
        return f"pv{_MARK}-{self.number}"

    @property
    def environment(self) -> dict[str, str]:
        own = {"PYFI_HOME": str(self.folder / "state"), "XDG_CACHE_HOME": str(self.folder / "cache")}
        return {**os.environ, **self.services, **own}

    def make(self, bridge: str) -> None:
        """The namespace, its cable and address."""
        self.folder.mkdir()
        ip("netns", "add", self.space)
        ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.space)
        ip("link", "set", self.link, "master", bridge, "up")
        ip("-n", self.space, "address", "add", f"{_NET}.{10 + self.number}/24", "dev", "eth0")
        ip("-n", self.space, "link", "set", "eth0", "up")
        ip("-n", self.space, "link", "set", "lo", "up")

    def pyfi(self, *arguments: str, code: int = 0) -> str:
        """What `pyfi …`, typed on this host, prints."""
        command = ["ip", "netns", "exec", self.space, str(PYFI), *arguments]
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, f"pyfi {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start_agent(self) -> None:
        """`pyfi agent start -h NAME`, by hand."""
        command = ["ip", "netns", "exec", self.space, str(PYFI), "agent", "start", "-h", self.name]
        with (self.folder / "agent.log").open("ab") as log:
            self.agents.append(
                subprocess.Popen(
                    command, env=self.environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            )

    @property
    def log(self) -> str:
        """The end of what its agent wrote."""
        return "\n".join((self.folder / "agent.log").read_text().splitlines()[-20:])

    def cut(self) -> None:
        """Pull the cable."""
        ip("link", "set", self.link, "down")

    def heal(self) -> None:
        """Put it back in."""
        ip("link", "set", self.link, "up")

    def remove(self) -> None:
        """Its agents are stopped, and nothing of it is left."""
        for agent in self.agents:
            if agent.poll() is None:
                agent.terminate()
        for agent in self.agents:
            try:
                agent.wait(45)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait(10)
        if self.space in ip("netns", "list"):
            ip("netns", "del", self.space)


@dataclass
class Cluster:
    """The servers, two hosts, and a repository of the sample processor."""

    hosts: tuple[Host, Host]
    database_uri: str
    broker_uri: str
    repository: Path
    services: dict[str, str]


@contextmanager
def two_hosts(folder: Path) -> Iterator[Cluster]:
    """A cluster without agents yet; nothing of it is left afterwards."""
    bridge = f"pb{_MARK}"
    with ExitStack() as stack:
        ip("link", "add", bridge, "type", "bridge")
        stack.callback(ip, "link", "del", bridge)
        ip("address", "add", f"{SERVER}/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        postgres = stack.enter_context(Postgres(SERVER))
        rabbitmq = stack.enter_context(RabbitMQ(SERVER))
        schema.init(postgres.uri(ADMIN), grant_to=ROLE)
        repository = _sample(folder / "sample")
        services = {
            "PYFI_DATABASE_URI": postgres.uri(),
            "PYFI_BROKER_URI": rabbitmq.uri,
            "PYFI_GIT_ALLOW": f"file://{repository}",
            "PYFI_PATHS_BLOBS": str(folder / "blobs"),
            "PYFI_AGENT_SHARED_CORES": "yes",
            "PYFI_AGENT_POLL_SECONDS": "0.5",
        }
        hosts = (Host("host1", 1, folder / "host1", services), Host("host2", 2, folder / "host2", services))
        for host in hosts:
            stack.callback(host.remove)
            host.make(bridge)
        yield Cluster(hosts, postgres.uri(), rabbitmq.uri, repository, services)


def _sample(path: Path) -> Path:
    """The code of the sample alone: a host without a way out cannot fetch what builds a package."""
    source = ROOT / "examples" / "sample"
    make_repository(path, {str(file.relative_to(source)): file.read_text() for file in source.rglob("*.py")})
    return path
