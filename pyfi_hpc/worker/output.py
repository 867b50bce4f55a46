"""What a call prints, caught at the level of file descriptors: C libraries and child processes count too."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

from pyfi_hpc.wire.limits import OUTPUT_TAIL_BYTES

_libc = ctypes.CDLL(None)
_fstat, _fflush = os.fstat, _libc.fflush


class Captured:
    """The two files that the agent made our stdout and stderr; both are emptied after each call."""

    def __init__(self) -> None:
        # copies of our own: user code may close or replace 1 and 2
        self._files = (os.dup(1), os.dup(2))
        for number in self._files:
            os.set_inheritable(number, False)

    def take(self) -> tuple[bytes, bytes]:
        """The tails of stdout and stderr since the last time."""
        _flush()
        out, err = self._files
        return _tail(out), _tail(err)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    _fflush(None)


def _tail(number: int) -> bytes:
    size = _fstat(number).st_size
    if not size:
        return b""
    tail = os.pread(number, OUTPUT_TAIL_BYTES, max(0, size - OUTPUT_TAIL_BYTES))
    os.ftruncate(number, 0)
    return tail
