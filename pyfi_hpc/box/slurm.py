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
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pyfi_hpc.box.hosts import Host, all_on
from pyfi_hpc.box.ports import PortLease, lease_port
from pyfi_hpc.box.slurm_files import Node, Plan, files
from pyfi_hpc.errors import Unavailable
from pyfi_hpc.processes import until

Profile = Literal["multi", "netns"]

#: What has to be installed. Source: Debian 12.
PACKAGES = "slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge"
#: Major number of devices that nobody has: opening one fails with ENXIO, or EPERM where the job does not own it.
#: Source: Documentation/admin-guide/devices.txt of Linux, "LOCAL/EXPERIMENTAL USE".
NO_DEVICE_MAJOR = 240
#: The first of the consoles that stand in for GPUs where we may not make device files.
FIRST_TTY = 10


class SlurmCluster:
    """One controller and nodes `n1`, `n2`, …, each with `cpus`, `mem_mib` and `gpus` of type `gpu:h100`.

    Partitions: `main`, the default, without a limit, and `gpu`, with MaxTime of an hour. As a context manager it
    starts, and leaves nothing behind; when the process that holds it dies, its processes end as well. `extra` are
    further lines of slurm.conf.

    Attributes:
        environment: what a client command, and a program that asks Slurm, must see.
        hosts: name → host, the controller's (`ctl`) first.
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
        extra: Sequence[str] = (),
    ) -> None:
        self.count, self.cpus, self.gpus, self.mem_mib = nodes, cpus, gpus, mem_mib
        self.profile = profile
        self.accounting = accounting
        self.extra = tuple(extra)
        self.hosts: dict[str, Host] = {}
        self._home: Path | None = None
        self._plan: Plan | None = None
        self._leases: list[PortLease] = []
        self._pids: dict[str, int] = {}

    # its life

    def start(self) -> Self:
        """Every node is idle; made on the first call, the same state and ports on later ones."""
        if self._plan is None:
            self._make()
        all_on([host for host in self.hosts.values() if not host.on])
        self._start_munged()
        self.start_slurmctld()
        for name in self.nodes:
            self._start_slurmd(name)
        self.wait_idle()
        return self

    def _start_munged(self) -> None:
        folder = self.home / "munge"
        self._run(
            "ctl",
            "munged",
            "--foreground",
            f"--key-file={folder}/key",
            f"--socket={self.plan.munge_socket}",
            f"--pid-file={folder}/pid",
            f"--seed-file={folder}/seed",
        )
        self._await(self.plan.munge_socket.exists, "munged does not start", "munged")

    def start_slurmctld(self) -> None:
        """The controller runs; its state is that of the last time."""
        if not self.runs("slurmctld"):
            self._run("ctl", "slurmctld", "-D", "-i", "-f", str(self.plan.conf))

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
        """Every daemon has ended, and every job with it; what Slurm keeps on disk stays."""
        if self._plan is not None and self.runs("slurmctld"):
            with suppress(subprocess.SubprocessError):
                self.run("scancel", "--quiet", f"--user={self.plan.user}", "--signal=KILL", "--full", timeout=10)
        for key in reversed(self._pids):
            self._end(key, signal.SIGTERM)
        for host in self.hosts.values():
            host.power_off()
        self._pids.clear()

    def remove(self) -> None:
        """Afterwards no process, file or port of it is left."""
        self.stop()
        if self._home is not None:
            shutil.rmtree(self._home)
        for lease in self._leases:
            lease.release()
        self._leases, self.hosts = [], {}
        self._home = self._plan = None

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
        if self._plan is None:
            raise Unavailable("E_SLURM", "the cluster was never started")
        return self._plan

    @property
    def home(self) -> Path:
        """Its private directory; `log/` has what every daemon says."""
        if self._home is None:
            raise Unavailable("E_SLURM", "the cluster was never started")
        return self._home

    @property
    def nodes(self) -> list[str]:
        """Their names, in order."""
        return [f"n{number}" for number in range(1, self.count + 1)]

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make Slurm's commands, and ours, speak to this cluster."""
        return {"SLURM_CONF": str(self.plan.conf)}

    def run(
        self, *command: str, check: bool = True, timeout: float = 60.0, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` as a client of this cluster; `options` are those of `subprocess.run`.

        Its working directory is the cluster's own unless `cwd` is given, so that files of jobs go with it.

        Raises:
            subprocess.CalledProcessError: it failed; `stderr` says why.
        """
        environment = {**_without_slurm(os.environ), **self.environment, **options.pop("env", {})}
        options = {"cwd": self.home / "work", "stdin": subprocess.DEVNULL, **options}
        if "input" in options:
            del options["stdin"]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=check, timeout=timeout, **options
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
        self.run("scancel", "--quiet", f"--user={self.plan.user}")
        if not until(lambda: not self.ask("squeue", "--noheader"), 30.0, interval=0.05):
            raise Unavailable("E_SLURM", f"jobs do not end: {self.ask('squeue', '--noheader')}")

    # faults

    def runs(self, daemon: str) -> bool:
        """Whether `slurmctld`, `slurmd.n1`, … is there."""
        host = self._host_of(daemon)
        return daemon in self._pids and host.alive(self._pids[daemon])

    def power_off(self, node: str) -> None:
        """Cut the power: slurmd, its steps and their processes are gone at once."""
        self.hosts[node].power_off()
        self._pids.pop(f"slurmd.{node}", None)

    def power_on(self, node: str) -> None:
        """The node has booted and its slurmd is on its way; a running job of before is lost."""
        self.hosts[node].power_on()
        self._start_slurmd(node)

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

    def kill_slurmctld(self) -> None:
        """End the controller with SIGKILL; jobs go on."""
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

    def _signal(self, daemon: str, sign: signal.Signals) -> None:
        self._host_of(daemon).kill(self._pids[daemon], sign)

    def _host_of(self, daemon: str) -> Host:
        return self.hosts[daemon.partition(".")[2] or "ctl"]

    # daemons

    def _run(self, host: str, program: str, *arguments: str, key: str = "") -> None:
        key = key or program
        log = self.home / "log" / f"{key}.out"
        self._pids[key] = self.hosts[host].run(program_path(program), *arguments, log=log)

    def _end(self, daemon: str, how: signal.Signals) -> None:
        """Afterwards the daemon is gone: asked with `how`, killed after 10 s; one that is stalled is woken."""
        host, pid = self._host_of(daemon), self._pids[daemon]
        for sign in (how, signal.SIGKILL):
            if not host.alive(pid):
                return
            host.kill(pid, sign)
            host.kill(pid, signal.SIGCONT)
            until(lambda: not host.alive(pid), 10.0, interval=0.005)

    def _await(self, true: Any, what: str, *daemons: str, timeout: float = 20.0) -> None:
        """Return once `true()`; refuse with the end of a log when a daemon ended, or after `timeout` seconds."""
        ended: list[str] = []

        def settled() -> bool:
            ended[:] = [daemon for daemon in daemons if not self.runs(daemon)]
            return bool(ended or true())

        if not until(settled, timeout, interval=0.01) or ended:
            raise self._refusal(what, ended or list(daemons)[:1])

    def _refusal(self, what: str, daemons: list[str]) -> Unavailable:
        said = [line for daemon in daemons for line in self.log(daemon).splitlines()[-3:]]
        return Unavailable("E_SLURM", f"{what}: {' / '.join(said)}", at=str(self.home / "log"))

    # how it is made

    def _make(self) -> None:
        program_path("slurmctld")
        # short: names of unix sockets have at most 108 bytes
        self._home = home = Path(tempfile.mkdtemp(prefix="pyfi-slurm-", dir="/tmp"))
        home.chmod(0o755)
        for name, mode in FOLDERS.items():
            (home / name).mkdir()
            (home / name).chmod(mode)
        _secret(home / "munge" / "key", secrets.token_bytes(1024))
        self._plan = self._planned(home)
        for name, text in files(self._plan).items():
            (self._plan.etc / name).write_text(text)
        for name in ("ctl", *self.nodes):
            self.hosts[name] = Host(name, environment={**_without_slurm(os.environ), **self.environment})

    def _planned(self, home: Path) -> Plan:
        hostname = socket.gethostname().partition(".")[0]
        ports = [self._port() for _ in range(self.count + 1)]
        places = [
            Node(name, hostname, "127.0.0.1", port) for name, port in zip(["ctl", *self.nodes], ports, strict=True)
        ]
        return Plan(
            # letters and digits alone, and another one for each cluster of this machine
            name=f"box{secrets.token_hex(3)}",
            home=home,
            user=_user(),
            controller=places[0],
            nodes=places[1:],
            cpus=self.cpus,
            mem_mib=self.mem_mib,
            gpu_files=device_files(home / "dev", self.gpus),
            accounting=self.accounting,
            extra=self.extra,
        )

    def _port(self) -> int:
        self._leases.append(lease_port())
        return self._leases[-1].number


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


def device_files(folder: Path, count: int) -> list[Path]:
    """`count` character devices that stand in for GPUs: made in `folder` as root, else consoles that are there."""
    if os.geteuid():
        return [Path(f"/dev/tty{FIRST_TTY + index}") for index in range(count)]
    made = [folder / f"nvidia{index}" for index in range(count)]
    for index, file in enumerate(made):
        os.mknod(file, 0o666 | stat.S_IFCHR, os.makedev(NO_DEVICE_MAJOR, index))
        file.chmod(0o666)
    return made


def program_path(name: str) -> str:
    """Where a daemon's program is, also for a person without sbin in PATH.

    Raises:
        Unavailable: it is not installed.
    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        cure = f"apt-get install --no-install-recommends {PACKAGES}"
        raise Unavailable("E_NO_SLURM", f"{name} is not installed", cure=cure)
    return path


def _user() -> str:
    """Our name, or our number where we have none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _without_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """Nothing of a job that we may run in ourselves."""
    return {name: value for name, value in environment.items() if not name.startswith(("SLURM_", "SLURMD_", "SBATCH_"))}


def _secret(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o400), "wb") as file:
        file.write(content)
