"""Frames between an agent and its workers, as bytes."""

from __future__ import annotations

import pytest

from pyfi_hpc.wire.frames import FrameBuffer, Run, Stop, ToWorker, pack_onto, read_for_worker

FRAMES: list[ToWorker] = [Run(1, "double", b"b" * 300_000, (0, 1)), Stop(), Run(2, "double", b"", ())]


@pytest.mark.parametrize("size", [100, 65_536, 2**20])
def test_frames_that_were_appended_to_what_waits_are_read_however_they_are_cut(size: int) -> None:
    waiting = bytearray()
    for frame in FRAMES:
        pack_onto(waiting, frame)

    buffer = FrameBuffer()
    pieces = [bytes(waiting[at : at + size]) for at in range(0, len(waiting), size)]
    assert [read_for_worker(body) for piece in pieces for body in buffer.feed(piece)] == FRAMES
