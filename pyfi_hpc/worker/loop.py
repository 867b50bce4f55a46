"""The worker's loop: take a message's members, run them in order, tell the agent in bunches. One thread."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import deque

from pyfi_hpc.wire.frames import FrameBuffer, Item, Progress, Run, Stop, Taken, ToWorker, read_for_worker
from pyfi_hpc.wire.messages import ErrorRecord, Message, decode_message
from pyfi_hpc.worker import failures
from pyfi_hpc.worker.calls import Answer, Runner, Task
from pyfi_hpc.worker.interrupts import Interrupts, restore_in_children
from pyfi_hpc.worker.outbox import FLUSH_SECONDS, Outbox
from pyfi_hpc.worker.output import Captured
from pyfi_hpc.worker.yielding import Yielding

_READ_BYTES = 65_536
_monotonic = time.monotonic


class Loop:
    """Frames in, calls run, items out."""

    def __init__(
        self, connection: socket.socket, progress: Progress, outbox: Outbox, output: Captured, interrupts: Interrupts
    ) -> None:
        self._connection, self._progress, self._outbox = connection, progress, outbox
        self._output, self._interrupts = output, interrupts
        self._forked = False
        self._buffer, self._frames = FrameBuffer(), deque[ToWorker]()
        self.items = Yielding(outbox.send, self._hear, lambda: progress.read()[:2])
        #: tasks that took long once: what is finished does not wait for them
        self._slow: set[str] = set()
        restore_in_children(self._leave_to_the_parent)

    def serve(self, runner: Runner) -> None:
        """Run what comes until the agent says stop; its end is ours."""
        while True:
            while not self._frames:
                self._hear()
            frame = self._frames.popleft()
            if isinstance(frame, Stop):
                return
            if isinstance(frame, Run):
                self._run(frame, runner)
                self._output.mend()
                self._outbox.flush()

    def _hear(self) -> None:
        """Wait for the agent; what it says of items is heard at once, anything else when its turn comes."""
        if not (data := self._connection.recv(_READ_BYTES)):
            os._exit(0)
        for body in self._buffer.feed(data):
            frame = read_for_worker(body)
            if isinstance(frame, Taken):
                self.items.taken(frame.token, frame.index, frame.count)
            else:
                self._frames.append(frame)

    def _run(self, frame: Run, runner: Runner) -> None:
        self._outbox.begin(frame.token)
        try:
            message = decode_message(frame.body)
        except BaseException as error:
            self._refuse(frame, failures.refused(error))
            return
        function = runner.task(frame.task)
        if isinstance(function, ErrorRecord):
            self._refuse(frame, function)
        else:
            self._members(frame, message, function, runner)

    def _refuse(self, frame: Run, error: ErrorRecord) -> None:
        now = time.time()
        for index in frame.indexes:
            self._outbox.add(Item(index, None, error, now, now), _monotonic())

    def _members(self, frame: Run, message: Message, function: Task, runner: Runner) -> None:
        progress, outbox, take, interrupts = self._progress, self._outbox, self._output.take, self._interrupts
        token, name, socket, items = frame.token, frame.task, message.socket, self.items
        # one look at the wall clock: a step of it meanwhile is no running time
        epoch = time.time() - _monotonic()
        for index in frame.indexes:
            if name in self._slow:
                outbox.flush()
            interrupts.seen = False
            began = _monotonic()
            progress.begin(token, index, began, outbox.finished)
            try:
                answer = runner.run(function, message.calls[index], name, socket)
            except BaseException as error:  # a fault of ours; the call gets its answer all the same
                interrupts.active = False
                answer = failures.refused(error)
            if self._forked:
                _end_child(answer)
            interrupts.reinstall()
            out, err = take()
            ended = _monotonic()
            if ended - began >= FLUSH_SECONDS:
                self._slow.add(name)
            outbox.add(_item(index, answer, epoch + began, epoch + ended, out, err, items.finish()), ended)

    def _leave_to_the_parent(self) -> None:
        """In a child that user code forked: the agent must not take it for us, nor wait for its end."""
        self._forked = True
        self._connection.close()
        self._interrupts.active = False


def _item(
    index: int, answer: Answer, started: float, ended: float, out: bytes, err: bytes, yielded: int | None
) -> Item:
    if isinstance(answer, ErrorRecord):
        return Item(index, None, answer, started, ended, out, err, (), yielded)
    return Item(index, answer, None, started, ended, out, err, (), yielded)


def _end_child(answer: Answer) -> None:
    """A forked child came back from the task: the call is its parent's to answer."""
    if isinstance(answer, ErrorRecord):
        sys.stderr.write(answer.traceback or answer.message)
        sys.stderr.flush()
    os._exit(1 if isinstance(answer, ErrorRecord) else 0)
