"""Large values as files named by their content: written once, never changed, checked whenever they are read.

DIR/ab/ab12…ef      the bytes whose SHA-256 that is
DIR/tmp/…           what is being written; never read
DIR/meter           how much there is, where that is limited: see `wire.meter`
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pyfi_hpc.errors import BadInput, Unavailable
from pyfi_hpc.wire import meter
from pyfi_hpc.wire.arrays import elements_at
from pyfi_hpc.wire.ext import Buffer
from pyfi_hpc.wire.limits import INLINE_BYTES
from pyfi_hpc.wire.values import BlobRef, encode_blob

_PIECE_BYTES = 2**20
#: What may change while it is written is copied up to here; of more, the digest is made twice.
_COPIED_BYTES = 8 * 2**20
#: Large memory begins at a multiple of this.
_ALIGNED = 16
#: Holds whatever stands before the elements of an array: NumPy has 64 dimensions at most.
_HEAD_BYTES = 1024
#: Folders of blobs that are known to be durable.
_shelves: set[Path] = set()
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def path_of(folder: Path, digest: bytes) -> Path:
    """Where the blob with this SHA-256 is."""
    name = digest.hex()
    return folder / name[:2] / name


class Content(NamedTuple):
    """A value on its way into the folder: its claim check, and its bytes, part after part."""

    reference: BlobRef
    parts: Sequence[Buffer]
    #: nobody can change these bytes any more
    steady: bool


def weighed(*content: Buffer, steady: bool = False) -> Content:
    """`content`, its parts one after the other, by its name; what may change meanwhile is copied where it is small.

    `steady`: it cannot change, whatever its type.
    """
    steady = steady or all(type(part) is bytes for part in content)
    if not steady and sum(map(len, content)) <= _COPIED_BYTES:
        content, steady = (b"".join(content),), True
    digest = hashlib.sha256()
    for part in content:
        digest.update(part)
    return Content(BlobRef(digest.digest(), sum(map(len, content))), content, steady)


def outgoing(folder: Path, value: bytes, quota_bytes: int = 0) -> bytes:
    """`value`, encoded already, as it travels: itself, or a claim check where it is too large to travel inline."""
    return value if len(value) <= INLINE_BYTES else encode_blob(*put(folder, value, quota_bytes=quota_bytes))


def put(folder: Path, *content: Buffer, quota_bytes: int = 0) -> BlobRef:
    """Store `content`, its parts one after the other; raises as `keep` does."""
    return keep(folder, weighed(*content), quota_bytes)


def keep(folder: Path, content: Content, quota_bytes: int = 0) -> BlobRef:
    """Store it, durable before this returns; what is there already is kept, and young again for the collector. Of what
    is not steady, the claim check may become another.

    `quota_bytes`: all blobs of the folder together are not to take more; 0: as much as the disk has.

    Raises:
        Unavailable: E_STORAGE_FULL; nothing of it is visible then.
        BadInput: E_LIMIT, it is larger than `quota_bytes`; the same.
    """
    final = path_of(folder, content.reference.digest)
    if _renewed(final, content.reference.size):
        _sync(final.parent)  # whoever wrote it may not have come to that yet
        return content.reference
    with _full_told(folder):
        if quota_bytes:
            meter.take(folder, content.reference.size, quota_bytes)
        return _written(folder, content)


def _renewed(final: Path, size: int) -> bool:
    """Whether the blob is there, whole; its time stamp is then now."""
    try:
        os.utime(final)  # before the look: from here on the collector leaves it alone
        return final.stat().st_size == size
    except FileNotFoundError:
        return False


def _written(folder: Path, content: Content) -> BlobRef:
    """Write a new file; it is named by what went into it, whatever somebody does to an array meanwhile."""
    temporary = folder / "tmp" / os.urandom(12).hex()
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("xb", buffering=0) as file:
            reference = _filled(file.fileno(), content)
            os.fsync(file.fileno())
        _place(temporary, path_of(folder, reference.digest))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return reference


def _filled(descriptor: int, content: Content) -> BlobRef:
    if content.steady:
        for part in content.parts:
            _write_all(descriptor, part)
        return content.reference
    digest, size = hashlib.sha256(), 0
    for piece in _pieces(content.parts):
        digest.update(piece)
        _write_all(descriptor, piece)
        size += len(piece)
    return BlobRef(digest.digest(), size)


def _pieces(content: Sequence[Buffer]) -> Iterator[Buffer]:
    """The parts; of those that may change while they are read, copies of a bounded size."""
    for part in content:
        if type(part) is bytes:
            yield part
        else:
            yield from (bytes(part[at : at + _PIECE_BYTES]) for at in range(0, len(part), _PIECE_BYTES))


def _place(temporary: Path, final: Path) -> None:
    shelf = final.parent
    if shelf not in _shelves:
        _make(shelf)
    try:
        temporary.rename(final)
    except FileNotFoundError:  # somebody has cleared the folder
        _make(shelf)
        temporary.rename(final)
    _sync(shelf)


def _make(shelf: Path) -> None:
    """The shelf is there, and durable: another process may have made it a moment ago."""
    shelf.mkdir(exist_ok=True)
    _sync(shelf.parent)
    _shelves.add(shelf)


def _write_all(descriptor: int, content: Buffer) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _full_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        cure = f"free space there: df -h {folder}; or name a larger folder: pyfi config set paths.blobs /FOLDER"
        raise Unavailable("E_STORAGE_FULL", "the blob folder is full", at=str(folder), cure=cure) from error


def get(folder: Path, reference: BlobRef) -> memoryview:
    """The blob's bytes, checked, in memory of their own; where they are an array, its elements lie as they must for
    being used in place.

    Raises:
        Unavailable: E_NOT_FOUND, it is not there: a shared folder may show it later.
        BadInput: E_DIGEST, it is not what its name says.
    """
    name = reference.digest.hex()
    try:
        with path_of(folder, reference.digest).open("rb", buffering=0) as file:
            # the size first: what is read then is what the claim check promised
            if (size := os.fstat(file.fileno()).st_size) != reference.size:
                raise BadInput.of("E_DIGEST", "blob", name, f"{size} bytes instead of {reference.size}")
            content = _read(file.fileno(), size)
    except FileNotFoundError:
        raise Unavailable("E_NOT_FOUND", "the blob is not there", at=f"blob {name} in {folder}") from None
    if hashlib.sha256(content).digest() != reference.digest:
        raise BadInput.of("E_DIGEST", "blob", name)
    return content


def _read(descriptor: int, size: int) -> memoryview:
    first = os.pread(descriptor, _HEAD_BYTES, 0)
    lead = -elements_at(first, size) % _ALIGNED
    whole = memoryview(bytearray(lead + size))[lead:]
    at = 0
    while at < size and (count := os.preadv(descriptor, [whole[at:]], at)):
        at += count
    return whole[:at]
