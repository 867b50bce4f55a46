"""New ids by the dozen: one system call for the chance in many of them."""

from __future__ import annotations

import os
import time

#: Ids for which chance is fetched at once, after the first.
_MANY = 1024
_CHANCE_BYTES = 10
#: What of these bytes is not chance: the version in the first, the variant in the third.
_FIXED, _FREE = bytes.fromhex("70008000000000000000"), bytes.fromhex("0fff3fffffffffffffff")

_forks = 0


def _forked() -> None:
    global _forks
    _forks += 1


# a forked child must not go on with its parent's chance
os.register_at_fork(after_in_child=_forked)


class NewIds:
    """Makes UUIDv7s as `wire.ids.new_id` does; for one thread at a time."""

    def __init__(self) -> None:
        self._chance, self._at, self._forks = b"", 0, _forks

    def next(self) -> bytes:
        """A fresh id."""
        if self._at >= len(self._chance) or self._forks != _forks:
            self._chance, self._at, self._forks = _marked(_MANY if self._chance else 1), 0, _forks
        at, self._at = self._at, self._at + _CHANCE_BYTES
        return (time.time_ns() // 1_000_000).to_bytes(6, "big") + self._chance[at : at + _CHANCE_BYTES]


def _marked(many: int) -> bytes:
    """The second parts of so many ids; all of them are marked at once, as one large number."""
    chance = int.from_bytes(os.urandom(many * _CHANCE_BYTES), "big")
    marked = chance & int.from_bytes(_FREE * many, "big") | int.from_bytes(_FIXED * many, "big")
    return marked.to_bytes(many * _CHANCE_BYTES, "big")
