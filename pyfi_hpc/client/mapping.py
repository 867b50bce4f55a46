"""`Client.map`: a bounded number of calls in flight, inputs read as there is room."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterator
from typing import Any

from pyfi_hpc.client.futures import Future
from pyfi_hpc.client.stream import Stream
from pyfi_hpc.errors import PyfiError


class Map:
    """One run of `map`; `inputs` are tuples of arguments."""

    def __init__(
        self, stream: Stream, inputs: Iterator[tuple[object, ...]], most: int, *, return_exceptions: bool
    ) -> None:
        self._stream, self._inputs, self._most, self._return_exceptions = stream, inputs, most, return_exceptions
        self._more = True

    def in_order(self) -> Iterator[Any]:
        """Values in the order of the inputs."""
        flying: deque[Future] = deque()
        while self._more or flying:
            flying.extend(self._fill(self._most - len(flying)))
            if flying:
                yield self._value(flying.popleft())

    def as_they_come(self) -> Iterator[Any]:
        """Values in the order in which they are there."""
        done: queue.SimpleQueue[Future] = queue.SimpleQueue()
        flying = 0
        while self._more or flying:
            for future in self._fill(self._most - flying):
                future.add_done_callback(done.put)
                flying += 1
            if flying:
                flying -= 1
                yield self._value(done.get())

    def _fill(self, room: int) -> list[Future]:
        """Send up to `room` more calls; none once the inputs are at their end, or calls are being refused."""
        made: list[Future] = []
        self._more = self._more and not self._stream.ticket.refused
        while self._more and len(made) < room:
            try:
                args = next(self._inputs)
            except StopIteration:
                self._more = False
            else:
                made.append(self._stream.send(args))
        self._stream.flush()
        return made

    def _value(self, future: Future) -> Any:
        try:
            return future.result()
        except Exception as error:
            if isinstance(future.answer, PyfiError):
                self._stream.check()
            if self._return_exceptions and future.done():
                return error
            raise
