"""A real RabbitMQ node in a directory and on ports of its own, without a service manager.

The server is the package's own `sbin/rabbitmq-server`, not the wrapper on PATH, which insists on its system user.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pika

from pyfi_hpc.box.ports import PortLease, lease_port
from pyfi_hpc.errors import BrokerUnavailable
from pyfi_hpc.processes import alive, children, end, stall, until

VHOST = "pyfi"
USER = "pyfi"


def newest_sbin(root: Path = Path("/usr/lib/rabbitmq/lib")) -> Path:
    """The folder of the server's own scripts, of the newest version installed."""
    found = [path for path in root.glob("rabbitmq_server-*/sbin") if (path / "rabbitmq-server").exists()]
    if not found:
        raise BrokerUnavailable(
            "E_BROKER", "RabbitMQ is not installed", at=str(root), cure="apt-get install rabbitmq-server"
        )
    return max(found, key=lambda path: [int(part) for part in path.parent.name.rpartition("-")[2].split(".")])


class RabbitMQ:
    """One node with the vhost `pyfi` and one user of it; there is no guest.

    As a context manager it starts, and leaves nothing behind. `address` is where it listens; its ports of Erlang's
    own stay on the loopback. `settings` are lines of rabbitmq.conf, `consumer_timeout` is in milliseconds. With a
    `certificate` and its key it speaks TLS as well, at `tls_port`.
    """

    def __init__(
        self,
        address: str = "127.0.0.1",
        *,
        consumer_timeout: int | None = None,
        settings: Mapping[str, str] | None = None,
        plugins: Sequence[str] = (),
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self.address, self._certificate = address, certificate
        self.settings = dict(settings or {})
        if consumer_timeout is not None:
            self.settings["consumer_timeout"] = str(consumer_timeout)
        self.plugins = tuple(plugins)
        self.password = secrets.token_urlsafe(18)
        self._sbin = newest_sbin()
        self._home: Path | None = None
        self._leases: dict[str, PortLease] = {}
        self._epmd: subprocess.Popen[bytes] | None = None
        self._beam: subprocess.Popen[bytes] | None = None

    # its life

    def start(self) -> Self:
        """The node is up and its user can log in; made on the first call, the same data and ports on later ones."""
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Start the node's process without waiting for it."""
        if self._home is None:
            self._make()
        if self._epmd is None:
            # started by us: one that the node starts would stay when the node has gone
            self._epmd = self._spawn(
                _program("epmd"), "-address", "127.0.0.1", "-port", str(self._leases["epmd"].number)
            )
        if self.pid is None:
            self._beam = self._spawn(str(self._sbin / "rabbitmq-server"))

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        log: IO[bytes]
        with (self._made() / "console.log").open("ab") as log:
            return subprocess.Popen(
                command,
                env=self._environment(),
                cwd=self._made(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Return once the user can log in.

        Raises:
            BrokerUnavailable: the node ended, or was not ready in time.
        """
        if not until(lambda: self.pid is None or self._logs_in(), timeout, interval=0.1) or self.pid is None:
            last = self.console.read_text(errors="replace").strip().splitlines()[-3:]
            raise BrokerUnavailable("E_BROKER", f"RabbitMQ does not start: {' / '.join(last)}", at=str(self._home))

    def _logs_in(self) -> bool:
        # the node opens its listener last: before, the connection is refused
        try:
            pika.BlockingConnection(pika.URLParameters(f"{self.uri}?connection_attempts=1&socket_timeout=5")).close()
        except (pika.exceptions.AMQPError, OSError):
            return False
        return True

    @property
    def pid(self) -> int | None:
        """The node's own process (`beam.smp`); None when it does not run."""
        return self._beam.pid if self._beam is not None and self._beam.poll() is None else None

    def stop(self) -> None:
        """Shut the node down in order; its data stays."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the node with SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if (pid := self.pid) is not None:
            helpers = children(pid)
            self.resume()
            end(pid, how)
            until(lambda: not any(map(alive, helpers)), timeout=10)
        if self._beam is not None:
            self._beam.wait()
            self._beam = None

    def restart(self, *, kill: bool = False) -> None:
        """Stop (or kill), then start again on the same data and ports."""
        self.kill() if kill else self.stop()
        self.start()

    def suspend(self) -> None:
        """Stall the node: connections stay open, nothing answers."""
        if (pid := self.pid) is not None:
            stall(pid)

    def resume(self) -> None:
        """Let a stalled node go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, sign: signal.Signals) -> None:
        if (pid := self.pid) is not None:
            os.kill(pid, sign)

    def remove(self) -> None:
        """Afterwards no process, file or port of it is left."""
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
        for lease in self._leases.values():
            lease.release()
        if self._home is not None:
            shutil.rmtree(self._home)
        self._home = self._epmd = None
        self._leases = {}

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.remove()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()

    # how to reach it

    @property
    def port(self) -> int:
        """The AMQP port; the same over restarts."""
        self._made()
        return self._leases["amqp"].number

    @property
    def tls_port(self) -> int:
        """The port for AMQP over TLS, where there is a certificate for it."""
        self._made()
        return self._leases["amqps"].number

    @property
    def uri(self) -> str:
        """The AMQP address with user and password."""
        return f"amqp://{USER}:{self.password}@{self.address}:{self.port}/{VHOST}"

    @property
    def console(self) -> Path:
        """What the server wrote on its standard output and error; its log is beside it, in `log/`."""
        return self._made() / "console.log"

    def ctl(self, *arguments: str, tool: str = "rabbitmqctl", timeout: float = 60.0) -> str:
        """What `rabbitmqctl`, or another `tool` of the package, prints.

        Raises:
            subprocess.CalledProcessError: it failed; `stderr` says why.
        """
        done = subprocess.run(
            [str(self._sbin / tool), "--quiet", *arguments],
            env=self._environment(),
            cwd=self._made(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=True,
        )
        return done.stdout

    # how it is made

    def _made(self) -> Path:
        if self._home is None:
            raise BrokerUnavailable("E_BROKER", "the node was never started")
        return self._home

    def _make(self) -> None:
        self._home = home = Path(tempfile.mkdtemp(prefix="pyfi-rabbitmq-", dir="/tmp"))
        self._leases = {"amqp": lease_port(self.address), "dist": lease_port(), "epmd": lease_port()}
        if self._certificate is not None:
            self._leases["amqps"] = lease_port(self.address)
        (home / "rabbitmq.conf").write_text(_lines(self._configuration()))
        (home / "plugins").write_text(f"[{','.join(self.plugins)}].\n")
        (home / "definitions.json").write_text(json.dumps(definitions(self.password)))
        (home / ".erlang.cookie").write_text(secrets.token_hex(16))
        (home / ".erlang.cookie").chmod(0o400)

    def _configuration(self) -> dict[str, str]:
        own = {
            "listeners.tcp.1": f"{self.address}:{self.port}",
            "load_definitions": str(self._made() / "definitions.json"),
            "disk_free_limit.absolute": "50MB",
            "log.file.level": "warning",
        }
        return own | self._tls() | self.settings

    def _tls(self) -> dict[str, str]:
        if self._certificate is None:
            return {}
        certificate, key = map(str, self._certificate)
        return {
            "listeners.ssl.1": f"{self.address}:{self.tls_port}",
            "ssl_options.certfile": certificate,
            "ssl_options.keyfile": key,
        }

    def _environment(self) -> dict[str, str]:
        home = self._made()
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "ERL_EPMD_PORT": str(self._leases["epmd"].number),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": "pyfi@localhost",
            "RABBITMQ_DIST_PORT": str(self._leases["dist"].number),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONF_ENV_FILE": str(home / "none.conf"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "none.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_SCHEMA_DIR": str(home / "schema"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "generated"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            # the script then becomes the node instead of staying beside it
            "detached": "true",
        }


def _program(name: str) -> str:
    if (path := shutil.which(name)) is None:
        raise BrokerUnavailable("E_BROKER", f"{name} is not installed", cure="apt-get install rabbitmq-server")
    return path


def _lines(settings: Mapping[str, str]) -> str:
    return "".join(f"{name} = {value}\n" for name, value in settings.items())


def definitions(password: str) -> dict[str, Any]:
    """The vhost, its user and the rights, as RabbitMQ imports them at boot; with it no guest is made."""
    rights = {"user": USER, "vhost": VHOST, "configure": ".*", "write": ".*", "read": ".*"}
    user = {
        "name": USER,
        "password_hash": hashed(password, secrets.token_bytes(4)),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": "",
    }
    return {"vhosts": [{"name": VHOST}], "users": [user], "permissions": [rights]}


def hashed(password: str, salt: bytes) -> str:
    """RabbitMQ's form of a password; `salt` has four bytes.

    Source: https://www.rabbitmq.com/docs/passwords#computing-password-hash
    """
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
