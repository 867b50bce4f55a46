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
from pathlib import Path

from pyfi_hpc.errors import BadInput, Unavailable
from pyfi_hpc.wire.values import BlobRef


def path_of(folder: Path, digest: bytes) -> Path:
    """Where the blob with this SHA-256 is."""
    name = digest.hex()
    return folder / name[:2] / name


def put(folder: Path, content: bytes) -> BlobRef:
    """Store `content`, durable before this returns; what is there already is not written again.

    Raises:
        Unavailable: E_STORAGE_FULL; nothing of it is visible then.
    """
    reference = BlobRef(hashlib.sha256(content).digest(), len(content))
    final = path_of(folder, reference.digest)
    try:
        # a fresh time stamp keeps the collector away
        os.utime(final)
    except FileNotFoundError:
        _write(folder, final, content)
    return reference


def _write(folder: Path, final: Path, content: bytes) -> None:
    temporary = folder / "tmp" / secrets.token_hex(12)
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        final.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(final)
        _sync(final.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            cure = "free space there, or set paths.blobs"
            raise Unavailable("E_STORAGE_FULL", "the blob folder is full", at=str(folder), cure=cure) from error
        raise


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def get(folder: Path, reference: BlobRef) -> bytes:
    """The blob's bytes.

    Raises:
        BadInput: E_DIGEST, it is missing, or not what its name says.
    """
    path = path_of(folder, reference.digest)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BadInput.of("E_DIGEST", "blob", reference.digest.hex(), "the blob is not there") from None
    if len(content) != reference.size or hashlib.sha256(content).digest() != reference.digest:
        raise BadInput.of("E_DIGEST", "blob", reference.digest.hex())
    return content
