"""What a publish gives back: a future of the broker's word, with the promises of `concurrent.futures.Future`.

There is one for each message, and hardly anybody waits for one, so it has nothing of its own to wait on before somebody
does, and all share one lock, held for no longer than it takes to set a few fields.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, InvalidStateError
from enum import Enum, auto

from pyfi_hpc.logs import logger

log = logger()


class _State(Enum):
    PENDING = auto()
    RUNNING = auto()
    CANCELLED = auto()
    DONE = auto()


_PENDING, _RUNNING, _CANCELLED, _DONE = _State
_lock = threading.Lock()
# held for moments only, and by nobody where a process forks: the child would wait for its holder for ever
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class Confirm:
    """Resolves to None once the broker holds the message, else raises BadInput E_UNKNOWN_SOCKET (no queue is bound
    there), BrokerUnavailable E_BROKER, E_BROKER_BLOCKED or E_BACKPRESSURE."""

    __slots__ = ("_calls", "_error", "_over", "_state")

    def __init__(self) -> None:
        self._state = _PENDING
        self._error: BaseException | None = None
        self._calls: list[Callable[[Confirm], object]] | None = None
        self._over: threading.Event | None = None

    # who asks

    def done(self) -> bool:
        """Whether the broker's word is here, or it was taken back."""
        return self._state is _DONE or self._state is _CANCELLED

    def running(self) -> bool:
        """Whether it cannot be taken back any more, and the broker's word is not here."""
        return self._state is _RUNNING

    def cancelled(self) -> bool:
        """Whether the message was taken back."""
        return self._state is _CANCELLED

    def cancel(self) -> bool:
        """Take the message back, if it is not on its way yet; whether it was."""
        with _lock:
            if self._state is _RUNNING or self._state is _DONE:
                return False
            first, self._state = self._state is _PENDING, _CANCELLED
        if first:
            self._tell()
        return True

    def result(self, timeout: float | None = None) -> None:
        """Return once the broker holds the message, or raise why it does not.

        Raises:
            TimeoutError: nothing is known after `timeout` seconds. CancelledError: it was taken back.
        """
        if error := self.exception(timeout):
            raise error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Why the broker does not hold the message, None where it does. Raises as `result`, for want of an answer."""
        if not self.done() and not self._event().wait(timeout):
            raise TimeoutError
        if self._state is _CANCELLED:
            raise CancelledError
        return self._error

    def _event(self) -> threading.Event:
        with _lock:
            over = self._over = self._over or threading.Event()
            if self.done():
                over.set()
        return over

    def add_done_callback(self, call: Callable[[Confirm], object]) -> None:
        """Have it called with this once it is done, by who makes it so; here and now where it is."""
        with _lock:
            if not self.done():
                self._calls = [*(self._calls or ()), call]
                return
        self._called(call)

    # who answers

    def set_running_or_notify_cancel(self) -> bool:
        """From now on it cannot be taken back; False where it was."""
        with _lock:
            if self._state is _PENDING:
                self._state = _RUNNING
                return True
            if self._state is _CANCELLED:
                return False
        raise InvalidStateError(f"it is {self._state.name}")

    def set_result(self, result: None) -> None:
        """The broker holds the message."""
        self._resolve(None)

    def set_exception(self, error: BaseException | None) -> None:
        """The broker does not hold the message, or nothing is known of it."""
        self._resolve(error)

    def _resolve(self, error: BaseException | None) -> None:
        with _lock:
            if self.done():
                raise InvalidStateError(f"it is {self._state.name}")
            self._error, self._state = error, _DONE
        self._tell()

    def _tell(self) -> None:
        if self._over is not None:
            self._over.set()
        calls, self._calls = self._calls, None
        for call in calls or ():
            self._called(call)

    def _called(self, call: Callable[[Confirm], object]) -> None:
        try:
            call(self)
        except Exception:
            log.exception("the callback of a confirm failed")
