"""Futures in event loops: whoever awaits blocks no thread, and its being cancelled leaves the call alone."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from pyfi_hpc.client.futures import Future, Latch
from pyfi_hpc.wire.limits import REPLY_INLINE_BYTES
from pyfi_hpc.wire.messages import Answer, Kind
from pyfi_hpc.wire.values import blob_in, encode_items

if TYPE_CHECKING:
    from pyfi_hpc.client.mapping import Entry
    from pyfi_hpc.client.tickets import Ticket

_ITEMS_MARK = encode_items(0)[:2]

P = ParamSpec("P")
T = TypeVar("T")


class _Bells:
    """What rang for one loop: it is woken once for all that ring meanwhile, not once for each."""

    def __init__(self) -> None:
        self._rung: deque[Bell] = deque()
        self._woken = False

    def ring(self, bell: Bell) -> None:
        """From any thread; must not wait for anything."""
        self._rung.append(bell)
        if not self._woken:
            self._woken = True
            try:
                bell.loop.call_soon_threadsafe(self._tell)
            except RuntimeError:  # the loop is closed: nobody waits there any more
                self._rung.clear()

    def _tell(self) -> None:
        # first: what rings from here on wakes the loop again
        self._woken = False
        while self._rung:
            self._rung.popleft().heard()


_lock = threading.Lock()
_bells: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Bells] = weakref.WeakKeyDictionary()


class Bell(Latch):
    """Wakes one task of the loop that it was made in; for one use."""

    __slots__ = ("_bells", "_rung", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._rung: asyncio.Future[None] = self.loop.create_future()
        with _lock:
            self._bells = _bells.setdefault(self.loop, _Bells())

    def ring(self, future: Future | None = None) -> None:
        self._bells.ring(self)

    def heard(self) -> None:
        """On the loop's own thread."""
        if not self._rung.done():
            self._rung.set_result(None)

    async def wait(self) -> None:
        """Until it rings."""
        await self._rung


async def done(future: Future) -> None:
    """Return once the future is done, or its client closed."""
    bell = Bell()
    if future.tell(bell):
        try:
            await bell.wait()
        finally:
            future.untell(bell)


async def value(future: Future) -> Any:
    """The future's value, once it is there; raises as `Future.result` does.

    What has to be read from the database or the blob folder first is read on another thread.
    """
    await done(future)
    return future.result(0) if _at_hand(future) else await asyncio.to_thread(future.result, 0)


def _at_hand(future: Future) -> bool:
    answer = future.answer
    if not isinstance(answer, Answer) or answer.kind is not Kind.VALUE or answer.value is None:
        return False
    # the items of a generator are rows of their own
    elsewhere = blob_in(answer.value) is not None or answer.value.startswith(_ITEMS_MARK)
    return len(answer.value) <= REPLY_INLINE_BYTES and not elsewhere


@cache
def _senders() -> ThreadPoolExecutor:
    # not the loop's own pool: where there is no room in a queue these wait for long, and others must not wait for them
    return ThreadPoolExecutor(8, thread_name_prefix="pyfi-aio")


def _in_child() -> None:
    global _lock
    _lock = threading.Lock()
    # its threads are those of the process that has forked
    _senders.cache_clear()


os.register_at_fork(after_in_child=_in_child)


async def elsewhere(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` gives, done on a thread for what sends."""
    return await asyncio.get_running_loop().run_in_executor(_senders(), partial(work, *args, **kwargs))


async def settled(ticket: Ticket) -> None:
    """Return once each call of the ticket is accepted or refused."""
    bell = Bell()
    ticket.tell(bell.ring)
    await bell.wait()


async def one_done(futures: Sequence[Future], seconds: float | None) -> bool:
    """Whether one of these is done within so many seconds."""
    arrivals = LoopArrivals()
    arrivals.put(futures)
    try:
        return await arrivals.next(seconds) is not None
    finally:
        for each in futures:
            each.untell(arrivals)


class LoopArrivals(Latch):
    """Futures in the order in which they get done, for one task of one loop."""

    def __init__(self) -> None:
        self._done: deque[Entry] = deque()
        self._bell: Bell | None = None

    def ring(self, future: Future) -> None:
        self._done.append(future)
        if (bell := self._bell) is not None:
            bell.ring()

    def put(self, entries: Iterable[Entry]) -> None:
        """These are on their way, or as done as they will ever be."""
        for entry in entries:
            if isinstance(entry, Exception) or not entry.tell(self):
                self._done.append(entry)

    async def next(self, seconds: float | None) -> Entry | None:
        """The next that is done; None where there is none within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                while not self._done:
                    bell = self._bell = Bell()
                    if not self._done:
                        await bell.wait()
        except TimeoutError:
            return None
        return self._done.popleft()
