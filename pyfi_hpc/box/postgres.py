"""Debian's PostgreSQL in a directory and on a port of its own."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg2
from psycopg2 import sql

from pyfi_hpc.box.ports import PortLease, lease_port
from pyfi_hpc.db.account import Account, server_account
from pyfi_hpc.db.server import MODEST, PostgresServer
from pyfi_hpc.errors import DatabaseUnavailable

ADMIN = "pyfi_admin"
ROLE = "pyfi"
DATABASE = "pyfi"


def newest_bin(root: Path = Path("/usr/lib/postgresql")) -> Path:
    """The folder of initdb and postgres of the newest version installed."""
    found = [folder for folder in root.glob("*/bin") if re.fullmatch(r"\d+", folder.parent.name)]
    if not found:
        raise DatabaseUnavailable(
            "E_DB_UNAVAILABLE", "PostgreSQL is not installed", at=str(root), cure="apt-get install postgresql"
        )
    return max(found, key=lambda folder: int(folder.parent.name))


class Postgres:
    """A server with a database `pyfi`, its role `pyfi` and the superuser `pyfi_admin`, over TCP with passwords.

    As a context manager it starts, and leaves nothing behind. `options` are settings of postgresql.conf.
    """

    def __init__(self, address: str = "127.0.0.1", *, options: Mapping[str, str] | None = None) -> None:
        self.address = address
        self.options = dict(options or {})
        self._passwords = {name: secrets.token_urlsafe(18) for name in (ADMIN, ROLE)}
        self._lease: PortLease | None = None
        self._server: PostgresServer | None = None
        self._home: Path | None = None

    def start(self) -> Self:
        """The server takes connections; made on the first call, the same data and port on later ones."""
        first = self._server is None
        server = self._server or self._make()
        server.start(self._options())
        if first:
            self._furnish()
        return self

    def _make(self) -> PostgresServer:
        account = server_account(("postgres", "nobody"))
        self._home = home = Path(tempfile.mkdtemp(prefix="pyfi-postgres-", dir="/tmp"))
        home.chmod(0o711)  # ours; the account passes through
        for name in ("db", "run"):
            (home / name).mkdir()
            account.own(home / name)
        (home / "pg_hba.conf").write_text("local all all scram-sha-256\nhost all all all scram-sha-256\n")
        (home / "pg_hba.conf").chmod(0o644)
        server = PostgresServer(newest_bin(), home / "db" / "data", home / "log", account)
        password = _private_file(home / "password", self._passwords[ADMIN], account)
        server.initdb(ADMIN, ["--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"])
        password.unlink()
        self._lease = lease_port(self.address)
        self._server = server
        return server

    def _options(self) -> dict[str, str]:
        own = {
            "listen_addresses": self.address,
            "port": str(self.port),
            "unix_socket_directories": str(self._made() / "run"),
            "hba_file": str(self._made() / "pg_hba.conf"),
        }
        return MODEST | own | self.options

    def _furnish(self) -> None:
        with closing(psycopg2.connect(self.uri(ADMIN, "postgres"))) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            role, database = sql.Identifier(ROLE), sql.Identifier(DATABASE)
            command = sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER PASSWORD {}")
            cursor.execute(command.format(role, sql.Literal(self._passwords[ROLE])))
            cursor.execute(sql.SQL("CREATE DATABASE {}").format(database))

    def _made(self) -> Path:
        if self._home is None:
            raise DatabaseUnavailable("E_DB_UNAVAILABLE", "the server was never started")
        return self._home

    @property
    def port(self) -> int:
        """The TCP port; the same over restarts."""
        self._made()
        assert self._lease is not None
        return self._lease.number

    @property
    def log(self) -> Path:
        """What the server says."""
        return self._made() / "log"

    @property
    def pid(self) -> int | None:
        """The postmaster; None when it does not run."""
        return self._server.pid if self._server else None

    def uri(self, role: str = ROLE, database: str = DATABASE) -> str:
        """The address with the password of `role`: "pyfi", or "pyfi_admin" for migrations."""
        return f"postgresql://{role}:{self._passwords[role]}@{self.address}:{self.port}/{database}"

    def stop(self, mode: str = "fast") -> None:
        """Afterwards the server is gone, its data stays: `smart`, `fast`, `immediate` or `kill`."""
        if self._server is not None:
            self._server.stop(mode)

    def kill9(self) -> None:
        """End the postmaster with SIGKILL; its backends follow."""
        self.stop("kill")

    def restart(self, mode: str = "fast") -> None:
        """Stop in `mode`, then start again on the same data and port."""
        self.stop(mode)
        self.start()

    def remove(self) -> None:
        """Afterwards nothing of it is left."""
        self.stop("immediate")
        if self._home is not None:
            shutil.rmtree(self._home)
        if self._lease is not None:
            self._lease.release()
        self._server = self._home = self._lease = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.remove()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()


def _private_file(path: Path, text: str, account: Account) -> Path:
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)
        if account.other:
            os.fchown(file.fileno(), account.uid, account.gid)
    return path
