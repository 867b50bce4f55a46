"""One blob folder as client, agent and control plane use it. How a blob is laid out stands in `wire.blobs`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pyfi_hpc.wire import blobs
from pyfi_hpc.wire.values import BlobRef


@dataclass(frozen=True, slots=True)
class BlobStore:
    """The blobs in `folder`."""

    folder: Path

    def put(self, content: bytes) -> BlobRef:
        """As `wire.blobs.put`."""
        return blobs.put(self.folder, content)

    def get(self, reference: BlobRef) -> memoryview:
        """As `wire.blobs.get`; what `values.decode` takes as `resolve`."""
        return blobs.get(self.folder, reference)

    def outgoing(self, value: bytes) -> bytes:
        """As `wire.blobs.outgoing`."""
        return blobs.outgoing(self.folder, value)
