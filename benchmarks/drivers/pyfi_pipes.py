"""Arrays of 4 MB through pyfi-hpc's pipes, from process to process: `python -m benchmarks.drivers.pyfi_pipes FOLDER`.

What workers do with a result that goes into a pipe and is the next one's argument, without their agents: encoded, put
into memory that both see, told of, decoded where it lies. As it is with an array that its task has made and let go of,
its elements are read where they are. What a worker does besides, so that its result is durable, is not measured here.
"""

from __future__ import annotations

import os
import secrets
import select
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from benchmarks.drivers import arrays
from benchmarks.drivers.caller import Caller
from benchmarks.drivers.serving import serve
from benchmarks.drivers.shared_memory import SIZE, SOURCES
from pyfi_hpc.pipes import sockets
from pyfi_hpc.pipes.protocol import Passed
from pyfi_hpc.pipes.receiving import size_of
from pyfi_hpc.wire.ext import Buffer
from pyfi_hpc.wire.ids import new_id
from pyfi_hpc.wire.values import decode_arguments, encode_parts
from pyfi_hpc.worker.passing import placed

_LEAST = 20
_TARGET = new_id()
#: What a call takes of the window besides its value, at most.
_MORE_BYTES = 8192
_PATIENCE_SECONDS = 10.0
#: As `worker.passing` has it.
_SETTLE_SECONDS = 0.02


class _Pipes(Caller):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def single(self, number: int) -> int:
        return 2 * number

    def pipe(self, seconds: float) -> dict[str, float]:
        """GB/s, for about so long."""
        path, secret = str(self._folder / secrets.token_hex(4)), secrets.token_bytes(32)
        answer, answers = os.pipe()
        if (child := os.fork()) == 0:
            os.write(answers, b"%d" % _receive(path, secret))
            os._exit(0)
        try:
            count, took = _sent(path, secret, seconds)
            if int(os.read(answer, 100)) != count:
                raise SystemExit(f"of {count} arrays not all have come as they were sent")
            return {"gb_per_second": SIZE * count / took / 1e9}
        finally:
            os.waitpid(child, 0)
            os.close(answer)
            os.close(answers)


def _sent(path: str, secret: bytes, seconds: float) -> tuple[int, float]:
    """How many arrays the receiver has taken, and how long that took."""
    sources, count = [arrays.carrying(0, SIZE) for _ in range(SOURCES)], 0
    pipe = sockets.Pipe(sockets.context(), path, secret)
    _until(pipe, lambda: pipe.sending.welcome)
    began = time.perf_counter()
    while count < _LEAST or time.perf_counter() - began < seconds:
        array = sources[count % SOURCES]
        array[0] = count
        _pass_on(pipe, encode_parts(array))
        count += 1
    _until(pipe, lambda: not pipe.sending.untaken)
    took = time.perf_counter() - began
    pipe.leave(time.monotonic())
    pipe.close(time.monotonic())
    return count, took


def _pass_on(pipe: sockets.Pipe, parts: Sequence[Buffer]) -> None:
    """As `worker.passing` does it."""
    size = sum(map(len, parts)) + _MORE_BYTES
    _until(pipe, lambda: pipe.sending.window.room(size))
    place = placed(pipe, parts)
    if place is None:
        raise SystemExit("the pipe has no memory for an array")
    call = Passed(1, 0, 1, _TARGET, place)
    pipe.sending.add(_TARGET, "double", call, size_of(call))
    pipe.send(time.monotonic())


def _until(pipe: sockets.Pipe, true: Callable[[], bool]) -> None:
    """Take what the receiver says until that is so.

    Raises:
        SystemExit: it is not.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    pipe.turn(time.monotonic())
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit("the pipe does not move")
        if (fd := pipe.fd) is None:
            time.sleep(0.01)
        else:
            select.select([fd], [], [], 0.1)
        pipe.turn(time.monotonic())


def _receive(path: str, secret: bytes) -> int:
    """How many arrays have come, in order and whole, until the sender leaves."""
    inlet, count = sockets.Inlet(sockets.context(), path, secret), 0
    greeted = False
    while not greeted or inlet.expecting:
        greeted = greeted or inlet.expecting
        for bunch in inlet.hear():
            for call in bunch.calls:
                (array,), _ = cast("tuple[tuple[Any], Any]", decode_arguments(bunch.origin.arguments(call)))
                count += bool(array[0] == count and array[1] == array[-1] == 1.0)
                del array
                bunch.origin.finished(call)
        inlet.credit(small=False)
        if not select.select([inlet.fd], [], [], _SETTLE_SECONDS)[0]:
            inlet.credit(small=True)
    return count


if __name__ == "__main__":
    serve(_Pipes(Path(sys.argv[1])))
