"""A call's arguments as bytes; what is too large for a message waits in the blob store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pyfi_hpc.errors import BadInput
from pyfi_hpc.wire import blobs, values
from pyfi_hpc.wire.limits import INLINE_BYTES

#: Where a call is too large as a whole, arguments of at least this size leave it.
_LARGE_BYTES = 16 * 2**10


class Packer:
    """Encodes arguments, with `folder` as the blob store. Files are durable before the call is sent."""

    def __init__(self, folder: Path, most: int = 2**30) -> None:
        """An argument of more than `most` bytes is refused."""
        self._folder, self._most = folder, most

    def pack(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bytes:
        """The arguments' bytes, `INLINE_BYTES` at most.

        Raises:
            BadInput: E_TYPE, E_RANGE, E_DTYPE or E_LIMIT, with the path to the value.
            Unavailable: E_STORAGE_FULL.
        """
        parts = values.argument_parts(args, kwargs)
        if len(parts) == 1 and len(parts[0]) <= INLINE_BYTES:
            return bytes(parts[0])
        if sum(map(len, parts)) <= INLINE_BYTES:
            return b"".join(parts)
        light = tuple(self._lighter(value, f"args[{index}]") for index, value in enumerate(args))
        named = {name: self._lighter(value, f"kwargs[{name!r}]") for name, value in kwargs.items()}
        data = values.encode_arguments(light, named)
        if len(data) > INLINE_BYTES:
            raise BadInput.of("E_LIMIT", "arguments", f"{len(data)} bytes", "too many arguments for one call")
        return data

    def _lighter(self, value: object, where: str) -> object:
        """The value, or a claim check for it; its elements are written from where they lie, where it is an array."""
        parts = values.encode_parts(value, where=where)
        if (size := sum(map(len, parts))) < _LARGE_BYTES:
            return value
        if size > self._most:
            cure = "send the path of a file that workers see, or raise client.max_value_bytes"
            raise BadInput.of("E_LIMIT", where, f"{size} bytes", f"at most {self._most} bytes are sent", cure=cure)
        return blobs.put(self._folder, *parts)

    def unpack(self, data: bytes) -> object:
        """The value that these bytes are, blobs followed."""
        return values.decode(data, resolve=lambda reference: blobs.get(self._folder, reference))
