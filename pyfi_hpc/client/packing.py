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

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def pack(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bytes:
        """The arguments' bytes, `INLINE_BYTES` at most.

        Raises:
            BadInput: E_TYPE, E_RANGE, E_DTYPE or E_LIMIT, with the path to the value.
            Unavailable: E_STORAGE_FULL.
        """
        data = values.encode_arguments(args, kwargs)
        if len(data) <= INLINE_BYTES:
            return data
        light = tuple(self._lighter(value, f"args[{index}]") for index, value in enumerate(args))
        named = {name: self._lighter(value, f"kwargs[{name!r}]") for name, value in kwargs.items()}
        data = values.encode_arguments(light, named)
        if len(data) > INLINE_BYTES:
            raise BadInput.of("E_LIMIT", "arguments", f"{len(data)} bytes", "too many arguments for one call")
        return data

    def _lighter(self, value: object, where: str) -> object:
        data = values.encode(value, where=where)
        return blobs.put(self._folder, data) if len(data) >= _LARGE_BYTES else value

    def unpack(self, data: bytes) -> object:
        """The value that these bytes are, blobs followed."""
        return values.decode(data, resolve=lambda reference: blobs.get(self._folder, reference))
