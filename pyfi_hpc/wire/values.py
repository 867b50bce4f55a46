"""The value codec: what a task takes and gives, as bytes and back.

A value is one msgpack value; arguments are `[[positional…], {keyword…}]`. Which types travel, and what each becomes,
stands in `wire/ext.py` (our extension codes), `wire/encoding.py` and `wire/arrays.py`.
"""

from __future__ import annotations

from pyfi_hpc.wire.decoding import Resolve, decode, decode_arguments
from pyfi_hpc.wire.encoding import argument_parts, encode, encode_arguments, encode_parts
from pyfi_hpc.wire.ext import BLOB_BYTES, BLOB_MARK, BlobRef, Items, pack_items, unpack_blob

__all__ = [
    "BlobRef",
    "Items",
    "Resolve",
    "argument_parts",
    "arguments_of",
    "blob_in",
    "decode",
    "decode_arguments",
    "encode",
    "encode_arguments",
    "encode_blob",
    "encode_items",
    "encode_parts",
]


def arguments_of(value: bytes) -> bytes:
    """The arguments of a call whose only argument is `value`, already encoded: a result that flows along a plug."""
    return b"\x92\x91" + value + b"\x80"


def encode_blob(digest: bytes, size: int) -> bytes:
    """A claim check in place of a value: the blob with this SHA-256 holds its `size` encoded bytes."""
    return encode(BlobRef(digest, size), where="blob")


def encode_items(count: int) -> bytes:
    """What came of a call that yielded `count` items."""
    return pack_items(count)


def blob_in(value: bytes) -> BlobRef | None:
    """The claim check that these encoded bytes are, or None when they are a value."""
    if len(value) != BLOB_BYTES or not value.startswith(BLOB_MARK):
        return None
    return unpack_blob(value[len(BLOB_MARK) :])
