"""Bad input, row by row of the project's list of it: refused with exit code 2, one line, and nothing changed.

What is typed here goes through the real command line, or the Python client, against one real embedded instance. Rows
that another test takes end to end are named in `ELSEWHERE`, and a test sees to it that those tests are there.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psycopg2
import pytest

from pyfi_hpc.brokers.base import Publication
from pyfi_hpc.cli.main import run
from pyfi_hpc.client.client import Client
from pyfi_hpc.config import Settings
from pyfi_hpc.db.embedded import EmbeddedPostgres
from pyfi_hpc.errors import BadInput, PyfiError
from pyfi_hpc.wire import values
from pyfi_hpc.wire.ids import call_digest, id_text, new_id
from pyfi_hpc.wire.messages import CONTENT_TYPE, WIRE_VERSION, Call, Message, encode
from tests.support import eventually
from tests.support_git import commit_files, git, make_repository

pytestmark = pytest.mark.slow

TASKS = """
def double(x):
    return x * 2


def other(x):
    return x


def huge(x):
    return bytes(2_000_000)
"""
ROOT = Path(__file__).parent.parent

#: Row -> the test that shows it, and a word that it must contain.
ELSEWHERE: Mapping[int, tuple[str, str]] = {
    11: ("acceptance/test_submit.py::test_bad_input_is_refused_before_anything_is_queued", "not desk.jobs()"),
    12: ("acceptance/test_submit.py::test_bad_input_is_refused_before_anything_is_queued", "not desk.jobs()"),
    34: ("services/test_rabbitmq.py::test_a_refusal_names_the_cure_and_no_password", "check()"),
    35: ("services/test_rabbitmq.py::test_a_queue_that_stands_otherwise_is_refused_by_the_argument_s_name", "E_QUEUE"),
    36: ("acceptance/test_submit.py::test_where_slurm_is_not_installed_it_is_said", "E_NO_SLURM"),
    46: ("services/test_mirror.py::test_a_link_out_of_the_repository_is_refused", "E_PATH"),
    47: ("services/test_mirror.py::test_a_repository_over_the_size_limit_is_refused_and_leaves_nothing", "E_LIMIT"),
    48: ("services/test_environments.py::test_a_build_that_loops_and_forks_is_ended_with_all_that_it_started", "fork"),
    54: ("unit/test_values_fuzz.py::test_hostile_bytes_have_their_code", "BadInput"),
    66: ("unit/test_values.py::test_inflate_stops_at_the_ratio_the_limit_and_damage", "inflate"),
    69: ("unit/test_blobs.py::test_a_content_that_is_not_what_its_name_says_is_never_given_out", "E_DIGEST"),
    79: ("services/test_schema.py::test_a_processor_goes_only_where_the_table_says", "E_BAD_TRANSITION"),
    80: ("services/test_schema.py::test_a_result_for_a_finished_invocation_is_fenced", "E_FENCED"),
}


class Place:
    """One embedded instance with a queue `q1`, a processor `p1` and its socket `p1.double`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.url, self.commit = make_repository(home / "repository", {"flow.py": TASKS, "pyproject.toml": ""})
        self.settings = Settings.load()
        self.client = Client(self.settings)
        self.client.network.add_queue(name="q1")
        self.client.network.add_processor(name="p1", gitrepo=self.url, module="flow")
        self.client.network.add_socket(name="p1.double", queue="q1", processor="p1", task="double")

    def rows(self) -> dict[str, int]:
        """How many rows there are of everything that a person makes, and how often it was changed."""
        tables = ("queue", "processor", "socket", "plug", "outcome", "hold", "event", "task_queue", "broker_message")
        with psycopg2.connect(self.client.session.database_uri) as connection, connection.cursor() as cursor:
            found = {}
            for table in tables:
                cursor.execute(f"SELECT count(*) FROM pyfi.{table} WHERE true {_QUIET.get(table, '')}")
                ((found[table],),) = cursor.fetchall()
        connection.close()
        return found


#: What the agent writes by itself meanwhile.
_QUIET = {"event": "AND name IN (SELECT name FROM pyfi.queue UNION SELECT 'p1.double') "}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("bad")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PYFI_")]:
            patch.delenv(name)
        for name, value in {"PYFI_HOME": home / "state", "PYFI_PATHS_CACHE": home / "cache", "HOME": home}.items():
            patch.setenv(name, str(value))
        patch.setenv("PYFI_GIT_ALLOW", f"file://{home} https://ok.example/good")
        patch.setenv("PYFI_AGENT_MAX_VALUE_BYTES", "1000000")
        patch.chdir(home)
        try:
            made = Place(home)
            yield made
            made.client.close()
        finally:
            run(["local", "stop"])
            EmbeddedPostgres(home / "state").remove()


Say = Callable[..., str]


@pytest.fixture
def say(place: Place, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """Type a line that is refused with a code; what was said."""

    def typed(line: str | list[str], code: str, status: int = 2) -> str:
        before = place.rows()
        with open("/dev/null") as nothing:
            monkeypatch.setattr("sys.stdin", nothing)
            got = run(shlex.split(line) if isinstance(line, str) else line)
        told = capfd.readouterr()
        assert (got, told.out) == (status, ""), told
        first, *more = told.err.splitlines()
        assert first.startswith("pyfi: ") and f"({code})" in first, told.err
        assert all(each.startswith(("  at:  ", "  try: ")) and len(each) < 420 for each in more), told.err
        assert "Traceback" not in told.err and all(char.isprintable() or char == "\n" for char in told.err)
        assert place.rows() == before
        return told.err

    return typed


ADD = "add processor -n new -m flow -g {url}"
LINES = [
    (1, "add processor -n new -m flow", "E_MISSING", "gitrepo"),
    (2, "add queue -n 'Proc 1'", "E_NAME", "Proc 1"),
    (2, "add queue -n ''", "E_NAME", "name"),
    (2, f"add queue -n {'n' * 64}", "E_NAME", "nnnn"),
    (3, "add queue -n ../x", "E_NAME", "../x"),
    (3, "add queue -n a/b", "E_NAME", "a/b"),
    (3, "add queue -n -rf", "E_NAME", "-rf"),
    (4, "add queue -n q1", "E_EXISTS", "is there already: "),
    (4, "add processor -n p1 -m flow -g {url}", "E_EXISTS", "p1"),
    (5, "add socket -n s -q q1 -pn p7 -t double", "E_NOT_FOUND", "processor 'p7'"),
    (6, "add outlet -n o -q q7 -pn p1 -t double", "E_NOT_FOUND", "queue 'q7'"),
    (6, "add plug -n o -q q7 -pn p1", "E_NOT_FOUND", "queue 'q7'"),
    (7, "add queue -n new -t fanot", "E_CHOICE", "did you mean fanout?"),
    (8, "add socket -n s -q q1 -pn p1 -t dubble", "E_TASK_NOT_FOUND", "double, other, huge"),
    (9, "add processor -n new -m os -g {url}", "E_MODULE", "os"),
    (9, "add processor -n new -m flow.more -g {url}", "E_MODULE", "flow.more"),
    (10, ADD + " --gpus -1", "E_RANGE", "--gpus -1"),
    (10, ADD + " --cpus 0", "E_RANGE", "--cpus 0"),
    (10, ADD + " --cpus 1e9", "E_RANGE", "1e9"),
    (19, "proc move p1 -h n7", "E_NODE", "no node 'n7'"),
    (19, "node drain n7", "E_NODE", "no node 'n7'"),
    (19, "node resume n7", "E_NODE", "no node 'n7'"),
    (20, "update processor p1 -rs RUNING", "E_CHOICE", "did you mean RUNNING?"),
    (22, "update queue q1 --max-length 5 --generation 77", "E_STALE", "generation 77"),
    (22, "delete queue q1 --cascade --generation 77 -y", "E_STALE", "generation 77"),
    (29, "-d mysql://ana:hunter2@h/d ls queues", "E_DB_URI", "mysql://ana:•••@h/d"),
    (31, "-d postgresql://h:0/d ls queues", "E_RANGE", "port"),
    (31, "-d postgresql://h:70000/d ls queues", "E_RANGE", "port"),
    (31, "-d postgresql://h:abc/d ls queues", "E_RANGE", "port"),
    (37, "add processor -n new -m flow -g 'ext::sh -c id'", "E_REPO_SCHEME", "ext"),
    (37, "add processor -n new -m flow -g fd::3", "E_REPO_SCHEME", "fd"),
    (38, "add processor -n new -m flow -g=--upload-pack=x", "E_REPO_URL", "--upload-pack=x"),
    (38, "add processor -n new -m flow -g=-oProxyCommand=x", "E_REPO_URL", "-oProxyCommand"),
    (39, "add processor -n new -m flow -g https://ok.example@evil.example/r", "E_REPO_DENIED", "evil.example"),
    (40, "add processor -n new -m flow -g https://ok.example/good/../bad", "E_REPO_DENIED", "bad"),
    (40, "add processor -n new -m flow -g https://ok.example/good/%2e%2e/bad", "E_REPO_DENIED", "bad"),
    (42, ADD + " -c abc123", "E_COMMIT", "abc123"),
    (42, ADD + " -c main", "E_COMMIT", "main"),
    (42, ADD + f" -c {'a' * 41}", "E_COMMIT", "aaaa"),
    (44, ADD + f" -c {'0' * 40}", "E_COMMIT_UNAVAILABLE", "0000"),
    (56, "call p1.double 1 --id x", "E_ID", "--id x"),
    (56, f"call p1.double 1 --id {uuid.UUID(int=0)}", "E_ID", "nil"),
    (56, "wait x", "E_ID", "x"),
    (77, 'add queue -n "\'; DROP TABLE x;--"', "E_NAME", "DROP TABLE"),
]


@pytest.mark.parametrize(("row", "line", "code", "word"), LINES, ids=lambda value: str(value)[:40])
def test_a_line(place: Place, say: Say, row: int, line: str, code: str, word: str) -> None:
    assert word in say(line.format(url=place.url), code)


@pytest.mark.parametrize("char", ["\n", "\x1b", "\u202e"], ids=["78 newline", "78 ESC", "78 RTL"])
def test_a_name_with_a_control_character_is_shown_escaped(say: Say, char: str) -> None:
    said = say(["add", "queue", "-n", f"a{char}b"], "E_NAME")
    assert char not in said.replace("\n", "", said.count("\n")) and "\\" in said


def test_row_41_a_password_in_an_address_is_never_echoed(say: Say) -> None:
    said = say("add processor -n new -m flow -g https://ana:hunter2@ok.example/good/r", "E_REPO_SECRET")
    assert "hunter2" not in said


def test_row_18_what_is_in_use_is_told_before_anybody_is_asked(place: Place, say: Say) -> None:
    place.client.network.add_queue(name="waits")
    place.client.network.add_processor(name="idle", gitrepo=place.url, module="flow", requested_status="STOPPED")
    place.client.network.add_socket(name="idle.other", queue="waits", processor="idle", task="other")
    futures = [place.client.submit("idle.other", number) for number in range(3)]
    assert "3 queued messages" in say("delete processor idle --cascade -y", "E_IN_USE")
    assert "1 socket" in say("delete processor idle", "E_IN_USE")
    assert "1 socket" in say("delete queue waits", "E_IN_USE")
    assert [row["cancelled"] for row in place.client.cancel(*[future.id for future in futures])] == [True] * 3
    assert "add -y" in say("delete socket p1.double", "E_CONFIRM")


def test_row_15_a_schema_is_dropped_only_by_those_who_say_so(place: Place, say: Say) -> None:
    admin = EmbeddedPostgres(place.home / "state").uri("pyfi_admin")
    said = say(f"-d {admin} db drop", "E_CONFIRM")
    assert " processor" in said and "1 live agent" in said and "add -y" in said


def test_row_21_a_processor_that_was_removed_is_not_resumed(place: Place, say: Say) -> None:
    place.client.network.add_processor(name="over", gitrepo=place.url, module="flow", requested_status="STOPPED")
    place.client.network.update_processor("over", requested_status="REMOVED")
    for verb in ("resume", "start", "pause"):
        assert "'over' is REMOVED" in say(f"proc {verb} over", "E_BAD_TRANSITION")


FILES = [
    (23, None, "E_CONFIG", "own.ini"),
    (23, b"\xff\xfe[git]\n", "E_CONFIG", "own.ini"),
    (24, b"[git]\nallow=a\n[git]\n", "E_CONFIG", "line 3"),
    (24, b"[git]\nallow=a\nallow=b\n", "E_CONFIG", "line 3"),
    (25, b"[git]\nallow=%(x)s\n", "E_CONFIG", "line 2"),
    (26, b"[git]\nalow=a\n", "E_CONFIG", "allow"),
    (31, b"[broker]\nuri=amqp://h:70000/\n", "E_RANGE", "port"),
]


@pytest.mark.parametrize(("row", "text", "code", "word"), FILES, ids=lambda value: str(value)[:30])
def test_a_settings_file(place: Place, say: Say, row: int, text: bytes | None, code: str, word: str) -> None:
    file = place.home / "own.ini"
    file.unlink(missing_ok=True)
    if text is not None:
        file.write_bytes(text)
        file.chmod(0o600)
    assert word in say(f"-i {file} ls queues", code)


def test_row_23_a_folder_is_no_settings_file(place: Place, say: Say) -> None:
    assert str(place.home) in say(f"-i {place.home} ls queues", "E_CONFIG")


def test_row_30_a_file_with_a_password_is_its_owners_alone(place: Place, say: Say) -> None:
    file = place.home / "secret.ini"
    file.write_text("[database]\nuri=postgresql://ana:hunter2@h/d\n")
    file.chmod(0o644)
    assert "hunter2" not in say(f"-i {file} ls queues", "E_CONFIG_MODE")


@pytest.mark.parametrize(
    ("version", "cure"), [("0001", "pyfi db migrate"), ("9999", "upgrade pyfi")], ids=["33 older", "33 newer"]
)
@pytest.mark.parametrize("line", ["ls queues", "call p1.double 1", "dead ls"])
def test_a_schema_that_does_not_fit(place: Place, say: Say, version: str, cure: str, line: str) -> None:
    admin = EmbeddedPostgres(place.home / "state").uri("pyfi_admin")
    change = "UPDATE pyfi.alembic_version SET version_num = %s RETURNING (SELECT version_num FROM pyfi.alembic_version)"

    def set_to(value: str) -> str:
        with psycopg2.connect(admin) as connection, connection.cursor() as cursor:
            cursor.execute(change, (value,))
            ((before,),) = cursor.fetchall()
            return str(before)

    before = set_to(version)
    try:
        assert cure in say(line, "E_SCHEMA")
    finally:
        set_to(before)


def test_row_43_a_branch_that_moved_runs_the_pinned_commit_until_an_update(place: Place) -> None:
    url, pinned = make_repository(place.home / "moving", {"flow.py": TASKS, "pyproject.toml": ""})
    network = place.client.network
    network.add_processor(name="moving", gitrepo=url, module="flow", branch="main", requested_status="STOPPED")
    moved = commit_files(place.home / "moving", {"flow.py": TASKS + "\n# moved\n"})
    assert network.show("processor", "moving")["commit"] == pinned
    assert network.update_processor("moving", workers=2)["commit"] == pinned
    assert network.update_processor("moving", branch="main")["commit"] == moved


def test_row_45_a_submodule_on_a_denied_host(place: Place, say: Say) -> None:
    url, commit = make_repository(place.home / "sub", {"flow.py": TASKS})
    (place.home / "sub" / ".gitmodules").write_text('[submodule "s"]\npath = s\nurl = https://evil.example/s\n')
    git(place.home / "sub", "update-index", "--add", "--cacheinfo", f"160000,{commit},s")
    git(place.home / "sub", "add", ".gitmodules")
    git(place.home / "sub", "commit", "-q", "-m", "A submodule")
    assert "evil.example" in say(f"add processor -n new -m flow -g {url}", "E_REPO_DENIED")


BROKEN = {
    48: ({"flow.py": TASKS, "setup.py": "raise SystemExit('no compiler \\x1b[31m')"}, "E_BUILD", "no compiler"),
    49: ({"flow.py": f"import sys\nsys.stdout.buffer.write(b'\\x1b\\xff')\nsys.exit(3)\n{TASKS}"}, "E_IMPORT", ""),
}


@pytest.mark.parametrize("row", BROKEN)
def test_code_that_cannot_be_built_or_imported_keeps_its_calls_and_says_why(
    place: Place, row: int, capfd: pytest.CaptureFixture[str]
) -> None:
    files, code, word = BROKEN[row]
    url, _ = make_repository(place.home / f"broken{row}", files)
    name = f"broken{row}"
    network = place.client.network
    network.add_processor(name=name, gitrepo=url, module="flow")
    network.add_socket(name=f"{name}.double", queue="q1", processor=name, task="double")
    eventually(lambda: network.show("processor", name)["status"] == "FAILED", timeout=90, interval=0.2)
    reason = network.show("processor", name)["reason"]
    assert reason["code"] == code and word in str(reason) and "\x1b" not in str(reason.values())
    assert row != 48 or ("\n" in reason["log"] and "\\n" not in reason["log"])
    assert run(["call", f"{name}.double", "1", "--timeout", "2"]) == 4
    said = capfd.readouterr().err
    assert f"processor {name} is FAILED ({code})" in said and f"pyfi show processor {name}" in said
    assert run(["proc", "stop", name]) == 0


def test_a_package_that_is_missing_is_named_with_what_brings_it(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    url, _ = make_repository(place.home / "lacking", {"flow.py": f"import numpie.linalg\n{TASKS}"})
    network = place.client.network
    network.add_processor(name="lacking", gitrepo=url, module="flow")
    network.add_socket(name="lacking.double", queue="q1", processor="lacking", task="double")
    cure = "pyfi update processor lacking -rq numpie"
    eventually(lambda: cure in str(network.show("processor", "lacking")["reason"]), timeout=90, interval=0.2)

    def told_while_waiting() -> bool:
        # it is tried again now and then, and has no reason meanwhile
        return run(["call", "lacking.double", "1", "--timeout", "2"]) == 4 and cure in capfd.readouterr().err

    eventually(told_while_waiting, timeout=90)
    assert run(["proc", "stop", "lacking"]) == 0


class Fit:
    """Holds what cannot be sent."""

    def __init__(self, f: object) -> None:
        self.f = f


VALUES: list[tuple[int, Any, str, str]] = [
    (51, [lambda: 0], "E_TYPE", "args[0][0]"),
    (51, sys.stdin, "E_TYPE", "args[0]"),
    (52, 2**64, "E_RANGE", "args[0]"),
    (53, np.array([None]), "E_DTYPE", "args[0]"),
    (53, np.zeros(2, "f8,O"), "E_DTYPE", "args[0]"),
]


@pytest.mark.parametrize(("row", "value", "code", "path"), VALUES, ids=lambda value: str(value)[:20])
def test_an_argument_that_cannot_be_sent(place: Place, row: int, value: object, code: str, path: str) -> None:
    before = place.rows()
    with pytest.raises(BadInput) as caught:
        place.client.submit("p1.double", value)
    assert (caught.value.code, caught.value.facts["field"]) == (code, path)
    assert place.rows() == before


def test_row_55_an_id_that_another_call_has(place: Place, say: Say) -> None:
    ident = "0192f3c1-0000-7000-8000-00000000f655"
    before = place.rows()
    assert place.client.submit("p1.double", 4, id=ident).result(120) == 8
    # its message is acked a moment after its outcome is told
    eventually(lambda: place.rows() == {**before, "outcome": before["outcome"] + 1}, timeout=60)
    assert ident in say(f"call p1.double 5 --id {ident}", "E_ID_CONFLICT")


def good(place: Place, **changed: Any) -> Message:
    """A message for `p1.double`, as a client would send it but for what is changed."""
    info = place.client.session.way("p1.double").socket
    data = values.encode_arguments((1,), {})
    call = Call(new_id(), data, call_digest(info.id, data))
    usual = Message(WIRE_VERSION, new_id(), place.client.session.owner, info.id, info.generation, (call,))
    return msgspec.structs.replace(usual, **changed)


def cut(place: Place) -> bytes:
    return encode(good(place))[:-3]


def swollen(place: Place) -> bytes:
    """The calls' array says that it has 2**32 - 1 members."""
    return encode(good(place)).replace(b"\x91\x96", b"\xdd\xff\xff\xff\xff\x96", 1)


def deep(place: Place) -> bytes:
    return b"\x96" + bytes([WIRE_VERSION]) + b"\x91" * 100_000


def renewed(place: Place) -> bytes:
    return bytes([encode(good(place))[0], 99]) + encode(good(place))[2:]


def more(place: Place) -> bytes:
    return bytes([encode(good(place))[0] + 1]) + encode(good(place))[1:] + b"\x01"


def pickled(place: Place) -> bytes:
    return pickle_bytes(place.home / "loaded")


def pickle_bytes(file: Path) -> bytes:
    """What `pickle` would make of an object whose loading makes `file`: written by hand, nothing here pickles."""
    return f"cposix\nsystem\n(S'touch {file}'\ntR.".encode()


#: Row, body, content type, the code under which it is kept.
WIRE: list[tuple[int, Callable[[Place], bytes], str, str]] = [
    (57, lambda place: b"", CONTENT_TYPE, "E_DECODE"),
    (57, cut, CONTENT_TYPE, "E_DECODE"),
    (58, swollen, CONTENT_TYPE, "E_DECODE"),
    (59, deep, CONTENT_TYPE, "E_"),
    (60, more, CONTENT_TYPE, "E_FIELD"),
    (61, lambda place: encode(good(place)) + b"\x00", CONTENT_TYPE, "E_DECODE"),
    (61, lambda place: encode(good(place, owner="abc")).replace(b"abc", b"\xff\xfe\xfd"), CONTENT_TYPE, "E_DECODE"),
    (62, pickled, CONTENT_TYPE, "E_"),
    (62, lambda place: encode(good(place)), "application/x-python-serialize", "E_CONTENT_TYPE"),
    (63, renewed, CONTENT_TYPE, "E_WIRE_VERSION"),
    (64, lambda place: encode(good(place, owner="somebody")), CONTENT_TYPE, "E_OWNER"),
]


@pytest.mark.parametrize(("row", "made", "kind", "code"), WIRE, ids=[f"{row}-{code}" for row, _, _, code in WIRE])
def test_a_message_that_cannot_be_taken_is_kept_whole_with_its_reason(
    place: Place, row: int, made: Callable[[Place], bytes], kind: str, code: str
) -> None:
    body, info = made(place), place.client.session.way("p1.double").socket
    before = place.rows()
    place.client.session.broker.publish(Publication(info.exchange, info.key, body, uuid.uuid4().hex, kind)).result(30)

    def kept() -> list[tuple[str, str]]:
        with psycopg2.connect(place.client.session.database_uri) as connection, connection.cursor() as cursor:
            cursor.execute("DELETE FROM pyfi.quarantine WHERE body = %s RETURNING reason, detail", (body,))
            return list(cursor.fetchall())

    ((reason, detail),) = eventually(kept, timeout=60)
    assert code in f"{reason} {detail}"
    assert "\n" not in detail and len(detail) < 600
    assert not (place.home / "loaded").exists()
    eventually(lambda: place.rows() == before)
    assert place.client.call("p1.double", 21, timeout=60) == 42


def test_row_65_a_call_of_a_socket_that_is_gone_is_dead_with_the_reason(place: Place) -> None:
    info, message = place.client.session.way("p1.double").socket, good(place, socket=new_id())
    body = encode(message)
    place.client.session.broker.publish(Publication(info.exchange, info.key, body, uuid.uuid4().hex)).result(30)
    ident = id_text(message.calls[0].id)
    record = eventually(lambda: [row for row in place.client.operations.dead() if row["id"] == ident], timeout=60)
    assert record[0]["code"] == "E_UNKNOWN_SOCKET"
    place.client.operations.drop([ident])


def test_row_70_a_result_over_the_quota_fails_at_once(place: Place) -> None:
    place.client.network.add_socket(name="p1.huge", queue="q1", processor="p1", task="huge")
    future = place.client.submit("p1.huge", 1)
    with pytest.raises(PyfiError) as caught:
        future.result(120)
    record = place.client.operations.invocation(future.id)
    assert (caught.value.code, record["outcome"], record["serial"]) == ("E_LIMIT", "FAILED", 1)


def test_row_78_no_program_takes_a_name_with_a_nul(place: Place) -> None:
    before = place.rows()
    with pytest.raises(BadInput) as caught:
        place.client.network.add_queue(name="a\0b")
    assert caught.value.code == "E_NAME" and "\0" not in str(caught.value)
    with pytest.raises(ValueError, match="null byte"):
        subprocess.run([sys.executable, "-m", "pyfi_hpc", "add", "queue", "-n", "a\0b"], check=False)
    assert place.rows() == before


@pytest.mark.parametrize("row", ELSEWHERE)
def test_the_rest_is_shown_elsewhere(row: int) -> None:
    where, word = ELSEWHERE[row]
    file, _, name = where.partition("::")
    text = (ROOT / file).read_text()
    assert f"def {name}(" in text and word in text


def test_every_row_has_its_test() -> None:
    wanted = {*range(1, 13), 15, *range(18, 27), 29, 30, 31, *range(33, 50), *range(51, 67)}
    wanted |= {69, 70, *range(77, 81)}
    here = Path(__file__).read_text()
    named = (
        {row for row, *_ in (*LINES, *FILES, *VALUES)} | set(ELSEWHERE) | {row for row, *_ in WIRE} | set(BROKEN) | {33}
    )
    named |= {row for row in wanted if f"def test_row_{row}_" in here}
    assert wanted - named == set()
