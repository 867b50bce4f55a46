"""How much the blobs of a folder take together, known to every process that writes there without a walk.

`DIR/meter` has a byte for each `UNIT_BYTES` that blobs were given since it was made: appending is one step for whoever
shares the folder, and the file's length is the sum. Whoever has walked through the folder makes it anew. Processes
that come at the same moment may all find the last of the room.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pyfi_hpc.errors import BadInput, Unavailable

UNIT_BYTES = 16 * 2**10
#: What has no room; `pyfi forget` makes none, since files go only with their days.
CURE = (
    "more room: pyfi config set paths.blobs_gib GIB; or have old ones go sooner, seven days after that time:"
    " pyfi config set retention.outcomes_days DAYS"
)
NEVER_FITS_CURE = "more room: pyfi config set paths.blobs_gib GIB; or send the path of a file that workers see"
_NAME = "meter"
#: Of the threads of a process one at a time looks for room and takes it.
_turn = threading.Lock()


def _in_child() -> None:
    global _turn
    _turn = threading.Lock()  # whoever held the other one has stayed with the process that forked


os.register_at_fork(after_in_child=_in_child)


def take(folder: Path, size: int, quota_bytes: int) -> None:
    """Count a blob of `size` bytes that is about to be written; the folder is walked through where nobody has counted.

    Raises:
        Unavailable: E_STORAGE_FULL, it has no room in `quota_bytes` now; nothing is counted.
        BadInput: E_LIMIT, it never has, whatever else goes; nothing is counted.
    """
    if size > quota_bytes:
        what = f"this value has {size} bytes, all blobs together have room for {quota_bytes}"
        raise BadInput("E_LIMIT", what, at=str(folder), cure=NEVER_FITS_CURE)
    with _turn:
        used = _counted(folder)
        if used + size > quota_bytes:
            what = f"the blob folder is full: {used} of {quota_bytes} bytes are taken, {size} more were to be written"
            raise Unavailable("E_STORAGE_FULL", what, at=str(folder), cure=CURE)
        with (folder / _NAME).open("ab", buffering=0) as file:
            file.write(bytes(_units(size)))


def _counted(folder: Path) -> int:
    used = used_bytes(folder)
    if used is None:
        # of several who find nothing counted the first one's walk stands: the others' would undo what is counted since
        with suppress(FileExistsError):
            _make(folder, walked(folder), os.link)
        used = used_bytes(folder) or 0
    return used


def used_bytes(folder: Path) -> int | None:
    """What all blobs take, at most so much more as they are rounded up; None where nobody has counted."""
    try:
        return (folder / _NAME).stat().st_size * UNIT_BYTES
    except FileNotFoundError:
        return None


def walked(folder: Path) -> int:
    """The bytes of all blobs, each rounded up to units, found by a walk through the folder."""
    count = 0
    for shelf in folder.glob("[0-9a-f][0-9a-f]"):
        with os.scandir(shelf) as entries:
            count += sum([_units(entry.stat().st_size) for entry in entries if entry.is_file()])
    return count * UNIT_BYTES


def tell(folder: Path, used: int) -> None:
    """So much is taken, by a walk that has just ended."""
    _make(folder, used, os.replace)


def _make(folder: Path, used: int, into_place: Callable[[Path, Path], None]) -> None:
    temporary = folder / "tmp" / f"{os.urandom(12).hex()}.{_NAME}"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("xb", buffering=0) as file:
            os.truncate(file.fileno(), _units(used))
        into_place(temporary, folder / _NAME)
    finally:
        temporary.unlink(missing_ok=True)


def recount(folder: Path) -> None:
    """Count anew, where anybody counts; what is written meanwhile may be missed until the next time."""
    if used_bytes(folder) is not None:
        tell(folder, walked(folder))


def _units(size: int) -> int:
    return -(-size // UNIT_BYTES)
