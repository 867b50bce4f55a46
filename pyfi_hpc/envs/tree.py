"""The files of one commit: listed, judged, and unpacked only as they were listed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pyfi_hpc.errors import BadInput, Fault

LINK, SUBMODULE, EXECUTABLE = "120000", "160000", "100755"
_LINK_HOPS = 40  # Source: path_resolution(7), after which open() gives ELOOP


@dataclass(frozen=True)
class Entry:
    """One file, link or submodule of a tree; `digest` is git's, `size` in bytes, `path` relative."""

    mode: str
    digest: str
    size: int
    path: str


def listed(text: bytes) -> list[Entry]:
    """The entries in what `git ls-tree -r -l -z --full-tree` printed."""
    return [_entry(line) for line in text.split(b"\0") if line]


def _entry(line: bytes) -> Entry:
    head, _, path = line.partition(b"\t")
    mode, _, digest, size = head.decode().split()
    return Entry(mode, digest, 0 if size == "-" else int(size), os.fsdecode(path))


def check(entries: Sequence[Entry], links: Mapping[str, str], max_bytes: int) -> None:
    """Refuse a tree that could do harm when it is unpacked.

    Raises:
        BadInput: E_PATH, a path or a link leads out of it; E_LIMIT, it is over `max_bytes`.
    """
    total = sum(entry.size for entry in entries)
    if total > max_bytes:
        raise too_big(f"{total} bytes", max_bytes)
    paths = {entry.path for entry in entries}
    for path in (entry.path for entry in entries):
        parts = path.split("/")
        beneath_a_file = any("/".join(parts[:end]) in paths for end in range(1, len(parts)))
        if beneath_a_file or any(part in ("", ".", "..") or part.lower() == ".git" for part in parts):
            raise BadInput.of("E_PATH", "path", path, "the repository has a file where none may be")
    if len(paths) != len(entries):
        raise BadInput.of("E_PATH", "path", "", "the repository has two files at one path")
    for path in links:
        if leads_out(path, links):
            raise BadInput.of("E_PATH", "link", f"{path} -> {links[path]}", "a link leads out of the repository")


def too_big(size: str, max_bytes: int) -> BadInput:
    """The refusal of a repository of `size`."""
    what = f"the repository is over the size limit of {max_bytes} bytes"
    return BadInput.of("E_LIMIT", "size", size, what, cure="raise the setting git.max_bytes")


def leads_out(path: str, links: Mapping[str, str]) -> bool:
    """Whether following the link at `path`, through all other `links`, ever leaves the tree."""
    here, ahead, hops = path.split("/"), list[str](), 0
    while True:
        target = links.get("/".join(here))
        if target is not None:
            if target.startswith("/"):
                return True
            hops += 1
            if hops > _LINK_HOPS:
                return False  # a loop: it can never be opened
            here.pop()
            ahead.extend(reversed(target.split("/")))
        if not ahead:
            return False
        part = ahead.pop()
        if part == ".." and not here:
            return True
        if part == "..":
            here.pop()
        elif part not in ("", "."):
            here.append(part)


def unpack(archive: Path, entries: Iterable[Entry], into: Path) -> None:
    """Make `into` hold exactly `entries`, from the tar file `archive`, every byte checked against its digest.

    Raises:
        BadInput: E_PATH, the archive has something that was not listed.
        Fault: E_DIGEST, a file is missing or is not what the commit says.
    """
    import tarfile

    awaited = {entry.path: entry for entry in entries}
    with tarfile.open(archive, encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            if member.isdir():
                continue
            entry = awaited.pop(member.name, None)
            if entry is None or not (member.isreg() or member.issym()) or member.issym() != (entry.mode == LINK):
                raise BadInput.of("E_PATH", "path", member.name, "the archive has a file that the commit has not")
            place = into / member.name
            place.parent.mkdir(parents=True, exist_ok=True)
            if member.issym():
                os.symlink(member.linkname, place)
            else:
                _write(tar.extractfile(member), entry, place)
    if awaited:
        raise Fault("E_DIGEST", "the archive lacks files of the commit", at=min(awaited))


def _write(source: IO[bytes] | None, entry: Entry, place: Path) -> None:
    digest = hashlib.sha1(f"blob {entry.size}\0".encode(), usedforsecurity=False)
    mode = 0o755 if entry.mode == EXECUTABLE else 0o644
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        while source and (piece := source.read(1 << 20)):
            digest.update(piece)
            file.write(piece)
    if digest.hexdigest() != entry.digest:
        raise Fault("E_DIGEST", "a file is not what its commit says", at=entry.path)
