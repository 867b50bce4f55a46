"""The worker's loop: take a message's members, run them in order, tell the agent in bunches."""

from __future__ import annotations

import os
import socket
import time
from collections import deque

from pyfi_hpc.wire.frames import Done, FrameBuffer, Hello, Item, Progress, Run, Stop, pack, read_for_worker
from pyfi_hpc.wire.messages import Message, decode_message
from pyfi_hpc.worker.calls import Runner, failure
from pyfi_hpc.worker.output import Captured

#: Results wait so long for company, at most; nothing waits when nothing else is to be run.
FLUSH_SECONDS = 0.002
_FLUSH_BYTES = 65_536
_READ_BYTES = 1_048_576


class Loop:
    """Frames in, calls run, frames out; one thread."""

    def __init__(self, connection: socket.socket, progress: Progress, output: Captured) -> None:
        self._connection, self._progress, self._output = connection, progress, output
        self._buffer = FrameBuffer()
        self._frames: deque[Run | Stop] = deque()
        self._finished = 0
        self._calling = False

    def send(self, frame: Hello | Done) -> None:
        """Hand a frame to the agent; without an agent there is nothing left to do."""
        try:
            self._connection.sendall(pack(frame))
        except OSError:
            os._exit(1)

    def serve(self, runner: Runner) -> None:
        """Run what comes until the agent says stop or goes away."""
        while True:
            while self._frames:
                frame = self._frames.popleft()
                if isinstance(frame, Stop):
                    return
                self._run(frame, runner)
            data = self._receive()
            self._frames.extend(read_for_worker(body) for body in self._buffer.feed(data))

    def interrupt(self, *_: object) -> None:
        """The agent's SIGINT: stop the call that runs; between calls it came too late and means nothing."""
        if self._calling:
            raise KeyboardInterrupt

    def _receive(self) -> bytes:
        data = self._connection.recv(_READ_BYTES)
        if not data:
            os._exit(0)
        return data

    def _run(self, frame: Run, runner: Runner) -> None:
        message = decode_message(frame.body)
        items: list[Item] = []
        size, first = 0, 0.0
        for index in frame.indexes:
            item = self._member(frame, index, message, runner)
            items.append(item)
            size += len(item.value or b"") + len(item.out) + len(item.err)
            now = time.monotonic()
            first = first or now
            if now - first >= FLUSH_SECONDS or item.ended - item.started >= FLUSH_SECONDS or size >= _FLUSH_BYTES:
                self.send(Done(frame.token, tuple(items)))
                items, size, first = [], 0, 0.0
        if items:
            self.send(Done(frame.token, tuple(items)))

    def _member(self, frame: Run, index: int, message: Message, runner: Runner) -> Item:
        call = message.calls[index]
        started = time.time()
        self._progress.begin(frame.token, index, time.monotonic(), self._finished)
        try:
            self._calling = True
            value, error = runner.run(frame.task, call)
            self._calling = False
        except KeyboardInterrupt as interrupted:
            self._calling = False
            value, error = None, failure(interrupted)
        self._finished += 1
        self._progress.begin(frame.token, -1, 0.0, self._finished)
        out, err = self._output.take()
        return Item(index, value, error, started, time.time(), out, err)
