"""Finished values that the database could not take yet, kept in a file so that even the agent's death loses no work.

Nothing in it is ever the only copy of an invocation: its delivery is unacked, and at worst runs again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from pyfi_hpc.agent.commit.verdicts import single
from pyfi_hpc.agent.lots import Finished
from pyfi_hpc.wire.frames import Item
from pyfi_hpc.wire.messages import Message


class Spooled(msgspec.Struct, array_like=True, frozen=True):
    """One finished member: its message of one call, what came of it, and which worker ran it."""

    message: Message
    item: Item
    worker: bytes | None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Spooled)


class Spool:
    """A folder of files, one for each agent incarnation that had to spool."""

    def __init__(self, folder: Path, incarnation: bytes) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._own = folder / f"{incarnation.hex()}.spool"

    def write(self, finished: Iterable[Finished]) -> int:
        """Append the values among `finished`; returns how many. Failures are not kept: they may simply run again."""
        count = 0
        with self._own.open("ab") as file:
            for done in finished:
                # items of a call that yields stay with their attempt
                if done.item.error is None and done.stream is None:
                    serial = done.lot.call(done.index).serial
                    body = _encoder.encode(Spooled(single(done.lot, done.index, serial), done.item, done.worker))
                    file.write(len(body).to_bytes(4, "big") + body)
                    count += 1
        return count

    def clear(self) -> None:
        """Everything that this incarnation spooled is committed."""
        self._own.unlink(missing_ok=True)

    def left_over(self) -> list[tuple[Path, list[Spooled]]]:
        """What earlier incarnations left, file by file; what stands after a torn entry is dropped."""
        files = sorted(path for path in self._folder.glob("*.spool") if path != self._own)
        return [(path, list(_entries(path.read_bytes()))) for path in files]


def _entries(data: bytes) -> Iterable[Spooled]:
    at = 0
    while at + 4 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 4 + length]
        if len(body) < length:
            return
        try:
            entry = _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            # a write that failed half-way, and another after it: what follows cannot be told apart
            return
        yield entry
        at += 4 + length
