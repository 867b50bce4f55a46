"""New ids by the dozen: one system call for the chance in many of them."""

from __future__ import annotations

import os
import time

#: Ids for which chance is fetched at once, after the first.
_MANY = 1024
_CHANCE_BYTES = 10

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
            many = _MANY if self._chance else 1
            self._chance, self._at, self._forks = os.urandom(many * _CHANCE_BYTES), 0, _forks
        at, self._at = self._at, self._at + _CHANCE_BYTES
        chance = bytearray(self._chance[at : at + _CHANCE_BYTES])
        chance[0] = 0x70 | (chance[0] & 0x0F)
        chance[2] = 0x80 | (chance[2] & 0x3F)
        return (time.time_ns() // 1_000_000).to_bytes(6, "big") + bytes(chance)
