"""A real Slurm in a directory of its own, without a service manager: one controller, some nodes, stand-ins for GPUs.

The daemons are Debian's packages. Two profiles: `multi` runs a slurmd a node beside each other on this machine, for
anybody; `netns` makes each node a host of its own (see `hosts.py`), which takes root.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from pyfi_hpc.box import accounting, cgroups, devices, nvml
from pyfi_hpc.box.hosts import Host
from pyfi_hpc.box.places import DATABASE_PORT, DBD_PORT, HEAD, Apart, Beside, Places
from pyfi_hpc.box.programs import program, search_path
from pyfi_hpc.box.slurm_files import Plan, files
from pyfi_hpc.errors import Unavailable
from pyfi_hpc.processes import until

Profile = Literal["multi", "netns"]
T = TypeVar("T")

#: Folder → who may use it. Through `munge` everybody comes to the socket, in `work` everybody's jobs may write.
FOLDERS: Mapping[str, int] = {
    "etc": 0o755,
    "log": 0o755,
    "munge": 0o711,
    "run": 0o755,
    "spool": 0o755,
    "state": 0o700,
    "dev": 0o755,
    "work": 0o1777,
}


class SlurmCluster:
    """One controller and nodes `n1`, `n2`, …, each with `cpus`, `mem_mib` and `gpus` of type `gpu:h100`.

    Partitions: `main`, the default, without a limit, and `gpu`, with MaxTime of an hour. As a context manager it
    starts, and leaves nothing behind; when the process that holds it dies, its processes end as well.

    Args:
        accounting: with slurmdbd and what belongs to it, the account `lab`, and QOS `high` that preempts `normal`.
        nvml: a stand-in for NVIDIA's library shows jobs the same GPUs, see `nvml.py`.
        cgroups: a job gets no more memory than it asked for, and opens no other GPU than its own; nodes then have
            names that no other cluster has.
        extra: further lines of slurm.conf.
    """

    def __init__(
        self,
        nodes: int = 3,
        *,
        cpus: int = 8,
        gpus: int = 4,
        mem_mib: int = 8000,
        profile: Profile = "multi",
        accounting: bool = False,
        nvml: bool = False,
        cgroups: bool = False,
        extra: Sequence[str] = (),
    ) -> None:
        # letters and digits alone, and another one for each cluster of this machine
        self.name = f"box{secrets.token_hex(3)}"
        # cgroups are the whole machine's, and named after the node
        prefix = f"{self.name}n" if cgroups else "n"
        self.nodes = [f"{prefix}{number}" for number in range(1, nodes + 1)]
        self.cpus, self.gpus, self.mem_mib = cpus, gpus, mem_mib
        self.profile = profile
        self.accounting, self.nvml, self.cgroups = accounting, nvml, cgroups
        self.extra = tuple(extra)
        self._home: Path | None = None
        self._places: Places | None = None
        self._plan: Plan | None = None
        self._pids: dict[str, int] = {}

    # its life

    def start(self) -> Self:
        """Every node is idle; made on the first call, the same state and ports on later ones."""
        first = self._plan is None
        if first:
            self._make()
        self.places.start({**_without_slurm(os.environ), **self.environment, "PATH": search_path()})
        self._start_munged()
        if self.plan.database:
            self._start_accounting(self.plan.database, first)
        self.start_slurmctld()
        for name in self.nodes:
            self._start_slurmd(name)
        self.wait_idle()
        return self

    def _start_munged(self) -> None:
        folder = self.home / "munge"
        files = [f"--key-file={folder}/key", f"--pid-file={folder}/pid", f"--seed-file={folder}/seed"]
        self._run(HEAD, "munged", "--foreground", f"--socket={self.plan.munge_socket}", *files)
        self._await(self.plan.munge_socket.exists, "munged does not start", "munged")

    def _start_accounting(self, database: accounting.Database, first: bool) -> None:
        if first:
            database.make()
        self._run(HEAD, *database.command())
        self._await(database.answers, "MariaDB does not start", "mariadbd")
        database.furnish()
        self._run(HEAD, "slurmdbd", "-D")
        self._await(self._dbd_answers, "slurmdbd does not start", "slurmdbd")
        if first:
            self.define(accounting.definitions(self.name, self.plan.user))

    def _dbd_answers(self) -> bool:
        return not self.run("sacctmgr", "--noheader", "list", "qos", check=False).returncode

    def define(self, lines: Sequence[str]) -> None:
        """Have sacctmgr do what each of `lines` says, such as those of `accounting.user_definition`."""
        for line in lines:
            self.run("sacctmgr", "--immediate", *line.split())

    def start_slurmctld(self) -> None:
        """The controller runs; its state is that of the last time."""
        if not self.runs("slurmctld"):
            self._run(HEAD, "slurmctld", "-D", "-i", "-f", str(self.plan.conf))
        # whoever finds nobody there tries again a second later
        self._await(self._controller_listens, "slurmctld does not start", "slurmctld")

    def _controller_listens(self) -> bool:
        head = self.plan.controller
        try:
            socket.create_connection((head.address, head.port), timeout=1.0).close()
        except OSError:
            return False
        return True

    def _start_slurmd(self, node: str) -> None:
        self._run(node, "slurmd", "-D", "-N", node, "-f", str(self.plan.conf), key=f"slurmd.{node}")

    def wait_idle(self, timeout: float = 60.0) -> None:
        """Return once every node is idle.

        Raises:
            Unavailable: a daemon ended, or they were not in time.
        """
        self._await(self._all_idle, "Slurm does not start", *self._pids, timeout=timeout)

    def _all_idle(self) -> bool:
        done = self.run("sinfo", "--noheader", "--Node", "--format=%N %T", check=False)
        states = dict(line.split() for line in done.stdout.splitlines())
        return set(states) == set(self.nodes) and set(states.values()) == {"idle"}

    def stop(self) -> None:
        """Every daemon has ended, jobs are lost with their nodes; what Slurm keeps on disk stays."""
        for daemon in reversed(self._pids):
            self._end(daemon, signal.SIGTERM)
        self._pids.clear()
        if self._places is not None:
            self._places.power_off()

    def remove(self) -> None:
        """Afterwards no process, file, port or network of it is left; nothing is asked to end first."""
        self._pids.clear()
        if self._places is not None:
            self._places.remove()
        if self.cgroups:
            cgroups.sweep(self.nodes)
        if self._home is not None:
            shutil.rmtree(self._home)
        self._home = self._plan = self._places = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.remove()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()

    # how to use it

    @property
    def plan(self) -> Plan:
        """What its configuration says."""
        return _made(self._plan)

    @property
    def places(self) -> Places:
        """Where its daemons run."""
        return _made(self._places)

    @property
    def home(self) -> Path:
        """Its private directory; `log/` has what every daemon says."""
        return _made(self._home)

    @property
    def hosts(self) -> Mapping[str, Host]:
        """Name → host, the controller's (`ctl`) first."""
        return self.places.hosts

    @property
    def address(self) -> str:
        """Where a service of this machine must listen so that nodes reach it."""
        return self.places.address

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make Slurm's commands, and ours, speak to this cluster."""
        own = {"SLURM_CONF": str(self.plan.conf)}
        return own | (nvml.environment(self.home / "nvml") if self.nvml else {})

    def run(
        self, *command: str, check: bool = True, timeout: float = 60.0, node: str | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` as a client of this cluster, on this machine or on `node`.

        `options` are those of `subprocess.run`; `env` adds to our own. Its working directory is the cluster's own
        unless `cwd` is given, so that files of jobs go with it.

        Raises:
            subprocess.CalledProcessError: it failed; `stderr` says why.
        """
        environment = {**_without_slurm(os.environ), **self.environment, **options.pop("env", {})}
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(
            self.hosts[node].entered(*command) if node else command,
            env=environment,
            cwd=options.pop("cwd", self.home / "work"),
            capture_output=True,
            text=True,
            check=check,
            timeout=timeout,
            **options,
        )

    def ask(self, *command: str, **options: Any) -> str:
        """What a client command prints, without the last newline; see `run`."""
        return self.run(*command, **options).stdout.rstrip("\n")

    def log(self, daemon: str) -> str:
        """What `munged`, `slurmctld`, `slurmd.n1`, … has said."""
        written = (self.home / "log").glob(f"{daemon}.*")
        return "".join(file.read_text(errors="replace") for file in sorted(written))

    def clear(self) -> None:
        """No job is left that waits or runs, so that the next test finds the cluster empty."""
        if jobs := self.ask("squeue", "--noheader", "--format=%A").split():
            self.run("scancel", "--quiet", *jobs, check=False)
        if not until(lambda: not self.ask("squeue", "--noheader"), 30.0, interval=0.05):
            raise Unavailable("E_SLURM", f"jobs do not end: {self.ask('squeue', '--noheader')}")

    # faults

    def runs(self, daemon: str) -> bool:
        """Whether `slurmctld`, `slurmd.n1`, … is there."""
        return daemon in self._pids and self._host_of(daemon).alive(self._pids[daemon])

    def power_off(self, node: str) -> None:
        """Cut the power: slurmd, its steps and their processes are gone at once."""
        self.hosts[node].power_off()
        self._pids.pop(f"slurmd.{node}", None)

    def power_on(self, node: str) -> None:
        """The node has booted and its slurmd is on its way; what ran there before is lost. One that is on stays so."""
        self.places.power_on(node)
        if not self.runs(f"slurmd.{node}"):
            self._start_slurmd(node)

    def wait_up(self, node: str, timeout: float = 30.0) -> None:
        """Return once Slurm would use the node.

        Raises:
            Unavailable: it was not in time.
        """
        asked = ("sinfo", "--noheader", "--partition=main", "--nodes", node, "--format=%T")
        if not until(lambda: self.ask(*asked) in ("idle", "mixed", "allocated"), timeout, interval=0.05):
            raise Unavailable("E_SLURM", f"node {node} is {self.ask(*asked)}", at=str(self.home / "log"))

    def disconnect(self, node: str) -> None:
        """Let nothing through between a node (or `ctl`) and all others; what runs there goes on.

        Raises:
            BadInput: the nodes are beside each other on one machine.
        """
        self.places.cut(node)

    def connect(self, node: str) -> None:
        """Let everything through again."""
        self.places.heal(node)

    def stall(self, daemon: str) -> None:
        """Stop `slurmctld`, `slurmd.n1`, … where it stands: connections stay open, nothing answers."""
        self._signal(daemon, signal.SIGSTOP)

    def resume(self, daemon: str) -> None:
        """Let a stalled daemon go on."""
        self._signal(daemon, signal.SIGCONT)

    def stall_slurmd(self, node: str) -> None:
        """As `stall`, by the node's name."""
        self.stall(f"slurmd.{node}")

    def resume_slurmd(self, node: str) -> None:
        """As `resume`, by the node's name."""
        self.resume(f"slurmd.{node}")

    def wait_saved(self, job: str, timeout: float = 30.0) -> None:
        """Return once the controller has written down how the job is: up to five seconds after a change of it.

        Raises:
            Unavailable: it was not in time.
        """
        file = self.home / "state" / "job_state"
        before = file.stat().st_mtime_ns if file.exists() else 0
        self.run("scontrol", "update", f"JobId={job}", "AdminComment=saved")
        if not until(lambda: file.exists() and file.stat().st_mtime_ns != before, timeout, interval=0.05):
            raise Unavailable("E_SLURM", "slurmctld does not save its state", at=str(self.home / "log"))

    def kill_slurmctld(self) -> None:
        """End the controller with SIGKILL; jobs go on.

        What it was told in the last seconds may be lost: it answers before it has written its state.
        """
        self._end("slurmctld", signal.SIGKILL)

    def lose_state(self) -> None:
        """Forget every job, as when the controller's disk is lost. It must not run meanwhile.

        Raises:
            Unavailable: it runs.
        """
        if self.runs("slurmctld"):
            raise Unavailable(
                "E_SLURM", "slurmctld runs and would write its state again", cure="kill_slurmctld() first"
            )
        shutil.rmtree(self.home / "state")
        (self.home / "state").mkdir(mode=0o700)

    # daemons

    def _host_of(self, daemon: str) -> Host:
        return self.hosts[daemon.partition(".")[2] or HEAD]

    def _signal(self, daemon: str, sign: signal.Signals) -> None:
        self._host_of(daemon).kill(self._pids[daemon], sign)

    def _run(self, host: str, name: str, *arguments: str, key: str = "") -> None:
        key = key or Path(name).name
        path = program(name)
        self._pids[key] = self.hosts[host].run(path, *arguments, log=self.home / "log" / f"{key}.out")

    def _end(self, daemon: str, how: signal.Signals) -> None:
        """Afterwards the daemon is gone: asked with `how`, killed after 10 s; one that is stalled is woken."""
        host, pid = self._host_of(daemon), self._pids[daemon]
        for sign in (how, signal.SIGKILL):
            if not host.alive(pid):
                return
            host.kill(pid, sign)
            host.kill(pid, signal.SIGCONT)
            until(lambda: not host.alive(pid), 10.0, interval=0.005)

    def _await(self, true: Callable[[], bool], what: str, *daemons: str, timeout: float = 20.0) -> None:
        """Return once `true()`; refuse with the end of a log when a daemon ended, or after `timeout` seconds."""
        ended: list[str] = []

        def settled() -> bool:
            ended[:] = [daemon for daemon in daemons if not self.runs(daemon)]
            return bool(ended) or true()

        if not until(settled, timeout, interval=0.01) or ended:
            raise self._refusal(what, ended or daemons)

    def _refusal(self, what: str, daemons: Sequence[str]) -> Unavailable:
        said = [line for daemon in daemons[:1] for line in self.log(daemon).splitlines()[-3:]]
        return Unavailable("E_SLURM", f"{what}: {' / '.join(said)}", at=str(self.home / "log"))

    # how it is made

    def _make(self) -> None:
        for name in ("slurmctld", "slurmd", "srun", "munged"):
            program(name)
        if self.cgroups and not cgroups.available():
            raise Unavailable("E_SLURM", "slurmd cannot make cgroups here", cure="be root, on a machine with version 1")
        # short: names of unix sockets have at most 108 bytes
        self._home = home = Path(tempfile.mkdtemp(prefix="pyfi-slurm-", dir="/tmp"))
        home.chmod(0o755)
        for name, mode in FOLDERS.items():
            (home / name).mkdir()
            (home / name).chmod(mode)
        _write(home / "munge" / "key", secrets.token_bytes(1024))
        self._places = Beside(self.nodes) if self.profile == "multi" else Apart(self.nodes)
        self._plan = self._planned(home, self._places)
        if self.nvml:
            nvml.build(home / "nvml")
            nvml.write_state(home / "nvml" / "nvml.state", self.gpu_state())
        for name, text in files(self._plan).items():
            _write(self._plan.etc / name, text.encode(), mode=0o600 if name == "slurmdbd.conf" else 0o644)

    def gpu_state(self) -> dict[str, nvml.FakeNode]:
        """What NVML says on each node: GPUs in the order of Slurm's indexes, each with a UUID of its own."""
        uuids = {node: [self.gpu_uuid(node, index) for index in range(self.gpus)] for node in self.nodes}
        return devices.seen_by_nvml(uuids, self.plan.gpu_files)

    def gpu_uuid(self, node: str, index: int) -> str:
        """What NVML calls a GPU, known by Slurm as `index` of `node`; the same as long as the cluster is there."""
        return f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, f'{self.name}/{node}/{index}')}"

    def _planned(self, home: Path, places: Places) -> Plan:
        head, *nodes = places.plan()
        database = accounting.Database(home / "db", places.head_port(DATABASE_PORT)) if self.accounting else None
        return Plan(
            name=self.name,
            home=home,
            user=_user(),
            controller=head,
            nodes=nodes,
            cpus=self.cpus,
            mem_mib=self.mem_mib,
            gpu_files=devices.device_files(home / "dev", self.gpus),
            cgroups=self.cgroups,
            database=database,
            dbd_port=places.head_port(DBD_PORT) if database else 0,
            extra=self.extra,
        )


def _user() -> str:
    """Our name, or our number where we have none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _without_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """Nothing of a job that we may run in ourselves."""
    return {name: value for name, value in environment.items() if not name.startswith(("SLURM_", "SLURMD_", "SBATCH_"))}


def _write(path: Path, content: bytes, mode: int = 0o400) -> None:
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)


def _made(part: T | None) -> T:
    if part is None:
        raise Unavailable("E_SLURM", "the cluster was never started")
    return part
