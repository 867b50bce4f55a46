"""Two hosts in a box: a network each, a switch between them and the servers, agents started by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import conftest
from pyfi_hpc.box import hosts as box
from pyfi_hpc.box.network import Network
from pyfi_hpc.box.postgres import ADMIN, ROLE, Postgres
from pyfi_hpc.box.rabbitmq import RabbitMQ
from pyfi_hpc.db import schema
from tests.support_git import make_repository

ROOT = Path(conftest.__file__).parent
PYFI = Path(sys.executable).with_name("pyfi")


@dataclass
class Host:
    """A host with a cable to the switch, and a state directory of its own."""

    name: str
    number: int
    folder: Path
    services: dict[str, str]
    network: Network
    agents: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._box = box.Host(self.name, isolated=True)

    @property
    def environment(self) -> dict[str, str]:
        own = {"PYFI_HOME": str(self.folder / "state"), "XDG_CACHE_HOME": str(self.folder / "cache")}
        return {**os.environ, **self.services, **own}

    def make(self) -> None:
        """It is on, and plugged in."""
        self.folder.mkdir()
        self._box.power_on()
        self.network.plug(self._box, self.number)

    def pyfi(self, *arguments: str, code: int = 0) -> str:
        """What `pyfi …`, typed on this host, prints."""
        command = self._box.connected(str(PYFI), *arguments)
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, f"pyfi {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start_agent(self) -> None:
        """`pyfi agent start -h NAME`, by hand."""
        command = self._box.connected(str(PYFI), "agent", "start", "-h", self.name)
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
        self.network.cut(self._box)

    def heal(self) -> None:
        """Put it back in."""
        self.network.heal(self._box)

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
        self._box.power_off()


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
    network = Network()
    with ExitStack() as stack:
        stack.callback(network.remove)
        network.start()
        postgres = stack.enter_context(Postgres(network.address))
        rabbitmq = stack.enter_context(RabbitMQ(network.address))
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
        hosts = (
            Host("host1", 1, folder / "host1", services, network),
            Host("host2", 2, folder / "host2", services, network),
        )
        for host in hosts:
            stack.callback(host.remove)
            host.make()
        yield Cluster(hosts, postgres.uri(), rabbitmq.uri, repository, services)


def _sample(path: Path) -> Path:
    """The code of the sample alone: a host without a way out cannot fetch what builds a package."""
    source = ROOT / "examples" / "sample"
    make_repository(path, {str(file.relative_to(source)): file.read_text() for file in source.rglob("*.py")})
    return path
