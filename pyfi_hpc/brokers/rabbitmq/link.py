"""One connection to the broker with a thread of its own, which comes back until it is closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import pika
from pika.adapters.select_connection import EPollPoller, IOLoop

from pyfi_hpc.baton import Baton
from pyfi_hpc.brokers.rabbitmq.address import unavailable
from pyfi_hpc.brokers.rabbitmq.backoff import Backoff
from pyfi_hpc.brokers.rabbitmq.frames import Writer
from pyfi_hpc.brokers.rabbitmq.reader import Reader
from pyfi_hpc.errors import BrokerUnavailable
from pyfi_hpc.logs import logger

log = logger()

#: How often a session looks whether its channels still live; pika tells nobody of some that do not.
WATCH_SECONDS = 2.0
#: A connection that lived this long was a good one: the next try comes at once.
GOOD_SECONDS = 10.0
#: How long an orderly end may take; a blocked connection is not read, so its close is not either.
CLOSE_SECONDS = 2.0


class _Poll:
    """An epoll whose waiting lays the baton down."""

    def __init__(self, poll: Any, baton: Baton) -> None:
        self.register, self.modify, self.unregister, self.close = (
            poll.register,
            poll.modify,
            poll.unregister,
            poll.close,
        )
        self._wait, self._baton = poll.poll, baton

    def poll(self, seconds: float) -> list[tuple[int, int]]:
        return self._baton.laid_down(self._wait, seconds)


class _Loop(IOLoop):  # type: ignore[misc]  # pika has no types
    """pika's loop, whose baton others may borrow while it waits."""

    def __init__(self, baton: Baton) -> None:
        super().__init__()
        inner = self._poller._create_poller
        self._poller._create_poller = lambda: _Poll(inner(), baton)

    @staticmethod
    def _get_poller(get_wait_seconds: Any, process_timeouts: Any) -> Any:
        # the one whose registrations may change while another thread waits
        return EPollPoller(get_wait_seconds=get_wait_seconds, process_timeouts=process_timeouts)


class Session(Protocol):
    """What happens on a connection. All is called on the link's thread."""

    def up(self, connection: Any) -> None:
        """`connection` is open and new: no channel of an older one is left."""

    def step(self) -> None:
        """Somebody called `Link.wake`: do what is queued, if it can be done now."""

    def watch(self) -> None:
        """Some seconds have passed."""

    def down(self, error: BrokerUnavailable) -> None:
        """The connection is lost, or could not be made."""


class Link:
    """Keeps one connection for a `Session`. Each connection has an I/O loop of its own, so nothing stale survives."""

    def __init__(self, parameters: Any, session: Session, *, uri: str, name: str) -> None:
        self._parameters, self._session, self._uri, self.name = parameters, session, uri, name
        self._lock, self._baton = threading.Lock(), Baton()
        self._loop: Any = None
        self._connection: Any = None
        self._woken = self._away = False
        #: the session knows that this connection has ended
        self._over = False
        self._closing = threading.Event()
        self._backoff = Backoff()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to connect; nothing happens where that was begun before, or after `close`."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name=f"pyfi-rabbitmq-{self.name}", daemon=True)
                self._thread.start()

    def wake(self) -> None:
        """Have `Session.step` called soon, once for any number of calls before it. From any thread."""
        if self._woken:
            return
        with self._lock:
            if self._loop is not None and not self._woken:
                self._woken = True
                self._loop.add_callback_threadsafe(self._step)

    def do(self, work: Callable[[], None]) -> None:
        """Do `work` here where the link's thread only waits, else have `Session.step` called soon. From any thread.

        `work` must be a part of `step`, and send or do nothing: what needs pika's timers is for the link's thread.
        """
        if not self._baton.borrow(lambda: self._guarded(work)):
            self.wake()

    def close(self) -> None:
        """End the connection and its thread; what `step` has to do is done before, as far as it can be."""
        self._closing.set()
        with self._lock:
            if self._loop is not None:
                self._loop.add_callback_threadsafe(self._shut)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(CLOSE_SECONDS * 2)

    def _run(self) -> None:
        while not self._closing.is_set():
            began = time.monotonic()
            try:
                self._hold_one_connection()
            except Exception as error:
                self._tell_failure(error)
            if time.monotonic() - began > GOOD_SECONDS:
                self._backoff.reset()
            self._closing.wait(self._backoff.next())

    def _hold_one_connection(self) -> None:
        loop = _Loop(self._baton)
        try:
            self._connection = pika.SelectConnection(
                self._parameters,
                on_open_callback=self._opened,
                on_open_error_callback=self._ended,
                on_close_callback=self._ended,
                custom_ioloop=loop,
            )
            self._connection.writer = Writer(self._connection)
            self._connection.reader = Reader(self._connection, self._connection.writer)
            with self._lock:
                self._loop, self._woken = loop, False
            self._over = False
            if not self._closing.is_set():
                with self._baton:
                    self._turn(loop)
        finally:
            with self._lock:
                self._loop = None
            loop.close()
            self._connection = None

    def _turn(self, loop: Any) -> None:
        """Run `loop` until the connection has ended and the session knows it."""
        try:
            loop.start()
        except Exception as error:
            self._tell_failure(error)
            self._abort(error)
            if not self._over:
                loop.start()

    def _tell_failure(self, error: Exception) -> None:
        log.error("broker connection failed", link=self.name, exc_info=error)

    def _opened(self, connection: Any) -> None:
        log.debug("broker connected", link=self.name)
        self._away = False
        connection.reader.read_much()
        self._guarded(lambda: self._session.up(connection))
        self._watch()

    def _ended(self, connection: Any, error: BaseException) -> None:
        lost = unavailable(error, self._uri)
        self._over = True
        try:
            self._session.down(lost)
        finally:
            connection.ioloop.stop()
        if not self._closing.is_set():
            # once for each time that it is away, not for each try
            (log.debug if self._away else log.warning)("broker connection lost", link=self.name, reason=lost.what)
        self._away = True

    def _watch(self) -> None:
        self._guarded(self._session.watch)
        if self._connection.is_open:
            self._connection.ioloop.call_later(WATCH_SECONDS, self._watch)

    def _step(self) -> None:
        # before the work: what is queued while it is done wakes us again
        self._woken = False
        self._guarded(self._session.step)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run `work`; where it fails, begin again with a new connection: no state of the old one is trusted."""
        try:
            work()
        except Exception as error:
            self._tell_failure(error)
            self._abort(error)
        except BaseException:  # an interrupt of the caller whose thread does our work
            self._abort(ConnectionError("interrupted"))
            raise

    def _shut(self) -> None:
        self._guarded(self._session.step)
        if self._connection.is_open:
            self._connection.close()
            self._connection.ioloop.call_later(CLOSE_SECONDS, lambda: self._abort(TimeoutError("no close-ok came")))
        else:
            self._abort(ConnectionError("closed before it was open"))

    def _abort(self, error: Exception) -> None:
        # pika has no public way to drop a connection without the broker's help
        if self._connection is not None and not self._connection.is_closed:
            self._connection._terminate_stream(error)
