"""What an agent in a job needs to know: one settings file for each job, which its owner alone can read.

Only the file's path travels with the job, since anybody can read a job's script, arguments and environment. The file
goes when the job has ended.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from pyfi_hpc.config import Settings
from pyfi_hpc.config.sections import SECTIONS
from pyfi_hpc.config.surroundings import written
from pyfi_hpc.control.leftovers import forget_job

_NAME = re.compile(r"(?P<token>[0-9a-f]{32})\.ini")
#: What an agent on another node reads; the rest is the submitter's own business.
_TRAVELS = ("database", "broker", "git", "paths", "agent", "retention")
#: Of this machine's cores, not of the node's.
_STAYS = frozenset({"agent.cores", "agent.shared_cores"})


def folder(settings: Settings) -> Path:
    """Where the jobs' files are; made where it is missing, open to its owner alone."""
    # parents that mkdir makes on the way would be open to others
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    at = settings.state_dir / "jobs"
    at.mkdir(mode=0o700, exist_ok=True)
    return at.resolve()


def path(at: Path, token: str) -> Path:
    """The settings file of the job of that token."""
    return at / f"{token}.ini"


def write(at: Path, token: str, settings: Settings) -> Path:
    """Write the job's file, whole and mode 0600 from its first byte."""
    handle, name = tempfile.mkstemp(dir=at, prefix=".")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(as_ini(settings))
        file.flush()
        os.fsync(file.fileno())
    target = path(at, token)
    os.replace(name, target)
    return target


def as_ini(settings: Settings) -> str:
    """The settings that travel, with the folders as they are here: nodes share them."""
    given = written(settings)
    given |= {
        "paths.state": str(settings.state_dir.absolute()),
        "paths.cache": str(settings.cache_dir.absolute()),
        "paths.blobs": str(settings.blob_dir.absolute()),
    }
    lines: list[str] = []
    for section in SECTIONS:
        if section in _TRAVELS:
            lines.append(f"[{section}]")
            lines += [
                f"{key.partition('.')[2]} = {value}"
                for key, value in given.items()
                if key.startswith(f"{section}.") and key not in _STAYS and value
            ]
    return "\n".join(lines) + "\n"


def sweep(at: Path, over: Callable[[Collection[str]], Collection[str]]) -> int:
    """Remove what is here of jobs that have ended, as `over` tells of their tokens; how many there were."""
    tokens = [match["token"] for match in map(_NAME.fullmatch, _names(at)) if match]
    gone = over(tokens) if tokens else ()
    for token in gone:
        forget_job(at.parent, token)
        path(at, token).unlink(missing_ok=True)
    return len(gone)


def _names(at: Path) -> list[str]:
    return sorted(os.listdir(at)) if at.is_dir() else []
