"""What every environment gets besides the user's own packages: our worker's modules, msgspec and pyzmq.

Both are folders of the cache, named by what is in them, that come last on an environment's path: a version that the
user's own requirements name is found first.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pyfi_hpc
from pyfi_hpc.envs.locks import locked

if TYPE_CHECKING:
    from importlib.metadata import Distribution

#: All of ours that a worker may import.
PARTS = ("__init__.py", "errors.py", "worker", "wire", "pipes")
CARRIED = ("msgspec", "pyzmq")


@functools.cache
def files() -> Mapping[str, bytes]:
    """The worker's modules, by their path below the folder."""
    home = Path(pyfi_hpc.__path__[0])
    return {f"pyfi_hpc/{path.relative_to(home)}": path.read_bytes() for part in PARTS for path in _modules(home / part)}


def _modules(part: Path) -> list[Path]:
    return [part] if part.is_file() else sorted(part.rglob("*.py"))


@functools.cache
def version() -> str:
    """A name for exactly these modules."""
    digest = hashlib.sha256()
    for name, content in files().items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def runner(cache: Path) -> Path:
    """The folder that holds the worker's modules and nothing else."""
    return _published(cache / "runner" / version(), lambda folder: _write(folder, files()))


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def carried(cache: Path, abi: str) -> Path | None:
    """A folder with our own msgspec and pyzmq, for interpreters of our `abi`; None where they cannot be copied."""
    import importlib.metadata

    distributions = [importlib.metadata.distribution(name) for name in CARRIED]
    if any(distribution.files is None for distribution in distributions):
        return None  # a system package that does not list its files
    name = "-".join([*(f"{each.name}{each.version}" for each in distributions), abi])

    def copy(folder: Path) -> None:
        for distribution in distributions:
            for path in _content(distribution):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(distribution.locate_file(path)), folder / path)

    return _published(cache / "carried" / name, copy)


def _content(distribution: Distribution) -> Iterator[PurePosixPath]:
    """What the distribution brought into site-packages, without its tests and compiled modules."""
    for path in distribution.files or ():
        if ".." not in path.parts and not {"__pycache__", "tests"} & set(path.parts) and not path.is_absolute():
            yield path


def _published(folder: Path, fill: Callable[[Path], None]) -> Path:
    """`folder`, filled once; it is there whole or not at all."""
    if not folder.is_dir():
        with locked(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():
                fresh = folder.with_name(f".{folder.name}.new")
                shutil.rmtree(fresh, ignore_errors=True)
                fresh.mkdir()
                fill(fresh)
                fresh.rename(folder)
    return folder
