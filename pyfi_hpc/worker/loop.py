"""The worker's loop: take a message's members, run them in order, tell the agent in bunches. One thread.

Once the agent speaks of pipes, calls come from other workers too, and values go to them: see `worker/passing.py`.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyfi_hpc.wire.frames import (
    Far,
    FrameBuffer,
    Item,
    Link,
    Listen,
    Outlets,
    Progress,
    Run,
    Stop,
    Taken,
    ToWorker,
    read_for_worker,
)
from pyfi_hpc.wire.messages import Call, ErrorRecord, Message, decode_message
from pyfi_hpc.worker import failures
from pyfi_hpc.worker.calls import Answer, Runner, Task
from pyfi_hpc.worker.interrupts import Interrupts, restore_in_children
from pyfi_hpc.worker.outbox import FLUSH_SECONDS, Outbox
from pyfi_hpc.worker.output import Captured
from pyfi_hpc.worker.yielding import ByBroker, Yielding

if TYPE_CHECKING:
    from pyfi_hpc.pipes.protocol import Passed
    from pyfi_hpc.worker.passing import Bunch, Edge, Passing
    from pyfi_hpc.worker.storing import Storing

_READ_BYTES = 65_536
#: Calls that came by pipes run for so long before the agent's have their turn.
_TURN_SECONDS = 0.004
#: Calls that take longer have their large results stored before the next one runs.
BRIEF_SECONDS = 0.02
#: After one that takes long, so many short calls show that a task is short after all.
_SLOW_CALLS = 16
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
        self._passing: Passing | None = None
        self._storing: Storing | None = None
        #: the task whose results are stored beside its next call
        self._brief = ""
        #: tasks that took long of late, and for how many calls that counts: what is finished does not wait for them
        self._slow: dict[str, int] = {}
        restore_in_children(self._leave_to_the_parent)

    def serve(self, runner: Runner) -> None:
        """Run what comes until the agent says stop; its end is ours."""
        while True:
            if self._passing is not None and self._passing.queue:
                self._bunch(self._passing.queue, runner)
            frame = self._next()
            if isinstance(frame, Run):
                self._run(frame, runner)
                if not (self._frames and isinstance(self._frames[0], Run)):
                    self._output.mend()
                    self._outbox.flush()
            elif isinstance(frame, Listen | Outlets | Far):
                self._use_pipes(frame)
            elif isinstance(frame, Stop):
                break
        if self._storing is not None:
            self._storing.settle()
        if (passing := self._passing) is not None:
            passing.finish(lambda: self._bunch(passing.queue, runner))

    def _next(self) -> ToWorker | None:
        """The agent's next frame; None where it has said nothing and calls wait that came by pipes."""
        while not self._frames:
            if self._passing is not None and not self._passing.wait():
                return None
            self._hear()
        return self._frames.popleft()

    def _hear(self) -> None:
        """Wait for the agent; what it says of items is heard at once, anything else when its turn comes."""
        if self._storing is not None:
            self._storing.wait_for_agent()
        if not (data := self._connection.recv(_READ_BYTES)):
            os._exit(0)
        for body in self._buffer.feed(data):
            frame = read_for_worker(body)
            if isinstance(frame, Taken):
                self.items.taken(frame.token, frame.index, frame.count)
            else:
                self._frames.append(frame)

    def _use_pipes(self, frame: Listen | Outlets | Far) -> None:
        """Open our ends of pipes. Only now is their code loaded: most workers never need it.

        An environment where that fails (its own `zmq` is another, say) has no pipes, and its values take the broker.
        """
        try:
            if self._passing is None:
                from pyfi_hpc.worker.passing import Passing

                self._passing = Passing(self._connection, self._outbox.flush, self._outbox.send)
                self._outbox.ahead = self._passing.send
        except Exception:
            return
        if isinstance(frame, Listen):
            self._passing.listen(frame)
        elif isinstance(frame, Far):
            self._passing.far(frame)
        else:
            self._passing.outlets(frame)

    # messages from the agent

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
        edges = self._passing.edges(socket) if self._passing is not None and frame.passing else ()
        runner.keeps, runner.puts_off = bool(edges), self._passing is None
        # one look at the wall clock: a step of it meanwhile is no running time
        epoch = time.time() - _monotonic()
        for index in frame.indexes:
            if name in self._slow:
                outbox.flush()
            if self._storing is not None and name != self._brief:
                self._storing.settle()
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
            if name in self._slow or ended - began >= FLUSH_SECONDS:
                self._learn(name, ended - began)
            passed: tuple[tuple[bytes, int], ...] = ()
            yielded = items.finish()
            if edges and yielded is None and not isinstance(answer, ErrorRecord):
                passed = self._pass_on(edges, (token, index), 0, message.calls[index].id, answer, runner)
            item = _item(index, answer, epoch + began, epoch + ended, out, err, passed, yielded)
            if runner.left is None:
                outbox.add(item, ended)
            else:
                self._store(token, name, item, began, runner)

    def _store(self, token: int, task: str, item: Item, began: float, runner: Runner) -> None:
        """Have a large result stored before it is told, beside the next call where calls are brief."""
        content, runner.left = runner.left, None
        assert content is not None
        if self._storing is None:
            from pyfi_hpc.worker.storing import Storing

            self._storing = Storing(self._connection, self._progress, self._outbox, runner.keep)
        self._storing.put(token, item, began, content)
        if item.ended - item.started < BRIEF_SECONDS:
            self._brief = task
        else:
            self._brief = ""
            self._storing.settle()

    def _learn(self, name: str, seconds: float) -> None:
        left = _SLOW_CALLS if seconds >= FLUSH_SECONDS else self._slow[name] - 1
        if left:
            self._slow[name] = left
        else:
            # it was the machine, not the task
            del self._slow[name]

    def _pass_on(
        self, edges: Sequence[Edge], head: tuple[int, int], depth: int, parent: bytes, value: bytes, runner: Runner
    ) -> tuple[tuple[bytes, int], ...]:
        assert self._passing is not None
        whole, runner.whole = runner.whole, None
        return self._passing.pass_on(edges, head, depth, parent, value, whole)

    # calls from other workers

    def _bunch(self, queue: deque[Bunch], runner: Runner) -> None:
        """Run the first calls that came by pipes, for one turn."""
        assert self._passing is not None
        bunch, now = queue[0], _monotonic()
        function, edges = runner.task(bunch.task), self._passing.edges(bunch.socket)
        runner.keeps, runner.puts_off = bool(edges), False
        epoch, until = time.time() - now, now + _TURN_SECONDS
        while bunch.calls and now < until:
            now = self._reached(bunch, function, edges, runner, epoch)
        if not bunch.calls:
            # a call that its own worker passed on to itself may stand behind it, never before it
            queue.popleft()
        self._output.mend()
        self._outbox.flush()

    def _reached(
        self, bunch: Bunch, function: Task | ErrorRecord, edges: Sequence[Edge], runner: Runner, epoch: float
    ) -> float:
        """Run the next call of `bunch`; when it ended. `epoch` is the wall clock's time at 0 of the monotonic one."""
        passed, name = bunch.calls.popleft(), bunch.task
        interrupts, outbox = self._interrupts, self._outbox
        if name in self._slow:
            outbox.flush()
        interrupts.seen = False
        began = _monotonic()
        token, index, identity = passed.token, passed.index, passed.id
        self._progress.begin(token, index, began, outbox.finished, identity, bunch.socket)
        answer = self._answer(bunch, passed, function, runner)
        bunch.origin.finished(passed)
        interrupts.reinstall()
        if answer is None:
            outbox.untaken(token, index, identity)
            return _monotonic()
        out, err = self._output.take()
        ended = _monotonic()
        if name in self._slow or ended - began >= FLUSH_SECONDS:
            self._learn(name, ended - began)
        along: tuple[tuple[bytes, int], ...] = ()
        if edges and not isinstance(answer, ErrorRecord):
            along = self._pass_on(edges, (token, index), passed.depth, identity, answer, runner)
        item = _item(index, answer, epoch + began, epoch + ended, out, err, along)
        outbox.reached(Link(token, index, identity, item), ended)
        return ended

    def _answer(self, bunch: Bunch, passed: Passed, function: Task | ErrorRecord, runner: Runner) -> Answer | None:
        """What comes of a call that came by a pipe; None of one that belongs to the broker, and has not begun."""
        try:
            self.items.by_pipe = True
            if isinstance(function, ErrorRecord):
                answer: Answer = function
            else:
                call = Call(passed.id, b"", b"")
                answer = runner.run(function, call, bunch.task, bunch.socket, bunch.origin.arguments(passed))
        except ByBroker:
            self._interrupts.active = False
            return None
        except BaseException as error:  # a fault of ours, as above
            self._interrupts.active = False
            answer = failures.refused(error)
        finally:
            self.items.by_pipe = False
        if self._forked:
            _end_child(answer)
        return answer

    def _leave_to_the_parent(self) -> None:
        """In a child that user code forked: the agent must not take it for us, nor wait for its end."""
        self._forked = True
        self._connection.close()
        self._interrupts.active = False


def _item(
    index: int,
    answer: Answer,
    started: float,
    ended: float,
    out: bytes,
    err: bytes,
    passed: tuple[tuple[bytes, int], ...] = (),
    yielded: int | None = None,
) -> Item:
    if isinstance(answer, ErrorRecord):
        return Item(index, None, answer, started, ended, out, err, (), yielded)
    return Item(index, answer, None, started, ended, out, err, passed, yielded)


def _end_child(answer: Answer) -> None:
    """A forked child came back from the task: the call is its parent's to answer."""
    if isinstance(answer, ErrorRecord):
        sys.stderr.write(answer.traceback or answer.message)
        sys.stderr.flush()
    os._exit(1 if isinstance(answer, ErrorRecord) else 0)
