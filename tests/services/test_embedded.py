"""The embedded Postgres: one per state directory, whoever asks, and nothing outside of our folders is touched."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import msgspec
import psycopg2
import pytest

from pyfi_hpc.db.embedded import SOCKET_DIR_LIMIT, EmbeddedPostgres, Place
from pyfi_hpc.errors import DatabaseUnavailable
from pyfi_hpc.processes import alive
from tests.support import eventually


def ask(server: EmbeddedPostgres, question: str, role: str = "pyfi") -> tuple[object, ...] | None:
    with closing(psycopg2.connect(server.uri(role))) as connection, connection, connection.cursor() as cursor:
        cursor.execute(question)
        return cursor.fetchone() if cursor.description else None


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    """A state directory; what a test starts there is removed."""
    yield tmp_path / "state"
    EmbeddedPostgres(tmp_path / "state").remove()


def test_it_keeps_every_commit_and_listens_on_no_port(embedded_postgres: EmbeddedPostgres) -> None:
    settings = "fsync", "full_page_writes", "synchronous_commit", "listen_addresses"
    shown = ", ".join(f"current_setting('{name}')" for name in settings)
    assert ask(embedded_postgres, f"SELECT {shown}") == ("on", "on", "on", "")


def test_the_ordinary_role_is_no_superuser_and_the_admin_is(embedded_postgres: EmbeddedPostgres) -> None:
    question = "SELECT current_user, current_database(), rolsuper FROM pg_roles WHERE rolname = current_user"
    assert ask(embedded_postgres, question) == ("pyfi", "pyfi", False)
    assert ask(embedded_postgres, question, "pyfi_admin") == ("pyfi_admin", "pyfi", True)


def test_only_its_user_enters_the_socket_folder(embedded_postgres: EmbeddedPostgres) -> None:
    found = embedded_postgres.socket_dir.stat()
    assert stat.S_IMODE(found.st_mode) == 0o700
    assert len(os.fsencode(embedded_postgres.socket_dir)) <= SOCKET_DIR_LIMIT
    pid = embedded_postgres.pid
    assert pid is not None
    assert Path(f"/proc/{pid}").stat().st_uid == found.st_uid
    assert (found.st_uid == 0) is False


def test_many_who_ask_at_once_get_one_server(state_dir: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        servers = list(pool.map(EmbeddedPostgres.start, [state_dir] * 8))
    assert len({server.pid for server in servers}) == 1
    assert {ask(server, "SELECT 1") for server in servers} == {(1,)}


def test_it_outlives_the_program_that_started_it_and_another_stops_it(state_dir: Path) -> None:
    program = "import sys, pathlib; from pyfi_hpc.db.embedded import *; "
    program += "print(EmbeddedPostgres.start(pathlib.Path(sys.argv[1])).pid)"
    done = subprocess.run([sys.executable, "-c", program, str(state_dir)], capture_output=True, text=True, check=True)
    server = EmbeddedPostgres(state_dir)
    assert server.pid == int(done.stdout)

    server.stop()

    assert not alive(int(done.stdout))
    assert not server.running()


def test_what_was_committed_is_there_after_a_kill(state_dir: Path) -> None:
    server = EmbeddedPostgres.start(state_dir)
    ask(server, "CREATE TABLE kept AS SELECT 42 AS value", "pyfi_admin")
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not server.running())

    again = EmbeddedPostgres.start(state_dir)

    assert again.pid != pid
    assert ask(again, "SELECT value FROM kept", "pyfi_admin") == (42,)


def test_two_state_directories_are_two_servers(state_dir: Path, embedded_postgres: EmbeddedPostgres) -> None:
    other = EmbeddedPostgres.start(state_dir)
    ask(other, "CREATE TABLE here_only ()", "pyfi_admin")
    assert ask(embedded_postgres, "SELECT to_regclass('here_only')") == (None,)


def test_a_long_or_odd_state_directory_gets_a_short_socket_folder(tmp_path: Path) -> None:
    state_dir = tmp_path / ("a folder, with \"quotes\" and 'more' $HOME " + "x" * 90)
    server = EmbeddedPostgres.start(state_dir)
    try:
        assert ask(server, "SELECT 1") == (1,)
        socket_dir = server.socket_dir
    finally:
        server.remove()
    assert not socket_dir.exists()


def test_a_socket_folder_that_was_cleaned_away_is_made_again(state_dir: Path) -> None:
    server = EmbeddedPostgres.start(state_dir)
    (server.socket_dir / ".s.PGSQL.5432").unlink()
    (server.socket_dir / ".s.PGSQL.5432.lock").unlink()
    server.socket_dir.rmdir()
    assert ask(EmbeddedPostgres.start(state_dir), "SELECT 1") == (1,)


def test_permissions_of_folders_that_were_there_stay(tmp_path: Path) -> None:
    above = [tmp_path, *tmp_path.parents]
    before = [(path.stat().st_mode, path.stat().st_uid) for path in above]
    server = EmbeddedPostgres.start(tmp_path / "state")
    try:
        assert [(path.stat().st_mode, path.stat().st_uid) for path in above] == before
    finally:
        server.remove()


def test_nothing_is_left_after_remove(tmp_path: Path) -> None:
    server = EmbeddedPostgres.start(tmp_path / "state")
    pid, folders = server.pid, [server.socket_dir, server.log.parent]
    assert all(folder.is_dir() for folder in folders)
    server.remove()
    assert pid is not None and not alive(pid)
    assert not any(folder.exists() for folder in folders)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["postgres.lock"]


def test_a_server_of_another_machine_is_left_alone(state_dir: Path) -> None:
    server = EmbeddedPostgres.start(state_dir)
    record = state_dir / "postgres.json"
    mine = record.read_bytes()
    place = msgspec.json.decode(mine, type=Place)
    record.write_bytes(msgspec.json.encode(msgspec.structs.replace(place, host="elsewhere")))

    with pytest.raises(DatabaseUnavailable, match="runs on elsewhere"):
        EmbeddedPostgres.start(state_dir)

    record.write_bytes(mine)
    assert server.running()


def test_a_server_that_does_not_start_says_why(state_dir: Path) -> None:
    server = EmbeddedPostgres.start(state_dir)
    server.stop()
    control = server.log.parent / "db" / "data" / "global" / "pg_control"
    control.unlink()
    with pytest.raises(DatabaseUnavailable, match="pg_control"):
        EmbeddedPostgres.start(state_dir)
