"""How much the blobs of a folder take together, known to every process that writes there without a walk.

`DIR/meter` has a byte for each `UNIT_BYTES` that blobs were given since it was made: appending is one step for whoever
shares the folder, and the file's length is the sum. Whoever has walked through the folder makes it anew. Writers that
come at the same moment may all find the last of the room.
"""

from __future__ import annotations

import os
from pathlib import Path

from pyfi_hpc.errors import Unavailable

UNIT_BYTES = 16 * 2**10
CURE = "raise paths.blobs_gib, or keep outcomes for fewer days: retention.outcomes_days"
_NAME = "meter"


def take(folder: Path, size: int, quota_bytes: int) -> None:
    """Count a blob of `size` bytes that is about to be written; the folder is walked through where nobody has counted.

    Raises:
        Unavailable: E_STORAGE_FULL, it has no room in `quota_bytes`; nothing is counted.
    """
    used = used_bytes(folder)
    if used is None:
        used = walked(folder)
        tell(folder, used)
    if used + size > quota_bytes:
        what = f"the blob folder is full: {used} of {quota_bytes} bytes are taken, {size} more were to be written"
        raise Unavailable("E_STORAGE_FULL", what, at=str(folder), cure=CURE)
    with (folder / _NAME).open("ab", buffering=0) as file:
        file.write(bytes(_units(size)))


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
    temporary = folder / "tmp" / f"{os.urandom(12).hex()}.{_NAME}"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("xb", buffering=0) as file:
        os.truncate(file.fileno(), _units(used))
    temporary.rename(folder / _NAME)


def recount(folder: Path) -> None:
    """Count anew, where anybody counts; what is written meanwhile may be missed until the next time."""
    if used_bytes(folder) is not None:
        tell(folder, walked(folder))


def _units(size: int) -> int:
    return -(-size // UNIT_BYTES)
