"""Large values as files named by their content: written once, never changed, checked whenever they are read.

DIR/ab/ab12…ef      the bytes whose SHA-256 that is
DIR/tmp/…           what is being written; never read
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pyfi_hpc.errors import BadInput, Unavailable
from pyfi_hpc.wire.arrays import elements_at
from pyfi_hpc.wire.ext import Buffer
from pyfi_hpc.wire.limits import INLINE_BYTES
from pyfi_hpc.wire.values import BlobRef, encode_blob

_PIECE_BYTES = 2**20
#: Large memory begins at a multiple of this.
_ALIGNED = 16
#: Holds whatever stands before the elements of an array: NumPy has 64 dimensions at most.
_HEAD_BYTES = 1024
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def path_of(folder: Path, digest: bytes) -> Path:
    """Where the blob with this SHA-256 is."""
    name = digest.hex()
    return folder / name[:2] / name


def outgoing(folder: Path, value: bytes) -> bytes:
    """`value`, encoded already, as it travels: itself, or a claim check where it is too large to travel inline."""
    return value if len(value) <= INLINE_BYTES else encode_blob(*put(folder, value))


def put(folder: Path, *content: Buffer) -> BlobRef:
    """Store `content`, its parts one after the other, durable before this returns; what is there already is kept, and
    young again for the collector.

    Raises:
        Unavailable: E_STORAGE_FULL; nothing of it is visible then.
    """
    digest = hashlib.sha256()
    for part in content:
        digest.update(part)
    reference = BlobRef(digest.digest(), sum(map(len, content)))
    if _renewed(path_of(folder, reference.digest), reference.size):
        return reference
    with _full_told(folder):
        return _written(folder, content)


def _renewed(final: Path, size: int) -> bool:
    """Whether the blob is there, whole; its time stamp is then now."""
    try:
        os.utime(final)  # before the look: from here on the collector leaves it alone
        return final.stat().st_size == size
    except FileNotFoundError:
        return False


def _written(folder: Path, content: Sequence[Buffer]) -> BlobRef:
    """Write a new file; it is named by what went into it, whatever somebody does to an array meanwhile."""
    temporary = folder / "tmp" / os.urandom(12).hex()
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("xb", buffering=0) as file:
            digest, size = hashlib.sha256(), 0
            for piece in _pieces(content):
                digest.update(piece)
                _write_all(file.fileno(), piece)
                size += len(piece)
            os.fsync(file.fileno())
        reference = BlobRef(digest.digest(), size)
        _place(temporary, path_of(folder, reference.digest))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return reference


def _pieces(content: Sequence[Buffer]) -> Iterator[Buffer]:
    """The parts; of those that may change while they are read, copies of a bounded size."""
    for part in content:
        if type(part) is bytes:
            yield part
        else:
            yield from (bytes(part[at : at + _PIECE_BYTES]) for at in range(0, len(part), _PIECE_BYTES))


def _place(temporary: Path, final: Path) -> None:
    if not final.parent.is_dir():
        final.parent.mkdir(exist_ok=True)
        _sync(final.parent.parent)
    temporary.rename(final)
    _sync(final.parent)


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
        cure = "free space there, or set paths.blobs"
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
