"""A cluster in a box: Slurm, RabbitMQ and Postgres with our schema, reached through one set of variables."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pyfi_hpc.box.network import Way
from pyfi_hpc.box.postgres import ADMIN, ROLE, Postgres
from pyfi_hpc.box.rabbitmq import RabbitMQ
from pyfi_hpc.box.slurm import Profile, SlurmCluster
from pyfi_hpc.config.sections import KEYS
from pyfi_hpc.db import schema
from pyfi_hpc.errors import BadInput

#: The file that names every folder of a cluster.
TRACES = "traces"
#: What a node may lose sight of.
Service = Literal["broker", "database", "slurmctld"]
#: Called with one line for each step of a start.
Tell = Callable[[str], None]


class Cluster:
    """Slurm with stand-ins for GPUs that NVML sees too, and the two services where its nodes reach them.

    As a context manager it starts, and leaves nothing behind. `home` is a folder of its own, made here: settings, and
    pyfi's state and large values, until it is removed.
    """

    def __init__(
        self,
        nodes: int = 3,
        *,
        cpus: int = 8,
        gpus: int = 4,
        profile: Profile = "multi",
        accounting: bool = False,
        home: Path | None = None,
        tell: Tell = lambda line: None,
    ) -> None:
        self.slurm = SlurmCluster(nodes, cpus=cpus, gpus=gpus, profile=profile, accounting=accounting, nvml=gpus > 0)
        self.home = home
        self._tell = tell
        self._stack = ExitStack()
        self.postgres: Postgres
        self.rabbitmq: RabbitMQ

    def start(self) -> Self:
        """Every node is idle, and both services can be used.

        Raises:
            Unavailable: a part does not start; nothing of the others is left.
        """
        with self._stack as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def _start(self, stack: ExitStack) -> None:
        self.home = home = _folder(self.home)
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        self._note(home)
        self._tell(f"Starting Slurm with {len(self.slurm.nodes)} nodes")
        stack.enter_context(self.slurm)
        self._note(self.slurm.home)
        self.rabbitmq = RabbitMQ(self.slurm.address)
        stack.callback(self.rabbitmq.remove)
        self.rabbitmq.launch()
        self._note(self.rabbitmq.console.parent)
        self._tell("Starting Postgres")
        self.postgres = stack.enter_context(Postgres(self.slurm.address))
        self._note(self.postgres.log.parent)
        schema.init(self.postgres.uri(ADMIN), grant_to=ROLE)
        self._tell("Starting RabbitMQ (a few seconds)")
        self.rabbitmq.wait_ready()
        self._write_settings(home)

    def _note(self, folder: Path) -> None:
        """For whoever cleans up after a process that was killed; see `traces`."""
        assert self.home is not None
        with (self.home / TRACES).open("a") as file:
            file.write(f"{folder}\n")

    def remove(self) -> None:
        """Afterwards no process, file, port or network of it is left."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()

    # how to use it

    @property
    def ini(self) -> Path:
        """The settings file, with passwords: its owner's alone."""
        assert self.home is not None
        return self.home / "pyfi.ini"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make Slurm's commands and `pyfi` use it; there is no password among them."""
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        return {**self.slurm.environment, "PYFI_INI": str(self.ini), "PATH": path}

    def settings(self) -> dict[str, str]:
        """`section.key` → what the settings file says."""
        return {
            "database.uri": self.postgres.uri(),
            "broker.uri": self.rabbitmq.uri,
            # repositories of this machine: it is nobody else's cluster
            "git.allow": "file:///",
            "paths.state": str(self.ini.with_name("state")),
            "paths.blobs": str(self.ini.with_name("blobs")),
            # the cores of its nodes are only claimed
            "agent.shared_cores": "yes",
            "agent.poll_seconds": "0.5",
            "slurm.poll_seconds": "1",
            # as in its slurm.conf
            "agent.kill_wait_seconds": "2",
        }

    # faults; those of Slurm alone are in `slurm`

    def block(self, node: str, service: Service, way: Way = "both") -> None:
        """Let nothing through between a node and one service, or only one way as the node sees it; tell neither.

        Raises:
            BadInput: the nodes are beside each other on one machine.
        """
        self.slurm.places.block(node, *self._where(service), way)

    def unblock(self, node: str, service: Service, way: Way = "both") -> None:
        """Let everything through again."""
        self.slurm.places.unblock(node, *self._where(service), way)

    def _where(self, service: Service) -> tuple[str, int | None]:
        match service:
            case "broker":
                return self.slurm.address, self.rabbitmq.port
            case "database":
                return self.slurm.address, self.postgres.port
            case "slurmctld":
                return self.slurm.plan.controller.address, None

    def _write_settings(self, home: Path) -> None:
        with open(os.open(self.ini, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(ini_text(self.settings()))
        (home / "env").write_text(shell_text(self.environment, self.settings()))


def ini_text(settings: Mapping[str, str]) -> str:
    """`section.key` → value, as a settings file."""
    sections: dict[str, list[str]] = {}
    for name, value in settings.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, []).append(f"{key} = {value}\n")
    return "\n".join(f"[{section}]\n{''.join(lines)}" for section, lines in sections.items())


def shell_text(environment: Mapping[str, str], settings: Mapping[str, str]) -> str:
    """What a shell reads with `source`: variables that would win over the settings file are taken away."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items() if name != "PATH"]
    path = f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'
    unset = " ".join(["PYFI_HOME", *(KEYS[name].variable for name in settings)])
    return "\n".join([f"unset {unset}", *exports, path]) + "\n"


def _folder(home: Path | None) -> Path:
    """The folder, made here; nobody else may enter.

    Raises:
        BadInput: it is there already.
    """
    if home is None:
        return Path(tempfile.mkdtemp(prefix="pyfi-cluster-", dir="/tmp"))
    try:
        home.mkdir(mode=0o700, parents=True)
    except FileExistsError as error:
        what = "the folder is there already, and not a cluster's"
        raise BadInput.of("E_EXISTS", "home", str(home), what, cure="name another one") from error
    return home


def traces(home: Path) -> list[Path]:
    """The folders of the cluster in `home`; none where there is no cluster, so that nothing else is ever removed."""
    try:
        return [Path(line) for line in (home / TRACES).read_text().splitlines()]
    except FileNotFoundError:
        return []
