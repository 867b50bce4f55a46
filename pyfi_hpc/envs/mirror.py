"""Bare mirrors of repositories, and what one pinned commit holds.

Every address is judged by `pyfi_hpc.envs.repository.check` before it comes here.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pyfi_hpc.envs import tasks as modules
from pyfi_hpc.envs import tree
from pyfi_hpc.envs.address import parse
from pyfi_hpc.envs.git import TIME_LIMIT_SECONDS, GitFailed, cause, run
from pyfi_hpc.envs.locks import locked
from pyfi_hpc.envs.tasks import Task
from pyfi_hpc.errors import BadInput, Fault, PyfiError

MAX_BYTES = 2 << 30
COMMIT = re.compile(r"[0-9a-f]{40}")
# raw bytes only: a repository's own attributes neither change, drop nor filter (LFS) what is exported
ATTRIBUTES = "* -export-ignore -export-subst -filter -text -eol -ident -working-tree-encoding\n"
_LEFTOVER = "objects/pack/tmp_*"  # what a fetch that was ended leaves behind
_ALL_HISTORY = "--depth=2147483647"  # Source: git-fetch(1), makes a shallow mirror whole


def pinned(commit: str) -> str:
    """`commit` in lower case.

    Raises:
        BadInput: E_COMMIT, it is not a full hash.
    """
    if COMMIT.fullmatch(commit.lower()):
        return commit.lower()
    cure = "give all 40 digits (git rev-parse); a branch or a tag goes with -br"
    raise BadInput.of("E_COMMIT", "commit", commit, "a commit is pinned by its full 40-digit hash", cure=cure)


def references(url: str, *, time_limit: float = 60) -> dict[str, str]:
    """Each reference of the repository (`HEAD`, `refs/heads/main`, …) with its commit, tags peeled."""
    written = parse(url).written
    try:
        text = run("ls-remote", "--", written, url=written, time_limit=time_limit)
    except GitFailed as failure:
        raise cause(url, failure) from failure
    lines = [line.split("\t") for line in text.decode(errors="replace").splitlines() if "\t" in line]
    plain = {name: digest for digest, name in lines if not name.endswith("^{}")}
    return plain | {name[:-3]: digest for digest, name in lines if name.endswith("^{}")}


def resolve(url: str, revision: str | None) -> str:
    """The full hash of the commit at `revision`: a branch, a tag, or None for HEAD.

    A full hash comes back as it is; `Mirror.fetch` shows that the repository has it.

    Raises:
        BadInput: E_COMMIT, no such branch or tag, or a short hash.
    """
    if revision is not None and COMMIT.fullmatch(revision.lower()):
        return revision.lower()
    known = references(url)
    names = [f"refs/heads/{revision}", f"refs/tags/{revision}"] if revision else ["HEAD", "refs/heads/main"]
    for name in names:
        if name in known:
            return known[name]
    raise BadInput.of("E_COMMIT", "revision", revision or "HEAD", "the repository has no such branch or tag",
                      cure=_suggestion(revision or "", known))  # fmt: skip


def _suggestion(revision: str, known: Mapping[str, str]) -> str:
    full = {digest for digest in known.values() if revision and digest.startswith(revision.lower())}
    if len(full) == 1:
        return f"give the full hash: -c {full.pop()}"
    branches = [name.removeprefix("refs/heads/") for name in known if name.startswith("refs/heads/")]
    return f"branches: {', '.join(branches[:10])}" if branches else "push a commit first: the repository is empty"


class Mirror:
    """The mirrors below one cache folder.

    Attributes:
        max_bytes: the most that one fetch may bring, and that one commit's files may take.
        time_limit: seconds for one fetch.
    """

    def __init__(self, cache: Path, *, max_bytes: int = MAX_BYTES, time_limit: float = TIME_LIMIT_SECONDS) -> None:
        self.folder, self.max_bytes, self.time_limit = cache / "git", max_bytes, time_limit

    def fetch(self, url: str, commit: str) -> Path:
        """The bare mirror, once it holds `commit` and the commit is fit for use.

        Raises:
            BadInput: E_COMMIT_UNAVAILABLE, not reachable from any branch or tag; E_LIMIT too big; E_PATH a path
                or link leads out; E_REPO_DENIED it wants a submodule.
            Unavailable: E_COMMIT_UNAVAILABLE, the host does not answer (`facts["retry"]`).
        """
        commit, written = pinned(commit), parse(url).written
        mirror = self._place(written)
        with locked(mirror.with_suffix(".lock")):
            try:
                self._hold(mirror, written, commit)
            except (GitFailed, PyfiError):
                if _is_sound(mirror):
                    raise
                shutil.rmtree(mirror)  # a disk or a power cut damaged it
                self._hold(mirror, written, commit)
        return mirror

    def _hold(self, mirror: Path, written: str, commit: str) -> None:
        if not mirror.exists():
            _make(mirror)
        if not _has(mirror, commit):
            self._download(mirror, written, commit)
        entries = _entries(mirror, commit)
        _refuse_submodules(mirror, entries)
        tree.check(entries, _links(mirror, entries), self.max_bytes)

    def export(self, url: str, commit: str, into: Path) -> None:
        """Make the new folder `into` hold the files of `commit`, each checked against its hash.

        Raises:
            as `fetch`.
        """
        try:
            self._export(url, pinned(commit), into)
        except (GitFailed, Fault):
            shutil.rmtree(into, ignore_errors=True)
            mirror = self._place(parse(url).written)
            with locked(mirror.with_suffix(".lock")):
                if not _is_sound(mirror):
                    shutil.rmtree(mirror)
            self._export(url, pinned(commit), into)

    def _export(self, url: str, commit: str, into: Path) -> None:
        mirror = self.fetch(url, commit)
        into.mkdir(parents=True)
        with tempfile.TemporaryDirectory(dir=into.parent, prefix=".archive-") as place:
            archive = Path(place) / "commit.tar"
            run("archive", "--format=tar", f"--output={archive}", commit, at=mirror, time_limit=self.time_limit)
            tree.unpack(archive, _entries(mirror, commit), into)

    def tasks(self, url: str, commit: str, module: str) -> list[Task]:
        """The tasks that `module` offers at `commit`.

        Raises:
            BadInput: E_MODULE, the repository has no such module; E_IMPORT, it is not Python; and as `fetch`.
        """
        places, commit = modules.places(module), pinned(commit)
        mirror = self.fetch(url, commit)
        entries = {entry.path: entry for entry in _entries(mirror, commit)}
        for place in places:
            if place in entries:
                return modules.read(run("cat-file", "blob", entries[place].digest, at=mirror), place)
        what = f"the repository has no module {module}: none of {', '.join(places)}"
        raise BadInput.of("E_MODULE", "module", module, what)

    def _place(self, written: str) -> Path:
        return self.folder / f"{hashlib.sha256(written.encode()).hexdigest()[:32]}.git"

    def _download(self, mirror: Path, written: str, commit: str) -> None:
        """Bring a branch's or tag's newest commit alone; for any other, all branches, to see that it is on one."""
        if commit in references(written).values() and self._tip(mirror, written, commit):
            return
        self._bring(mirror, written, _ALL_HISTORY, "+refs/heads/*:refs/seen/heads/*", "+refs/tags/*:refs/seen/tags/*")
        if not _has(mirror, commit):
            what = "the commit is on no branch or tag of the repository"
            cure = "push it, or give another: git ls-remote shows what there is"
            raise BadInput.of("E_COMMIT_UNAVAILABLE", "commit", commit, what, cure=cure)
        run("update-ref", f"refs/pinned/{commit}", commit, at=mirror)

    def _tip(self, mirror: Path, written: str, commit: str) -> bool:
        """Whether the server gave `commit` by its hash; an old one may give references only."""
        try:
            self._bring(mirror, written, "--depth=1", f"+{commit}:refs/pinned/{commit}")
        except BadInput as error:
            if error.code == "E_LIMIT":
                raise
        return _has(mirror, commit)

    def _bring(self, mirror: Path, written: str, depth: str, *refspecs: str) -> None:
        options = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", depth)
        try:
            run("fetch", *options, "--", written, *refspecs, at=mirror, url=written,
                max_bytes=self.max_bytes, time_limit=self.time_limit)  # fmt: skip
        except GitFailed as failure:
            if any(file.stat().st_size >= self.max_bytes for file in mirror.glob(_LEFTOVER)):
                raise tree.too_big(f"over {self.max_bytes} bytes", self.max_bytes) from failure
            raise cause(written, failure) from failure
        finally:
            for leftover in mirror.glob(_LEFTOVER):
                leftover.unlink()


def _make(mirror: Path) -> None:
    """An empty bare repository, there whole or not at all."""
    fresh = mirror.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    run("init", "--quiet", "--bare", "--template=", str(fresh))
    (fresh / "info").mkdir()
    (fresh / "info" / "attributes").write_text(ATTRIBUTES)
    fresh.rename(mirror)


def _has(mirror: Path, commit: str) -> bool:
    try:
        run("cat-file", "-e", f"{commit}^{{commit}}", at=mirror)
    except GitFailed:
        return False
    return True


def _is_sound(mirror: Path) -> bool:
    """Whether every object that the mirror should have is there and is what its hash says."""
    try:
        run("fsck", "--full", "--no-dangling", at=mirror)
    except GitFailed:
        return False
    return True


def _entries(mirror: Path, commit: str) -> list[tree.Entry]:
    return tree.listed(run("ls-tree", "-r", "-l", "-z", "--full-tree", commit, at=mirror))


def _links(mirror: Path, entries: list[tree.Entry]) -> dict[str, str]:
    """Where each symbolic link points."""
    links = [entry for entry in entries if entry.mode == tree.LINK]
    if not links:
        return {}
    asked = "".join(f"{entry.digest}\n" for entry in links).encode()
    answer, targets, start = run("cat-file", "--batch=%(objectsize)", at=mirror, given=asked), {}, 0
    for entry in links:
        start = answer.index(b"\n", start) + 1
        targets[entry.path] = answer[start : start + entry.size].decode(errors="surrogateescape")
        start += entry.size + 1
    return targets


def _refuse_submodules(mirror: Path, entries: list[tree.Entry]) -> None:
    named = [f"{entry.path}" for entry in entries if entry.mode == tree.SUBMODULE]
    for entry in entries:
        if entry.path == ".gitmodules" and entry.mode != tree.LINK:
            text = run("cat-file", "blob", entry.digest, at=mirror).decode(errors="replace")
            named = re.findall(r"^\s*url\s*=\s*(.*)$", re.sub(r"//[^/@\s]*@", "//***@", text), re.MULTILINE) or named
    if named:
        what = "the repository has a submodule, and submodules are not used"
        raise BadInput.of("E_REPO_DENIED", "submodule", named[0], what, cure="put the code into the repository itself")
