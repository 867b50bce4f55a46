"""`pyfi local`: one background service for each state directory, which comes when needed and goes when not."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pyfi_hpc import local
from pyfi_hpc.cli.main import run
from pyfi_hpc.config import Settings
from pyfi_hpc.db.embedded import EmbeddedPostgres
from pyfi_hpc.errors import BadInput, Unavailable
from pyfi_hpc.local import control
from pyfi_hpc.processes import alive, arguments, children
from tests.support import eventually

Make = Callable[..., Settings]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Settings of embedded mode with a state directory of the test's own; what runs there is stopped."""
    made: list[Settings] = []

    def settings(name: str = "state", **agent: Any) -> Settings:
        plain = Settings()
        paths = replace(plain.paths, state=tmp_path / name, cache=tmp_path / "cache")
        made.append(replace(plain, paths=paths, agent=replace(plain.agent, **agent)))
        return made[-1]

    yield settings
    for each in made:
        local.stop(each)
        EmbeddedPostgres(each.state_dir).remove()


def ask(uri: str, question: str) -> Any:
    """The first row of the answer."""
    with closing(psycopg2.connect(uri, application_name="a test")) as connection, connection.cursor() as cursor:
        cursor.execute(question)
        return cursor.fetchone()


def agent_of(uri: str) -> int:
    """The pid of the live agent, once it has registered."""
    question = "SELECT pid FROM pyfi.agent WHERE ended IS NULL"
    row: tuple[int] = eventually(lambda: ask(uri, question), timeout=20)
    return row[0]


def tree(pid: int) -> set[int]:
    """`pid` and all that it started."""
    return {pid}.union(*map(tree, children(pid)))


def test_the_first_use_starts_it_and_says_so_the_second_finds_it(
    make: Make, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "AGENT_SECONDS", 60.0)
    settings = make()
    uri = local.ensure(settings)
    said = capfd.readouterr().err
    first_line, second_line = said.splitlines()
    assert first_line == f"pyfi: starting the local service in {settings.state_dir} …"
    assert second_line.startswith("pyfi: started (Postgres, agent on ")
    assert second_line.endswith("; it ends after 30 idle minutes · pyfi local stop")
    # it is true: one has registered
    assert ask(uri, "SELECT count(*) FROM pyfi.agent WHERE ended IS NULL") == (1,)
    assert stat.S_IMODE(settings.state_dir.stat().st_mode) == 0o700
    first = local.status(settings)

    assert local.ensure(settings) == uri
    assert capfd.readouterr().err == ""
    assert local.status(settings) == first
    assert local.start(settings) is False


def test_an_agent_that_does_not_come_up_is_missed_at_the_start(
    make: Make, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make(network="nowhere")
    monkeypatch.setattr(control, "AGENT_SECONDS", 0.5)
    local.ensure(settings)
    _, started, missing = capfd.readouterr().err.splitlines()
    assert started == "pyfi: started (Postgres); it ends after 30 idle minutes · pyfi local stop"
    log = local.status(settings)["log"]
    assert missing == f"pyfi: no agent has come up in 0.5 s: calls wait until one does · tail {log}"
    # where it says why
    eventually(lambda: "nowhere" in Path(log).read_text())


def test_workers_may_share_cores_on_a_laptop(make: Make) -> None:
    uri = local.ensure(make())
    agent_of(uri)
    assert ask(uri, "SELECT shared_cores, status FROM pyfi.node") == (True, "UP")


def test_nothing_listens_on_a_port(make: Make) -> None:
    settings = make()
    agent_of(local.ensure(settings))
    postgres = EmbeddedPostgres(settings.state_dir).pid
    assert postgres is not None
    ours = tree(local.status(settings)["pid"]) | tree(postgres)
    links = {link for pid in ours for link in _links(pid)}
    assert any(link.startswith("socket:") for link in links)
    assert not links & listening()


def _links(pid: int) -> set[str]:
    """What the files of `pid` are; a process or a file may be gone by now."""
    found = set()
    with suppress(FileNotFoundError):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.add(os.readlink(file))
    return found


def listening() -> set[str]:
    """Every TCP socket that listens, as `socket:[inode]`. Source: proc(5), net/tcp; 0A is TCP_LISTEN."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}


def test_many_who_start_it_at_once_get_one(make: Make) -> None:
    settings = make()
    with ThreadPoolExecutor(4) as pool:
        uris = set(pool.map(local.ensure, [settings] * 4))
    assert len(uris) == 1
    assert agent_of(uris.pop())


def test_two_state_directories_never_meet(make: Make) -> None:
    one, other = make("one"), make("other")
    assert local.ensure(one) != local.ensure(other)
    assert agent_of(local.ensure(one)) != agent_of(local.ensure(other))
    local.stop(one)
    assert local.status(one)["running"] is False
    assert local.status(other)["running"] is True


def test_stop_ends_everything(make: Make) -> None:
    settings = make()
    uri = local.ensure(settings)
    agent = agent_of(uri)
    postgres = EmbeddedPostgres(settings.state_dir)
    server, sockets = postgres.pid, postgres.socket_dir
    assert server is not None
    ours = tree(local.status(settings)["pid"])
    assert agent in ours

    assert local.stop(settings) is True

    assert not any(map(alive, [*ours, server]))
    assert not list(sockets.glob(".s.PGSQL*"))
    assert local.status(settings) == {"running": False, "state_dir": str(settings.state_dir)}
    assert local.stop(settings) is False


def test_after_a_kill_the_next_use_starts_it_again_with_what_was_stored(make: Make) -> None:
    settings = make()
    uri = local.ensure(settings)
    agent = agent_of(uri)
    with closing(psycopg2.connect(uri)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO pyfi.network (name) VALUES ('kept')")
    before = local.status(settings)["pid"]

    os.kill(before, signal.SIGKILL)
    eventually(lambda: not alive(agent))

    again = local.ensure(settings)
    assert local.status(settings)["pid"] != before
    assert ask(again, "SELECT name FROM pyfi.network WHERE name = 'kept'") == ("kept",)
    eventually(lambda: agent_of(again) not in (0, agent) and alive(agent_of(again)), timeout=20)


def test_it_starts_what_died_under_it(make: Make) -> None:
    settings = make()
    uri = local.ensure(settings)
    agent = agent_of(uri)
    server = EmbeddedPostgres(settings.state_dir).pid
    assert server is not None

    os.kill(server, signal.SIGKILL)
    eventually(lambda: EmbeddedPostgres(settings.state_dir).pid not in (None, server), timeout=20)
    os.kill(agent, signal.SIGKILL)

    def served() -> bool:
        try:
            pid = agent_of(uri)
        except psycopg2.OperationalError:
            return False
        return pid != agent and alive(pid) and "pyfi_hpc.agent.main" in arguments(pid)

    eventually(served, timeout=20)


def test_it_ends_by_itself_when_nobody_needs_it_and_stays_while_somebody_does(make: Make) -> None:
    settings = make(idle_minutes=0.05)
    uri = local.ensure(settings)
    pid = local.status(settings)["pid"]
    with closing(psycopg2.connect(uri, application_name="a client")) as connection, connection.cursor() as cursor:
        # three times its idle time, with somebody connected
        cursor.execute("SELECT pg_sleep(9)")
        assert alive(pid)

    eventually(lambda: not alive(pid), timeout=30)
    assert EmbeddedPostgres(settings.state_dir).running() is False


def test_a_start_that_fails_says_why(make: Make) -> None:
    settings = make()
    local.ensure(settings)
    local.stop(settings)
    (EmbeddedPostgres(settings.state_dir).log.parent / "db" / "data" / "global" / "pg_control").unlink()
    with pytest.raises(Unavailable, match="pg_control") as refused:
        local.ensure(settings)
    assert refused.value.code == "E_DB_UNAVAILABLE"
    assert str(settings.state_dir) in str(refused.value)


def test_a_setting_that_the_service_refuses_is_named_as_what_it_is(make: Make) -> None:
    with pytest.raises(BadInput, match="does not start: this process may not use core 9999") as refused:
        local.ensure(make(cores="9999"))
    assert (refused.value.code, refused.value.at) == ("E_RANGE", "agent.cores 9999")


def test_a_new_setting_says_that_a_service_which_runs_has_read_the_old_one(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = make()
    monkeypatch.setenv("PYFI_HOME", str(settings.state_dir))
    monkeypatch.setenv("PYFI_INI", "")
    words = ["config", "set", "--file", str(tmp_path / "mine.ini"), "agent.idle_minutes", "5"]
    assert run(words) == 0 and "pyfi local stop" not in capfd.readouterr().err
    local.ensure(settings)
    assert run(words) == 0 and "pyfi local stop" in capfd.readouterr().err
    assert run([*words[:-2], "client.connect_seconds", "5"]) == 0 and "pyfi local stop" not in capfd.readouterr().err


def test_a_state_directory_that_cannot_be_made_is_named(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="the state directory cannot be made: not a directory") as refused:
        local.ensure(make("file/state"))
    assert refused.value.code == "E_CONFIG"
    # a long value is cut at 80 characters
    assert str(tmp_path / "file" / "state")[:70] in str(refused.value)
