"""One commit of a repository: resolved, fetched, judged, exported; against real git and a real git daemon."""

import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pyfi_hpc.envs import tree
from pyfi_hpc.envs.mirror import Mirror, pinned, references, resolve
from pyfi_hpc.errors import BadInput, Fault, PyfiError, Unavailable
from tests.support_git import commit_files, git, make_repository

FILES = {"tasks.py": "def square(x):\n    return x * x\n", "data/text.txt": "one\r\ntwo\n"}


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    return Mirror(tmp_path / "cache", time_limit=30)


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, str, str]:
    url, commit = make_repository(tmp_path / "repository", FILES)
    return tmp_path / "repository", url, commit


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def listening(port: int) -> None:
    """Wait until something answers at `port`."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens at {port}")


@contextmanager
def daemon(base: Path, port: int) -> Iterator[str]:
    """A git daemon that serves what is below `base`; its address."""
    command = [
        "git",
        "daemon",
        "--reuseaddr",
        "--export-all",
        f"--base-path={base}",
        "--listen=127.0.0.1",
        f"--port={port}",
        str(base),
    ]
    process = subprocess.Popen([*command], start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        listening(port)
        yield f"git://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def test_head_a_branch_and_a_tag_resolve_to_their_commit(repository: tuple[Path, str, str]) -> None:
    path, url, first = repository
    git(path, "tag", "-a", "v1", "-m", "the first")
    second = commit_files(path, {"tasks.py": "x = 1\n"})
    git(path, "branch", "feature/x", first)
    assert [resolve(url, name) for name in (None, "main", "feature/x", "v1")] == [second, second, first, first]
    assert resolve(url, first.upper()) == first


@pytest.mark.parametrize("revision", ["absent", "HEAD~1", "--upload-pack=id", "../x"])
def test_an_unknown_revision_is_refused(repository: tuple[Path, str, str], revision: str) -> None:
    with pytest.raises(BadInput) as caught:
        resolve(repository[1], revision)
    assert (caught.value.code, "main" in str(caught.value)) == ("E_COMMIT", True)


def test_a_short_hash_is_refused_and_the_full_one_is_shown(repository: tuple[Path, str, str]) -> None:
    _, url, commit = repository
    with pytest.raises(BadInput) as caught:
        resolve(url, commit[:7])
    assert (caught.value.code, caught.value.cure) == ("E_COMMIT", f"give the full hash: -c {commit}")


@pytest.mark.parametrize("commit", ["abc123", "main", "v1.0", "a" * 41, "g" * 40, ""])
def test_only_a_full_hash_pins(commit: str) -> None:
    with pytest.raises(BadInput) as caught:
        pinned(commit)
    assert caught.value.code == "E_COMMIT"


def test_the_export_is_the_commit_byte_by_byte_and_stays_when_the_branch_moves(
    mirror: Mirror, repository: tuple[Path, str, str], tmp_path: Path
) -> None:
    path, url, first = repository
    (path / "run.sh").write_text("#!/bin/sh\n")
    (path / "run.sh").chmod(0o755)
    (path / "link").symlink_to("data/text.txt")
    commit = commit_files(
        path, {".gitattributes": "*.txt text eol=lf export-ignore\nrun.sh export-subst filter=evil\n"}
    )
    git(path, "config", "filter.evil.smudge", "touch evil")
    commit_files(path, {"tasks.py": "moved = True\n"})
    mirror.export(url, commit, tmp_path / "out")
    out = tmp_path / "out"
    assert (out / "tasks.py").read_text() == FILES["tasks.py"]
    assert (out / "data/text.txt").read_bytes() == git(
        path, "cat-file", "blob", f"{commit}:data/text.txt"
    ).encode() + b"\n"
    assert (os.readlink(out / "link"), os.access(out / "run.sh", os.X_OK)) == ("data/text.txt", True)
    assert sorted(name.name for name in out.iterdir()) == [".gitattributes", "data", "link", "run.sh", "tasks.py"]
    assert first != commit


def test_an_older_commit_is_fetched_with_the_history_that_shows_where_it_is(
    mirror: Mirror, repository: tuple[Path, str, str], tmp_path: Path
) -> None:
    path, url, first = repository
    tip = commit_files(path, {"more.py": ""})
    mirror.fetch(url, tip)
    mirror.export(url, first, tmp_path / "out")
    assert not (tmp_path / "out" / "more.py").exists()


def test_only_what_is_needed_is_fetched_for_a_branch_tip(mirror: Mirror, repository: tuple[Path, str, str]) -> None:
    path, url, first = repository
    bare = mirror.fetch(url, commit_files(path, {"more.py": ""}))
    assert subprocess.run(["git", "--git-dir", bare, "cat-file", "-e", first], capture_output=True).returncode != 0


@pytest.mark.parametrize("kind", ["absent", "dangling"])
def test_a_commit_on_no_branch_is_unavailable(mirror: Mirror, repository: tuple[Path, str, str], kind: str) -> None:
    path, url, _ = repository
    dangling = commit_files(path, {"secret.py": ""})
    git(path, "reset", "-q", "--hard", "HEAD~1")
    with pytest.raises(BadInput) as caught:
        mirror.fetch(url, dangling if kind == "dangling" else "f" * 40)
    assert (caught.value.code, caught.value.facts.get("retry")) == ("E_COMMIT_UNAVAILABLE", None)


def test_a_host_that_is_down_may_be_tried_again_and_a_fetched_commit_needs_no_host(
    mirror: Mirror, repository: tuple[Path, str, str]
) -> None:
    path, _, commit = repository
    port = free_port()
    with daemon(path.parent, port) as host:
        url = f"{host}/repository"
        assert resolve(url, "main") == commit
        mirror.fetch(url, commit)
        later = commit_files(path, {"later.py": ""})
    assert mirror.fetch(url, commit).is_dir()
    for act in (lambda: mirror.fetch(url, later), lambda: resolve(url, None)):
        with pytest.raises(Unavailable) as caught:
            act()
        assert (caught.value.code, caught.value.facts["retry"]) == ("E_COMMIT_UNAVAILABLE", True)
    with daemon(path.parent, port):
        assert mirror.fetch(url, later).is_dir()


def test_an_address_without_a_repository_says_so(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with pytest.raises(BadInput) as caught:
        resolve(f"file://{tmp_path}/plain", None)
    assert caught.value.code == "E_REPO_URL"


def test_a_repository_over_the_size_limit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(2_000_000).hex()
    url, commit = make_repository(tmp_path / "big", {"noise.txt": noise})
    small = Mirror(tmp_path / "cache", max_bytes=500_000, time_limit=30)
    with pytest.raises(BadInput) as caught:
        small.fetch(url, commit)
    assert caught.value.code == "E_LIMIT"
    assert sum(file.stat().st_size for file in tmp_path.glob("cache/**/*") if file.is_file()) < 100_000


def test_files_that_unpack_over_the_size_limit_are_refused(tmp_path: Path) -> None:
    url, commit = make_repository(tmp_path / "bomb", {"zeros.txt": "0" * 3_000_000})
    with pytest.raises(BadInput) as caught:
        Mirror(tmp_path / "cache", max_bytes=1_000_000).fetch(url, commit)
    assert (caught.value.code, caught.value.facts["field"]) == ("E_LIMIT", "size")


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "data/../../outside", "deep/.."])
def test_a_link_out_of_the_repository_is_refused(
    mirror: Mirror, repository: tuple[Path, str, str], target: str
) -> None:
    path, url, _ = repository
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "b" / "root").symlink_to("../..")
    (path / "deep").symlink_to("a/b/root")
    (path / "link").symlink_to(target)
    with pytest.raises(BadInput) as caught:
        mirror.fetch(url, commit_files(path, {"a/b/file": ""}))
    assert caught.value.code == "E_PATH"


@pytest.mark.parametrize("name", ["..", ".git", ".GIT", "tasks.py"])
def test_a_hostile_tree_is_refused(mirror: Mirror, repository: tuple[Path, str, str], name: str) -> None:
    path, url, _ = repository
    inner = git(path, "rev-parse", "HEAD^{tree}")
    blob = git(path, "rev-parse", "HEAD:tasks.py")
    rows = [b"40000 " + name.encode() + b"\0" + bytes.fromhex(inner), b"100644 tasks.py\0" + bytes.fromhex(blob)]
    hostile = git(path, "hash-object", "-t", "tree", "--literally", "-w", "--stdin", given=b"".join(rows))
    commit = git(path, "commit-tree", hostile, "-m", "hostile")
    git(path, "update-ref", "refs/heads/hostile", commit)
    with pytest.raises(BadInput) as caught:
        mirror.fetch(url, commit)
    assert caught.value.code == "E_PATH"


def test_a_submodule_is_refused_and_named_without_its_password(
    mirror: Mirror, repository: tuple[Path, str, str]
) -> None:
    path, url, _ = repository
    text = '[submodule "x"]\n  path = x\n  url = https://me:hunter2@evil.example/r\n'
    with pytest.raises(BadInput) as caught:
        mirror.fetch(url, commit_files(path, {".gitmodules": text}))
    assert (caught.value.code, caught.value.facts["field"]) == ("E_REPO_DENIED", "submodule")
    assert "evil.example" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_tasks_are_read_at_the_pinned_commit_without_running_the_module(
    mirror: Mirror, repository: tuple[Path, str, str]
) -> None:
    path, url, first = repository
    bomb = {"src/pack/__init__.py": "raise SystemExit\ndef inner(): ...\n", "tasks.py": "def cube(x): ...\n"}
    second = commit_files(path, bomb)
    assert [task.name for task in mirror.tasks(url, first, "tasks")] == ["square"]
    assert [task.name for task in mirror.tasks(url, second, "tasks")] == ["cube"]
    assert [task.name for task in mirror.tasks(url, second, "pack")] == ["inner"]


@pytest.mark.parametrize("module", ["os", "tasks.inner", "../tasks", "data", ""])
def test_a_module_that_the_repository_lacks_is_refused(
    mirror: Mirror, repository: tuple[Path, str, str], module: str
) -> None:
    with pytest.raises(BadInput) as caught:
        mirror.tasks(repository[1], repository[2], module)
    assert caught.value.code == "E_MODULE"


def test_insteadof_applies_after_the_address_was_judged_but_never_to_a_foreign_transport(
    mirror: Mirror, repository: tuple[Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _, commit = repository
    settings = tmp_path / "gitconfig"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    settings.write_text(f'[url "{path}"]\n  insteadOf = https://code.example/r\n')
    assert resolve("https://code.example/r", None) == commit
    settings.write_text(f'[url "ext::touch {tmp_path}/ran "]\n  insteadOf = https://code.example/r\n')
    with pytest.raises(PyfiError) as caught:
        resolve("https://code.example/r", None)
    assert (caught.value.code, (tmp_path / "ran").exists()) == ("E_REPO_SCHEME", False)


def test_the_repository_that_a_hook_runs_in_is_not_used(
    mirror: Mirror, repository: tuple[Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_repository(tmp_path / "other", {})
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(tmp_path / "other" / ".git" / "objects"))
    assert "square" in mirror.tasks(repository[1], repository[2], "tasks")[0].source


def test_a_host_that_says_nothing_is_given_up_at_the_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unavailable) as caught:
        references(f"git://127.0.0.1:{silent.getsockname()[1]}/r", time_limit=0.5)
    assert (caught.value.code, caught.value.facts["retry"]) == ("E_TIMEOUT", True)


def test_an_archive_that_is_not_the_commit_is_refused(
    mirror: Mirror, repository: tuple[Path, str, str], tmp_path: Path
) -> None:
    path, _, _ = repository
    git(path, "archive", f"--output={tmp_path}/other.tar", "HEAD")
    entries = tree.listed(subprocess.run(
        ["git", "-C", path, "ls-tree", "-rlz", "HEAD"], check=True, capture_output=True
    ).stdout)  # fmt: skip
    changed = [tree.Entry(entry.mode, "0" * 40, entry.size, entry.path) for entry in entries]
    with pytest.raises(Fault) as caught:
        tree.unpack(tmp_path / "other.tar", changed, tmp_path / "out")
    assert caught.value.code == "E_DIGEST"
    with pytest.raises(BadInput) as denied:
        tree.unpack(tmp_path / "other.tar", [], tmp_path / "out2")
    assert denied.value.code == "E_PATH"


@pytest.mark.parametrize("part", ["pack", "idx"])
def test_a_damaged_mirror_is_fetched_afresh(
    mirror: Mirror, repository: tuple[Path, str, str], tmp_path: Path, part: str
) -> None:
    path, url, _ = repository
    commit = commit_files(path, {"long.txt": "".join(map(str, range(9999)))})
    (file,) = mirror.fetch(url, commit).glob(f"objects/pack/*.{part}")
    file.chmod(0o600)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    mirror.export(url, commit, tmp_path / "out")
    assert (tmp_path / "out" / "long.txt").read_text() == (path / "long.txt").read_text()
