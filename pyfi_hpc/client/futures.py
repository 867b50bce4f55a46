"""A future that keeps the promises of `concurrent.futures.Future` and costs little: thousands are made at once.

All futures of a client share one lock, and nobody waits on it: whoever waits leaves a latch with the future, by the
same protocol by which `concurrent.futures.wait` and `as_completed` do. The value stays encoded until it is asked for.
"""

from __future__ import annotations

import concurrent.futures
import html
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from contextlib import suppress
from typing import Any, Protocol

from pyfi_hpc.errors import PyfiError, WaitTimeout
from pyfi_hpc.logs import logger
from pyfi_hpc.wire.ids import id_text, short
from pyfi_hpc.wire.messages import Answer, Kind

log = logger()

_STATUS = {Kind.VALUE: "SUCCEEDED", Kind.ERROR: "FAILED", Kind.CANCELLED: "CANCELLED", Kind.DEAD: "DEAD"}


class Home(Protocol):
    """What a future asks of the session that it belongs to."""

    #: shared by all futures of the session; never held while anything is waited for
    lock: threading.RLock

    def value(self, future: Future) -> object:
        """The decoded value of a future that has one."""

    def items(self, future: Future, timeout: float | None) -> Iterator[Any]:
        """See `Future.items`."""

    def error(self, future: Future) -> BaseException:
        """The exception of a future that has none."""

    def closed_error(self) -> PyfiError | None:
        """What to raise where no outcome can come any more."""

    def later(self, callback: Callable[[Future], object], future: Future) -> None:
        """Have `callback` called with `future`, on a thread where it may take its time."""

    def cancel(self, future: Future, running: bool) -> bool:
        """See `Future.cancel`."""

    def status(self, future: Future) -> str:
        """As the record tells."""

    def attempts(self, future: Future) -> list[dict[str, Any]]:
        """As the record tells."""

    def worker(self, future: Future) -> dict[str, Any] | None:
        """As the record tells."""

    def logs(self, future: Future) -> str:
        """As the record tells."""

    def retry(self, future: Future) -> Future:
        """See `Future.retry`."""


def called(fn: Callable[[Any], object], future: Future) -> None:
    """`fn(future)`; what it raises is logged and ignored, as `concurrent.futures` does."""
    try:
        fn(future)
    except Exception:
        log.exception("a future's callback failed", id=future.id)


class Latch:
    """Waits for futures: `Future.tell` has it rung. Rung also where no outcome will come, the client being closed."""

    __slots__ = ()

    def ring(self, future: Future) -> None:
        """The future is done. Called under the lock of all futures: append, and return."""

    # the names by which concurrent.futures tells its own
    def add_result(self, future: Future) -> None:
        self.ring(future)

    def add_exception(self, future: Future) -> None:
        self.ring(future)

    def add_cancelled(self, future: Future) -> None:
        self.ring(future)


class _Latch(Latch):
    """Waits for one future."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout: float | None) -> None:
        """Return once the future is done, or `timeout` seconds are over."""
        self._lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout))

    def ring(self, future: Future) -> None:
        with suppress(RuntimeError):  # it was let go before
            self._lock.release()


class Future(concurrent.futures.Future[Any]):
    """The outcome of one invocation, when it comes. Made by a client; the invocation goes on without it.

    Attributes:
        identity: the id's 16 bytes; `id` is its text.
        socket: name of the socket that was called, empty where only the id is known.
        made: when, on the monotonic clock.
        digest: what a foreign outcome is told by, where the caller chose the id; else None.
    """

    # concurrent.futures uses these names too; `_waiters` is made when somebody waits
    __slots__ = ("_answer", "_calls", "_got", "_home", "_latches", "_state", "digest", "identity", "made", "socket")

    def __init__(self, home: Home, identity: bytes, socket: str = "", digest: bytes | None = None) -> None:
        self.identity, self.socket, self.digest, self._home = identity, socket, digest, home
        self._state = PENDING
        self.made = time.monotonic()
        self._answer: Answer | PyfiError | None = None
        self._latches: list[Any] | None = None
        self._calls: list[Callable[[Any], object]] | None = None
        self._got: tuple[object, BaseException | None] | None = None

    # what concurrent.futures reaches for

    @property
    def _condition(self) -> Any:  # type: ignore[override]
        return self._home.lock

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        if self._latches is None:
            if not self.done() and (closed := self._home.closed_error()) is not None:
                raise closed  # nobody would ever ring
            self._latches = []
        return self._latches

    # the promises of concurrent.futures

    def done(self) -> bool:
        """True once the outcome is known here."""
        return self._state != PENDING

    def running(self) -> bool:
        """True while an attempt is known to run, a first one about a second after its start; asks the database."""
        return not self.done() and self.status == "RUNNING"

    def cancelled(self) -> bool:
        """True once it is known to be cancelled."""
        return self._state == CANCELLED_AND_NOTIFIED

    def cancel(self, *, running: bool = False) -> bool:
        """Commit that it is cancelled, where no attempt is known to have begun; True only then, and it will have no
        other outcome. `running` asks a running one to stop as well.

        That a first attempt runs is known about a second after its start. True says of one that is younger that it is
        stopped and that its value is dropped, not that it did nothing.
        """
        return self._home.cancel(self, running)

    def result(self, timeout: float | None = None) -> Any:
        """The value; the same object each time. Of a task that yields, the list of its items.

        Raises:
            WaitTimeout: `timeout` seconds are over; the work goes on.
            Exception: what the task raised, or a TaskError that says how it ended.
        """
        value, error = self._outcome(timeout)
        if error is not None:
            try:
                raise error
            finally:
                del error  # or the traceback keeps this frame, and this frame the error
        return value

    get = result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What `result` would raise, or None; a cancelled one raises Cancelled."""
        _, error = self._outcome(timeout)
        if error is not None and self.cancelled():
            raise error
        return error

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call `fn` with this future once it is done, on a thread of the client's; at once and here where it is."""
        with self._condition:
            if not self.done():
                self._calls = [*(self._calls or ()), fn]
                return
        called(fn, self)

    def tell(self, latch: Latch) -> bool:
        """Have `latch` rung once it is done; False where it is done already, or its client is closed."""
        with self._condition:
            if self.done() or self._home.closed_error() is not None:
                return False
            self._waiters.append(latch)
        return True

    def untell(self, latch: Latch) -> None:
        """Nobody waits there any more."""
        with self._condition:
            if self._latches and latch in self._latches:
                self._latches.remove(latch)

    def set_running_or_notify_cancel(self) -> bool:
        raise RuntimeError("only the record decides what becomes of an invocation")

    def set_result(self, result: Any) -> None:
        raise RuntimeError("only the record decides what becomes of an invocation")

    def set_exception(self, exception: BaseException | None) -> None:
        raise RuntimeError("only the record decides what becomes of an invocation")

    def __await__(self) -> Generator[Any, None, Any]:
        # not asyncio's own way: that cancels the call with the task that awaits it, and reads rows in the loop
        from pyfi_hpc.client import awaiting

        return awaiting.value(self).__await__()

    # what concurrent.futures has not

    @property
    def id(self) -> str:
        """The invocation's id, in full."""
        return id_text(self.identity)

    @property
    def status(self) -> str:
        """SUCCEEDED, FAILED, CANCELLED or DEAD; RUNNING where an attempt is known to run, a first one about a second
        after its start; WAITING where it is to start later; else QUEUED (or unknown)."""
        return self._known or self._home.status(self)

    @property
    def _known(self) -> str | None:
        if isinstance(self._answer, Answer):
            return _STATUS[self._answer.kind]
        return None if self._answer is None else "FAILED"

    def items(self, timeout: float | None = None) -> Iterator[Any]:
        """Yield what a task that is a generator yields, in its order, as it comes; nothing is kept here.

        Each item is waited for `timeout` seconds at most.

        Raises:
            WaitTimeout: the work goes on. Exception: what ended the call, after the items before it.
            BadInput: E_TYPE, its task does not yield.
        """
        return self._home.items(self, timeout)

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """The executions worth a row: those that failed, printed, or were announced before they started."""
        return self._home.attempts(self)

    @property
    def worker(self) -> dict[str, Any] | None:
        """Who made the outcome: node, cores, commit; None before there is one."""
        return self._home.worker(self)

    def logs(self) -> str:
        """What its attempts printed, both streams, oldest first."""
        return self._home.logs(self)

    def retry(self) -> Future:
        """Requeue a dead invocation with a new budget; a new future of the same id, which is to be waited for.

        This one stays as it ended: DEAD.

        Raises:
            BadInput: E_NOT_FOUND, it is not dead.
        """
        return self._home.retry(self)

    # how it gets done

    def settle(self, answer: Answer | PyfiError) -> bool:
        """The outcome is known; False where it was before."""
        with self._condition:
            if self.done():
                return False
            self._answer = answer
            cancelled = isinstance(answer, Answer) and answer.kind is Kind.CANCELLED
            self._state = CANCELLED_AND_NOTIFIED if cancelled else FINISHED
            for latch in self._latches or ():
                # which of its three methods is called matters to concurrent.futures.wait
                latch.add_cancelled(self) if cancelled else self._notify(latch)
            calls, self._calls = self._calls, None
        for call in calls or ():
            self._home.later(call, self)
        return True

    def _notify(self, latch: Any) -> None:
        good = isinstance(self._answer, Answer) and self._answer.kind is Kind.VALUE
        latch.add_result(self) if good else latch.add_exception(self)

    def bring(self, value: bytes) -> None:
        """The encoded value of an outcome that came without it."""
        if isinstance(self._answer, Answer) and self._answer.value is None:
            self._answer = Answer(self.identity, Kind.VALUE, value)

    def release(self) -> None:
        """Wake whoever waits: no outcome will come here."""
        with self._condition:
            for latch in self._latches or ():
                if isinstance(latch, Latch):
                    latch.ring(self)

    @property
    def answer(self) -> Answer | PyfiError | None:
        """What came, still encoded."""
        return self._answer

    def _outcome(self, timeout: float | None) -> tuple[object, BaseException | None]:
        if not self.done():
            self._wait(timeout)
        if self._got is None:
            self._got = self._open()
        return self._got

    def _open(self) -> tuple[object, BaseException | None]:
        if isinstance(self._answer, Answer) and self._answer.kind is Kind.VALUE:
            return self._home.value(self), None
        return None, self._home.error(self)

    def _wait(self, timeout: float | None) -> None:
        latch = _Latch()
        with self._condition:
            if self.done():
                return
            self._waiters.append(latch)
        try:
            if (closed := self._home.closed_error()) is None:
                latch.wait(timeout)
                closed = self._home.closed_error()
        finally:
            with self._condition:
                self._waiters.remove(latch)
        if self.done():
            return
        raise closed or self.late(timeout)

    def late(self, timeout: float | None) -> WaitTimeout:
        """What is raised once `timeout` seconds are over."""
        what = f"{short(self.identity)} has no outcome after {round(timeout or 0.0, 2):.10g} s; the work goes on"
        # in full: the record may not have it yet, so its last digits would find nothing
        return WaitTimeout("E_TIMEOUT", what, cure=f"pyfi wait {self.id}", id=self.id)

    # how it is shown

    def __repr__(self) -> str:
        age = f" {time.monotonic() - self.made:.0f} s" if not self.done() else ""
        return f"<Future {short(self.identity)} {self._known or 'QUEUED'} {self.socket or '?'}{age}>"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"


def as_completed(futures: Iterable[Future], timeout: float | None = None) -> Iterator[Future]:
    """Yield the futures as they get done.

    Raises:
        WaitTimeout: `timeout` seconds are over and some are not done; the work goes on.
    """
    try:
        yield from concurrent.futures.as_completed(list(futures), timeout)  # type: ignore[arg-type, misc]
    except TimeoutError as error:
        if isinstance(error, WaitTimeout):
            raise
        raise WaitTimeout("E_TIMEOUT", f"{error}; the work goes on") from None
