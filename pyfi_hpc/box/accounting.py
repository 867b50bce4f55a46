"""Accounting of a Slurm in a box: a MariaDB of its own, slurmdbd on it, and an account with two QOS."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyfi_hpc.box.programs import program
from pyfi_hpc.errors import Unavailable

#: The account that everybody's jobs are charged to.
ACCOUNT = "lab"
#: Who runs MariaDB where we are root. Source: Debian's mariadb-server.
SERVER_USER = "mysql"


@dataclass
class Database:
    """MariaDB in `folder`, on a port of the controller's loopback; the database `slurm_acct` is the user `slurm`'s."""

    folder: Path
    port: int
    password: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)

    @property
    def socket(self) -> Path:
        """Where its root comes in, without a password."""
        return self.folder / "socket"

    def make(self) -> None:
        """Its data folder is there, and belongs to who runs it."""
        self.folder.mkdir(mode=0o711)
        if not os.geteuid():
            shutil.chown(self.folder, SERVER_USER)
        install = program("mariadb-install-db")
        options = ["--auth-root-authentication-method=normal", "--skip-test-db", f"--datadir={self.folder}/data"]
        _checked([install, "--no-defaults", *self._as_user(), *options])

    def command(self) -> list[str]:
        """How to start it."""
        return [
            program("mariadbd"),
            "--no-defaults",
            *self._as_user(),
            f"--datadir={self.folder}/data",
            f"--socket={self.socket}",
            f"--pid-file={self.folder}/pid",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-log-bin",
            # what an accounting for tests may lose with the machine's power
            "--innodb-flush-log-at-trx-commit=0",
            # slurmdbd asks for these
            "--innodb-buffer-pool-size=128M",
            "--innodb-lock-wait-timeout=900",
        ]

    def _as_user(self) -> list[str]:
        return [] if os.geteuid() else [f"--user={SERVER_USER}"]

    def answers(self) -> bool:
        """Whether it takes connections."""
        if not self.socket.exists():
            return False
        return not subprocess.run([*self._client(), "--execute=SELECT 1"], capture_output=True).returncode

    def _client(self) -> list[str]:
        return [program("mariadb"), "--no-defaults", f"--socket={self.socket}", "--user=root"]

    def furnish(self) -> None:
        """slurmdbd can log in."""
        made = [
            "CREATE DATABASE IF NOT EXISTS slurm_acct",
            f"CREATE USER IF NOT EXISTS slurm@'127.0.0.1' IDENTIFIED BY '{self.password}'",
            "GRANT ALL ON slurm_acct.* TO slurm@'127.0.0.1'",
        ]
        _checked(self._client(), ";\n".join(made) + ";\n")


def definitions(cluster: str, user: str) -> Sequence[str]:
    """Lines for sacctmgr: one account, one person, `high` over `normal`. Source: sacctmgr(1)."""
    return [
        f"add cluster {cluster}",
        "add qos high priority=1000 preempt=normal",
        f"add account {ACCOUNT} cluster={cluster} description={ACCOUNT} organization={ACCOUNT}"
        " qos=normal,high defaultqos=normal",
        *user_definition(cluster, user),
    ]


def user_definition(cluster: str, user: str) -> Sequence[str]:
    """Lines for sacctmgr that let `user` submit."""
    lines = [f"add user {user} account={ACCOUNT} cluster={cluster}"]
    # root has Slurm's own account from the start
    own = [f"modify user {user} where cluster={cluster} set defaultaccount={ACCOUNT}"] if user == "root" else []
    return lines + own


def _checked(command: Sequence[str], text: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd="/")
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise Unavailable("E_SLURM", f"{Path(command[0]).name} failed: {' / '.join(last)}")
