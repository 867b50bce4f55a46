"""What a call prints, caught at the level of file descriptors: C libraries and child processes count too."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from typing import Any

from pyfi_hpc.wire.limits import OUTPUT_TAIL_BYTES
from pyfi_hpc.worker.isolation import copied_high

# PyDLL keeps the GIL: the file is memory, and giving it up costs more than the flush
_fflush = ctypes.PyDLL(None).fflush
_fflush.argtypes = (ctypes.c_void_p,)
# stdout alone: fflush(NULL) would wait for any stream that another thread is reading
_c_stdout = ctypes.c_void_p.in_dll(ctypes.PyDLL(None), "stdout")
_lseek, _SEEK_END = os.lseek, os.SEEK_END


class Captured:
    """The two memory files that the agent made our stdout and stderr; both are emptied after each call."""

    def __init__(self) -> None:
        # copies of our own: user code may close or replace 1 and 2
        self._out, self._err = copied_high(1), copied_high(2)

    def take(self) -> tuple[bytes, bytes]:
        """The tails of stdout and stderr since the last time."""
        if not _flush():
            self.mend()
        # lseek tells the size at a fifth of what fstat costs; the offset is of no use to appending writers
        out = _lseek(self._out, 0, _SEEK_END)
        err = _lseek(self._err, 0, _SEEK_END)
        return _tail(self._out, out) if out else b"", _tail(self._err, err) if err else b""

    def mend(self) -> None:
        """Afterwards 1 and 2 are ours again and can be printed to, whatever user code did to them."""
        for number, ours in ((1, self._out), (2, self._err)):
            if not _same(number, ours):
                os.dup2(ours, number)
        sys.stdout, sys.stderr = _usable(sys.stdout, 1), _usable(sys.stderr, 2)


def _flush() -> bool:
    """Afterwards the files have what was printed; whether the streams took it without complaint."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        if sys.stdout is not sys.__stdout__:
            sys.__stdout__.flush()  # type: ignore[union-attr]  # None raises as any other
        _fflush(_c_stdout)
        return True
    except BaseException:
        _flush_one_by_one()
        return False


def _flush_one_by_one() -> None:
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with suppress(BaseException):  # user code may have put anything there
            stream.flush()  # type: ignore[union-attr]
    _fflush(_c_stdout)


def _tail(number: int, size: int) -> bytes:
    tail = os.pread(number, OUTPUT_TAIL_BYTES, max(0, size - OUTPUT_TAIL_BYTES))
    os.ftruncate(number, 0)
    return tail


def _same(number: int, ours: int) -> bool:
    try:
        return os.path.samestat(os.fstat(number), os.fstat(ours))
    except OSError:
        return False


def _usable(stream: Any, number: int) -> Any:
    """`stream`, or a new one where it is gone or closed."""
    try:
        if not stream.closed:
            return stream
    except BaseException:
        if hasattr(stream, "write"):
            return stream
    return open(number, "w", buffering=1, errors="backslashreplace", closefd=False)
