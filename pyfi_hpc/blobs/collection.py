"""Remove blobs that nothing refers to any more, beside writers that know nothing of it.

A blob goes in three steps: it is old and unreferenced, it is moved aside, it is looked at once more. A writer that
renews its time stamp before the move brings it back; one that comes after the move finds nothing and writes it anew.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import msgspec

from pyfi_hpc.wire.blobs import path_of

#: Of the digests asked about, those that something refers to.
Referenced = Callable[[Collection[bytes]], Collection[bytes]]

_NAME = re.compile(r"[0-9a-f]{64}")
_ASIDE = ".aside"
#: Digests asked about at once.
_BATCH = 1000


class Collected(msgspec.Struct, frozen=True):
    """What a collection removed."""

    blobs: int
    bytes: int


def usage(folder: Path) -> tuple[int, int]:
    """How many blobs there are, and their bytes together."""
    sizes = [entry.stat().st_size for entry in _blobs(folder)]
    return len(sizes), sum(sizes)


def collect(folder: Path, referenced: Referenced, *, older_than_seconds: float) -> Collected:
    """Remove what is older than that and unreferenced, and what writers that died left behind.

    A claim check in a message is a reference that no table shows: `older_than_seconds` must be longer than a message
    may wait.
    """
    before = time.time() - older_than_seconds
    _bring_back(folder)
    _clear_unfinished(folder, before)
    names = (entry.name for entry in _blobs(folder) if entry.stat().st_mtime < before)
    count = size = 0
    while batch := [bytes.fromhex(name) for name in islice(names, _BATCH)]:
        for digest in set(batch) - set(referenced(batch)):
            if (freed := _remove(folder, digest, before)) is not None:
                count, size = count + 1, size + freed
    return Collected(count, size)


def _blobs(folder: Path) -> Iterator[os.DirEntry[str]]:
    for shelf in sorted(folder.glob("[0-9a-f][0-9a-f]")):
        with os.scandir(shelf) as entries:
            yield from [entry for entry in entries if _NAME.fullmatch(entry.name) and entry.is_file()]


def _remove(folder: Path, digest: bytes, before: float) -> int | None:
    """Move the blob aside and let it go; its bytes, or None when somebody wants it after all."""
    aside = folder / "tmp" / f"{digest.hex()}{_ASIDE}"
    aside.parent.mkdir(exist_ok=True)
    with suppress(FileNotFoundError):
        path_of(folder, digest).rename(aside)
        found = aside.stat()
        if found.st_mtime < before:
            aside.unlink()
            return found.st_size
        _put_back(folder, aside)
    return None


def _bring_back(folder: Path) -> None:
    """What a collection that died had moved aside is judged again."""
    for aside in folder.glob(f"tmp/*{_ASIDE}"):
        _put_back(folder, aside)


def _put_back(folder: Path, aside: Path) -> None:
    with suppress(FileExistsError):  # written anew meanwhile
        os.link(aside, path_of(folder, bytes.fromhex(aside.name.removesuffix(_ASIDE))))
    aside.unlink()


def _clear_unfinished(folder: Path, before: float) -> None:
    for file in folder.glob("tmp/*"):
        with suppress(FileNotFoundError):
            if not file.name.endswith(_ASIDE) and file.stat().st_mtime < before:
                file.unlink()
