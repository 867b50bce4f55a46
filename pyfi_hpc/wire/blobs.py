"""Large values as files named by their content: written once, never changed, checked whenever they are read.

DIR/ab/ab12…ef      the bytes whose SHA-256 that is
DIR/tmp/…           what is being written; never read
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from pyfi_hpc.errors import BadInput, Unavailable
from pyfi_hpc.wire.limits import INLINE_BYTES
from pyfi_hpc.wire.values import BlobRef, encode_blob

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def path_of(folder: Path, digest: bytes) -> Path:
    """Where the blob with this SHA-256 is."""
    name = digest.hex()
    return folder / name[:2] / name


def outgoing(folder: Path, value: bytes) -> bytes:
    """`value`, encoded already, as it travels: itself, or a claim check where it is too large to travel inline."""
    return value if len(value) <= INLINE_BYTES else encode_blob(*put(folder, value))


def put(folder: Path, content: bytes) -> BlobRef:
    """Store `content`, durable before this returns; what is there already is kept, and young again for the collector.

    Raises:
        Unavailable: E_STORAGE_FULL; nothing of it is visible then.
    """
    reference = BlobRef(hashlib.sha256(content).digest(), len(content))
    final = path_of(folder, reference.digest)
    if not _renewed(final, len(content)):
        with _full_told(folder):
            _write(folder / "tmp", final, content)
    return reference


def _renewed(final: Path, size: int) -> bool:
    """Whether the blob is there, whole; its time stamp is then now."""
    try:
        os.utime(final)  # before the look: from here on the collector leaves it alone
        return final.stat().st_size == size
    except FileNotFoundError:
        return False


def _write(folder: Path, final: Path, content: bytes) -> None:
    temporary = folder / secrets.token_hex(12)
    folder.mkdir(parents=True, exist_ok=True)
    if not final.parent.is_dir():
        final.parent.mkdir(exist_ok=True)
        _sync(final.parent.parent)
    try:
        with temporary.open("xb", buffering=0) as file:
            _write_all(file.fileno(), content)
            os.fsync(file.fileno())
        temporary.rename(final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(final.parent)


def _write_all(descriptor: int, content: bytes) -> None:
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


def get(folder: Path, reference: BlobRef) -> bytes:
    """The blob's bytes, checked.

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
            content = file.readall()
    except FileNotFoundError:
        raise Unavailable("E_NOT_FOUND", "the blob is not there", at=f"blob {name} in {folder}") from None
    if hashlib.sha256(content).digest() != reference.digest:
        raise BadInput.of("E_DIGEST", "blob", name)
    return content
