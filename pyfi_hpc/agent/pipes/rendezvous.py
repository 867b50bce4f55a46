"""The folder where an agent's workers listen for one another: mode 0700, on this node, with a short path."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

#: Longest path of a unix socket. Source: unix(7), sun_path.
PATH_BYTES = 107
#: The longest name in the folder: a worker's number.
_NAME_BYTES = 12


def place(state: Path) -> Path:
    """Where the folder is of the agent whose state is in `state`, and of each that serves there after it."""
    name = f"pyfi-pipes-{os.getuid()}-{hashlib.sha256(os.fsencode(state.absolute())).hexdigest()[:12]}"
    return _base(name) / name


def fresh(state: Path) -> Path:
    """An empty folder for the agent whose state is in `state`; what an earlier one of it has left there is gone."""
    folder = place(state)
    remove(folder)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        # somebody else's: in /tmp anybody may take a name
        return Path(tempfile.mkdtemp(prefix="pyfi-pipes-", dir=folder.parent))
    return folder


def _base(name: str) -> Path:
    for found in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir()):
        if found and os.access(found, os.W_OK) and len(os.fsencode(Path(found, name))) + _NAME_BYTES < PATH_BYTES:
            return Path(found)
    return Path("/tmp")


def remove(folder: Path) -> None:
    """The folder is gone, where it is a folder of ours."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
        shutil.rmtree(folder, ignore_errors=True)
