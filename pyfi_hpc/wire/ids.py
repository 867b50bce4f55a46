"""Ids: made by the client before the first try, and derived for everything that follows from a call.

A new id is a UUIDv7 (RFC 9562): 48 bits of milliseconds, then chance. A child's id keeps the parent's 48 bits and takes
the rest from SHA-256(parent, edge, index) as a version 8 UUID, so every attempt derives the same children.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid

from pyfi_hpc.errors import BadInput

ID_BYTES = 16
SHORT_DIGITS = 10


def new_id() -> bytes:
    """A fresh UUIDv7 as 16 bytes."""
    milliseconds = time.time_ns() // 1_000_000
    chance = bytearray(os.urandom(10))
    chance[0] = 0x70 | (chance[0] & 0x0F)
    chance[2] = 0x80 | (chance[2] & 0x3F)
    return milliseconds.to_bytes(6, "big") + bytes(chance)


def child_id(parent: bytes, edge: bytes, index: int = 0) -> bytes:
    """The id of what flows from `parent` along `edge` (a plug's id or a task key) as its item `index`."""
    digest = hashlib.sha256(parent + edge + index.to_bytes(8, "big")).digest()
    rest = bytearray(digest[:10])
    rest[0] = 0x80 | (rest[0] & 0x0F)
    rest[2] = 0x80 | (rest[2] & 0x3F)
    return parent[:6] + bytes(rest)


def item_id(parent: bytes, number: int) -> bytes:
    """The id of item `number`, from 0, of a call that yields."""
    return child_id(parent, b"item", number)


def parse_id(text: object) -> bytes:
    """The 16 bytes of a person's own id.

    Raises:
        BadInput: E_ID, not a UUID or the nil UUID.
    """
    try:
        value = text if isinstance(text, uuid.UUID) else uuid.UUID(str(text))
    except ValueError:
        raise BadInput.of("E_ID", "id", text, "an id is a UUID") from None
    if value.int == 0:
        raise BadInput.of("E_ID", "id", text, "the nil UUID is no id")
    return value.bytes


def id_text(identity: bytes) -> str:
    """The full form, 8-4-4-4-12."""
    return str(uuid.UUID(bytes=identity))


def short(identity: bytes) -> str:
    """The last ten hex digits: the first ones are time, shared by a whole `map`."""
    return identity.hex()[-SHORT_DIGITS:]


def call_digest(socket: bytes, args: bytes) -> bytes:
    """What makes two calls the same call: 16 bytes over the socket's id and the encoded arguments."""
    return hashlib.blake2b(socket + args, digest_size=16).digest()
