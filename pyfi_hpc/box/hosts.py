"""Hosts in a box: a small init each (`init.py`), and the processes below it, which a power cut takes all at once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyfi_hpc.box import init
from pyfi_hpc.errors import Unavailable

#: Namespaces of its own: as near to another machine as one kernel gets. Source: unshare(1).
UNSHARE = ("unshare", "--net", "--uts", "--pid", "--mount", "--propagation=private", "--mount-proc")
#: How long a host may take to be up, or to answer, before that is an error.
PATIENCE_SECONDS = 20.0


class Host:
    """One host, dark until `power_on`; it goes dark by itself when the process that holds it dies.

    `isolated` gives it a network, host name, process table, `/run` and `/dev/shm` of its own, which takes root;
    otherwise it is only a set of processes of this machine.
    """

    def __init__(self, name: str, *, isolated: bool = False, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.isolated = isolated
        self.environment = dict(os.environ if environment is None else environment)
        self._line: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def on(self) -> bool:
        """Whether its init runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its init, as this machine sees it."""
        if self._process is None:
            raise Unavailable("E_INTERNAL", f"host {self.name} is off", cure="power it on first")
        if not self.isolated:
            return self._process.pid
        return int(Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()[0])

    def power_on(self) -> None:
        """The host is up, without any service yet.

        Raises:
            Unavailable: its init does not start.
        """
        if not self.on:
            self.launch()
            self.wait_up()

    def launch(self) -> None:
        """Start its init without waiting for it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [*self._command(), str(theirs.fileno()), *([self.name] if self.isolated else [])],
                env=self.environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        ours.settimeout(PATIENCE_SECONDS)
        self._line = ours

    def wait_up(self) -> None:
        """Return once its init answers; see `power_on`."""
        if self._receive() != b"up":
            raise Unavailable("E_INTERNAL", f"host {self.name} does not start")

    def _command(self) -> list[str]:
        # without site-packages: it starts fast, and none of it can get in the way
        python = [sys.executable, "-I", "-S", init.__file__]
        return [*UNSHARE, "--fork", "--kill-child", *python] if self.isolated else python

    def power_off(self) -> None:
        """Afterwards no process of it is left: all are killed, and none is told before."""
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._process is not None:
            self._process.wait(PATIENCE_SECONDS)
            self._process = None

    def run(self, *command: str, log: Path) -> int:
        """Start `command` on it, its output appended to `log`; the pid as the host sees it.

        Raises:
            Unavailable: there is no such program, or the host is off.
        """
        pid = self._ask("run", str(log), *command)
        if pid < 0:
            raise Unavailable("E_INTERNAL", f"{command[0]} does not start on {self.name}: {os.strerror(-pid)}")
        return pid

    def kill(self, pid: int, sign: signal.Signals = signal.SIGKILL) -> None:
        """Send `sign` to a process that `run` has started; one that has ended stays so."""
        self._ask("kill", str(pid), str(int(sign)))

    def alive(self, pid: int) -> bool:
        """Whether a process that `run` has started is there still."""
        return self.on and bool(self._ask("kill", str(pid), "0"))

    def entered(self, *command: str) -> list[str]:
        """The command line that runs `command` there from here, as somebody who has logged in."""
        if not self.isolated:
            return list(command)
        return ["nsenter", f"--target={self.pid}", "--net", "--uts", "--pid", "--mount", "--", *command]

    def connected(self, *command: str) -> list[str]:
        """The command line that runs `command` in its network alone, so that it can be signalled from here."""
        return ["nsenter", f"--target={self.pid}", "--net", "--", *command] if self.isolated else list(command)

    def _ask(self, *request: str) -> int:
        if self._line is None:
            raise Unavailable("E_INTERNAL", f"host {self.name} is off", cure="power it on first")
        self._line.send("\0".join(request).encode())
        return int(self._receive() or b"-1")

    def _receive(self) -> bytes:
        assert self._line is not None
        try:
            return self._line.recv(64)
        except OSError as error:
            raise Unavailable("E_INTERNAL", f"host {self.name} does not answer: {error}") from error


def all_on(hosts: Sequence[Host]) -> None:
    """Power on every one, at the same time."""
    for host in hosts:
        host.launch()
    for host in hosts:
        host.wait_up()
