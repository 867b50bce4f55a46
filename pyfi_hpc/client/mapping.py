"""`Client.map`: a bounded number of calls in flight, inputs read as there is room."""

from __future__ import annotations

import itertools
import queue
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from pyfi_hpc.client.futures import Future, Latch
from pyfi_hpc.client.notices import NEVER
from pyfi_hpc.client.stream import Stream
from pyfi_hpc.client.tickets import unsent
from pyfi_hpc.errors import BadInput, PyfiError, WaitTimeout

#: What an input became: a call, or the reason why it is none.
Entry: TypeAlias = Future | Exception


class Outcomes:
    """How what an input became is told, the same for `map` and its asyncio form."""

    def __init__(self, timeout: float | None, *, return_exceptions: bool) -> None:
        """`timeout` is seconds from now."""
        self._timeout, self._return_exceptions = timeout, return_exceptions
        #: on the monotonic clock
        self.until = NEVER if timeout is None else time.monotonic() + timeout

    @property
    def left(self) -> float | None:
        """Seconds that one may still wait; None for ever."""
        return None if self.until == NEVER else max(0.0, self.until - time.monotonic())

    @property
    def over(self) -> bool:
        """Whether the time is."""
        return self.until != NEVER and time.monotonic() >= self.until

    def failed(self, error: Exception, future: Future | None = None) -> Exception:
        """The error of one input as the value in its place; raised instead where that was not asked for."""
        if self._return_exceptions and (future is None or future.done()):
            return error
        raise error

    @property
    def ends_at_error(self) -> bool:
        """Whether the first error ends the map."""
        return not self._return_exceptions

    def unsent(self, error: Exception, flying: Iterable[Entry]) -> Exception:
        """As `failed`, for an input of which no call came; it says which calls go on."""
        if isinstance(error, PyfiError) and self.ends_at_error:
            error.facts["ids"] = _under_way(flying)
        return self.failed(error)

    def late(self, flying: Iterable[Entry], *, accepted: bool) -> WaitTimeout:
        """What is raised once the time is over, and whether all calls are known to be accepted or not by then."""
        ids = _under_way(flying)
        what = f"map has no next value after {self._timeout or 0.0:.10g} s; the {len(ids)} calls under way go on"
        what += "" if accepted else ", as far as they are accepted"
        return WaitTimeout("E_TIMEOUT", what, cure="Client().future(id) asks again", ids=ids)


def _under_way(entries: Iterable[Entry]) -> list[str]:
    return [each.id for each in entries if isinstance(each, Future) and not each.done()]


class Arrivals(Latch):
    """Futures in the order in which they get done."""

    def __init__(self) -> None:
        self._done: queue.SimpleQueue[Entry] = queue.SimpleQueue()

    def ring(self, future: Future) -> None:
        self._done.put(future)

    def put(self, entries: Iterable[Entry]) -> None:
        """These are on their way, or as done as they will ever be."""
        for entry in entries:
            if isinstance(entry, Exception) or not entry.tell(self):
                self._done.put(entry)

    @property
    def empty(self) -> bool:
        """Whether the next one has to be waited for."""
        return self._done.empty()

    def next(self, seconds: float | None) -> Entry | None:
        """The next that is done; None where there is none within so many seconds."""
        try:
            return self._done.get(timeout=seconds)
        except queue.Empty:
            return None


class Map:
    """One run of `map`; `inputs` are tuples of arguments, `most` is how many calls may be in flight."""

    def __init__(self, stream: Stream, inputs: Iterator[tuple[object, ...]], most: int, outcomes: Outcomes) -> None:
        self._stream, self._inputs, self._most, self._outcomes = stream, inputs, most, outcomes
        self._more = True
        self._broken: Exception | None = None
        self._numbers = itertools.count()

    def in_order(self) -> Iterator[Any]:
        """Values in the order of the inputs."""
        flying: deque[Entry] = deque()
        try:
            while (sent := self._sent(len(flying))) or flying:
                flying.extend(sent)
                yield self._value(flying[0], flying)
                flying.popleft()
            self._end()
        finally:
            self._stream.flush()
            self._stream.let_go(flying)

    def as_they_come(self) -> Iterator[Any]:
        """Values in the order in which they are there."""
        arrivals = Arrivals()
        flying: set[Entry] = set()
        try:
            while (sent := self._sent(len(flying))) or flying:
                flying.update(sent)
                arrivals.put(sent)
                if arrivals.empty:
                    self._stream.flush()
                done = arrivals.next(self._outcomes.left)
                if done is None:
                    raise self._late(flying)
                flying.discard(done)
                yield self._value(done, flying)
            self._end()
        finally:
            self._stream.flush()
            self._stream.let_go(flying)

    def _sent(self, flying: int) -> list[Entry]:
        """Send calls until enough are in flight, the inputs are at their end, or calls are being refused; once the time
        is over only to see whether there is another, where no other call is waited for."""
        sent: list[Entry] = []
        while self._wants(flying + len(sent)):
            sent += self._read()
        self._stream.offer()
        return sent

    def _wants(self, flying: int) -> bool:
        self._more = self._more and not self._stream.ticket.refused
        return self._more and flying < self._most and not (flying and self._outcomes.over)

    def _read(self) -> list[Entry]:
        """What the next input becomes; nothing where there is none."""
        try:
            args = next(self._inputs)
        except StopIteration:
            self._more = False
        except Exception as error:  # raised once all that was read before it has been told
            self._more, self._broken = False, error
        else:
            entry = entered(self._stream, args, next(self._numbers))
            # what comes after an error that ends the map is never told
            self._more = isinstance(entry, Future) or not self._outcomes.ends_at_error
            return [entry]
        return []

    def _value(self, entry: Entry, flying: Iterable[Entry]) -> Any:
        if isinstance(entry, Exception):
            return self._outcomes.unsent(entry, flying)
        if not entry.done():
            self._stream.flush()
        try:
            return entry.result(self._outcomes.left)
        except Exception as error:
            if isinstance(error, WaitTimeout) and not entry.done():
                raise self._late(flying) from None
            if isinstance(entry.answer, PyfiError):
                if not self._stream.ticket.wait(self._outcomes.left):
                    raise self._late(flying) from error
                self._stream.check()
            return self._outcomes.failed(error, entry)

    def _late(self, flying: Iterable[Entry]) -> WaitTimeout:
        return self._outcomes.late(flying, accepted=self._stream.ticket.wait(0))

    def _end(self) -> None:
        if self._broken is not None:
            raise self._broken


def entered(stream: Stream, args: tuple[object, ...], number: int) -> Entry:
    """The call that these arguments make, or why they make none: those of input `number`."""
    try:
        return stream.send(args)
    except PyfiError as error:
        return unsent(error, number)


def check_most(most: int) -> None:
    """Return where so many calls can be in flight.

    Raises:
        BadInput: E_RANGE.
    """
    if most < 1:
        raise BadInput.of("E_RANGE", "max_in_flight", most, "at least one call must be in flight")
