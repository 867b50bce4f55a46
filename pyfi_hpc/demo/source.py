"""The demo's input: the standard library's own source files."""

from __future__ import annotations

import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

#: Enough to see something, and done within a minute on two cores.
MOST_FILES = 700
_LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "__pycache__"})


def files() -> list[tuple[str, str]]:
    """(name below the library's folder, text) of each file, in the order of the names."""
    root = Path(sysconfig.get_path("stdlib"))
    found = [path for path in sorted(root.rglob("*.py")) if not _LEFT_OUT & set(path.relative_to(root).parts)]
    return list(_read(root, found[:MOST_FILES]))


def _read(root: Path, paths: list[Path]) -> Iterator[tuple[str, str]]:
    for path in paths:
        try:
            with tokenize.open(path) as file:
                yield str(path.relative_to(root)), file.read()
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue  # no text of a declared encoding: nothing to analyse
