"""A call's arguments as bytes; what is too large for a message waits in the blob store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pyfi_hpc.errors import BadInput
from pyfi_hpc.wire import blobs, values
from pyfi_hpc.wire.blobs import Content
from pyfi_hpc.wire.limits import INLINE_BYTES
from pyfi_hpc.wire.values import BlobRef

#: Where a call is too large as a whole, arguments of at least this size leave it.
_LARGE_BYTES = 16 * 2**10


class Packed(NamedTuple):
    """A call's arguments as bytes, and what of them is yet to be stored before the call is sent."""

    data: bytes
    contents: Sequence[Content] = ()


class Packer:
    """Encodes arguments, with `folder` as the blob store."""

    def __init__(self, folder: Path, most: int = 2**30, quota_bytes: int = 0) -> None:
        """An argument of more than `most` bytes is refused; all blobs together have `quota_bytes`, 0: no limit."""
        self._folder, self._most, self._quota_bytes = folder, most, quota_bytes
        self._resolve = partial(blobs.get, folder)

    def pack(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bytes:
        """The arguments' bytes, `INLINE_BYTES` at most; what is too large for these is stored, durable.

        Raises:
            BadInput: E_TYPE, E_RANGE, E_DTYPE or E_LIMIT, with the path to the value.
            Unavailable: E_STORAGE_FULL.
        """
        packed = self.packed(args, kwargs)
        for content in packed.contents:
            self.keep(content)
        return packed.data

    def packed(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Packed:
        """The same, with what can wait a moment left to be stored by `keep`; raises as `pack` does."""
        parts = values.argument_parts(args, kwargs)
        if len(parts) == 1 and len(parts[0]) <= INLINE_BYTES:
            return Packed(bytes(parts[0]))
        if sum(map(len, parts)) <= INLINE_BYTES:
            return Packed(b"".join(parts))
        left: list[Content] = []
        light = tuple(self._lighter(value, f"args[{index}]", left) for index, value in enumerate(args))
        named = {name: self._lighter(value, f"kwargs[{name!r}]", left) for name, value in kwargs.items()}
        data = values.encode_arguments(light, named)
        if len(data) > INLINE_BYTES:
            raise BadInput.of("E_LIMIT", "arguments", f"{len(data)} bytes", "too many arguments for one call")
        return Packed(data, left)

    def _lighter(self, value: object, where: str, left: list[Content]) -> object:
        """The value, or a claim check for it; its elements are written from where they lie, where it is an array."""
        parts = values.encode_parts(value, where=where)
        if (size := sum(map(len, parts))) < _LARGE_BYTES:
            return value
        if size > self._most:
            cure = "send the path of a file that workers see, or raise client.max_value_bytes"
            raise BadInput.of("E_LIMIT", where, f"{size} bytes", f"at most {self._most} bytes are sent", cure=cure)
        content = blobs.weighed(*parts)
        if not content.steady:
            return self.keep(content)
        left.append(content)
        return content.reference

    def keep(self, content: Content) -> BlobRef:
        """Store it, durable: see `wire.blobs.keep`."""
        return blobs.keep(self._folder, content, self._quota_bytes)

    def unpack(self, data: bytes) -> object:
        """The value that these bytes are, blobs followed."""
        return values.decode(data, resolve=self._resolve)
