"""`AsyncClient`: the client for asyncio, on the same core.

It blocks no event loop: what has to wait for a database, a disk or room in a queue is done on another thread, and the
rest (nearly every call) at once. One of it may be used from several loops and threads.
"""

from __future__ import annotations

import asyncio
import datetime
import itertools
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from pyfi_hpc.brokers.base import Broker
from pyfi_hpc.client import awaiting, broadcast, times
from pyfi_hpc.client.aiomapping import AsyncMap, Inputs
from pyfi_hpc.client.broadcast import Broadcast
from pyfi_hpc.client.client import Client, Which, arguments, raise_refused
from pyfi_hpc.client.futures import Future
from pyfi_hpc.client.items import late
from pyfi_hpc.client.loopstream import LoopStream, heavy
from pyfi_hpc.client.mapping import Outcomes, check_most
from pyfi_hpc.client.tickets import not_accepted, unsent_after
from pyfi_hpc.config import Settings
from pyfi_hpc.errors import PyfiError, WaitTimeout
from pyfi_hpc.model.priority import Priority
from pyfi_hpc.wire.ids import item_id

T = TypeVar("T")

_END = object()


class AsyncClient:
    """Calls tasks through durable queues, from coroutines. Making one opens nothing; the first use does.

    The futures that it gives are those of `Client`: `await future` gives the value. A task that is cancelled while it
    awaits leaves the call alone.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        database_uri: str | None = None,
        broker_uri: str | None = None,
        make_broker: Callable[[str], Broker] | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        """See `Client`."""
        self._client = Client(
            settings, database_uri=database_uri, broker_uri=broker_uri, make_broker=make_broker, note=note
        )

    @classmethod
    def of(cls, client: Client) -> Self:
        """Coroutines for a client that is there already; closing either closes both."""
        made = cls.__new__(cls)
        made._client = client
        return made

    @property
    def client(self) -> Client:
        """The same without coroutines, for threads; its methods block."""
        return self._client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End its connections; accepted calls go on, and any client may ask for them by id."""
        await asyncio.to_thread(self._client.close)

    # calls

    async def submit(
        self,
        socket: str,
        *args: object,
        id: str | uuid.UUID | None = None,
        timeout: float | None = None,
        deadline: float | datetime.datetime | None = None,
        delay: float | None = None,
        at: datetime.datetime | None = None,
        priority: str = Priority.NORMAL,
        **kwargs: object,
    ) -> Future:
        """Call the task behind `socket`; returns once the call is accepted. See `Client.submit`.

        Where the task that awaits is cancelled, the call may have been accepted: with an `id` it can be asked for.
        """
        how = {"id": id, "timeout": timeout, "deadline": deadline, "delay": delay, "at": at, "priority": priority}
        return await self._submit(socket, args, kwargs, {**how, "options": how})

    async def _submit(
        self, socket: str, args: tuple[object, ...], kwargs: Mapping[str, object], how: Mapping[str, Any]
    ) -> Future:
        begin = self._client.begin
        # where an id, a delay, a time or another priority than the usual is given, the database may be asked
        plain = all(how.get(name) is None for name in ("id", "delay", "at"))
        plain = plain and how.get("priority", Priority.NORMAL) == Priority.NORMAL
        if plain and self._client.session.at_hand(socket) and not heavy(args, kwargs):
            future, stream = begin(socket, args, kwargs, **how)
        else:
            future, stream = await awaiting.elsewhere(begin, socket, args, kwargs, **how)
        await awaiting.settled(stream.ticket)
        raise_refused(stream)
        return future

    async def call(self, socket: str, *args: object, timeout: float | None = None, **kwargs: object) -> Any:
        """The value of one call, waited for `timeout` seconds at most. Raises what `submit` and `result` do. See
        `Client.call`."""
        left = times.countdown(timeout)
        how = {"patience": timeout, "options": {"timeout": timeout}}
        future = await self._submit(socket, args, kwargs, how)
        try:
            return await self.result(future, left())
        except WaitTimeout:
            if not future.done():
                raise future.late(timeout) from None
            raise

    async def result(self, future: Future, timeout: float | None = None, *, cancel: bool = False) -> Any:
        """The future's value, waited for `timeout` seconds at most.

        Where the task that awaits is cancelled the call goes on, unless `cancel`: then it is cancelled too, running or
        not.

        Raises:
            WaitTimeout: the work goes on. Exception: what the task raised, or a TaskError that says how it ended.
        """
        try:
            async with asyncio.timeout(timeout):
                await awaiting.done(future)
        except TimeoutError:
            raise future.late(timeout) from None
        except asyncio.CancelledError:
            if cancel:
                await asyncio.shield(asyncio.to_thread(future.cancel, running=True))
            raise
        return await awaiting.value(future)

    async def publish(
        self,
        queue: str,
        *args: object,
        key: str = "",
        id: str | uuid.UUID | None = None,
        timeout: float | None = None,
        deadline: float | datetime.datetime | None = None,
        priority: str = Priority.NORMAL,
        **kwargs: object,
    ) -> Broadcast:
        """Call every task that is bound to a logical queue; returns once each of these calls is accepted. See
        `Client.publish`. `await` of what this gives is the values by their sockets' names."""
        how: dict[str, Any] = {"key": key, "id": id, "timeout": timeout, "deadline": deadline, "priority": priority}
        # who is bound is asked of the database each time
        sent, streams = await awaiting.elsewhere(self._client.begin_publish, queue, args, kwargs, **how)
        for stream in streams:
            await awaiting.settled(stream.ticket)
        return broadcast.accepted(sent, streams)

    async def submit_many(
        self,
        socket: str,
        inputs: Iterable[object] | AsyncIterable[object],
        *,
        priority: str = Priority.NORMAL,
    ) -> list[Future]:
        """One call for each input (a tuple is several arguments); returns once all are accepted. See
        `Client.submit_many`."""
        stream = await LoopStream.opened(self._client.session, socket, priority)
        futures: list[Future] = []
        try:
            async for (given,) in Inputs(inputs):
                try:
                    futures.append(await stream.send(arguments(given)))
                except PyfiError as error:
                    unsent_after(error, futures)
                    raise
                if stream.ticket.refused:
                    break
        except Exception:
            await self._all_accepted(stream, futures)
            raise
        await self._all_accepted(stream, futures)
        return futures

    async def _all_accepted(self, stream: LoopStream, futures: list[Future]) -> None:
        if refused := await stream.refused():
            raise not_accepted(refused, futures)

    def map(
        self,
        socket: str,
        *iterables: Iterable[object] | AsyncIterable[object],
        max_in_flight: int = 500,
        return_exceptions: bool = False,
        ordered: bool = True,
        timeout: float | None = None,
        priority: str = Priority.NORMAL,
    ) -> AsyncGenerator[Any, None]:
        """`async for` over the value of each call; see `Client.map`. Inputs may come from asynchronous iterators.

        `aclose` of what this gives reads no more; calls that were sent go on.
        """
        check_most(max_in_flight)
        outcomes = Outcomes(timeout, return_exceptions=return_exceptions)
        opened = partial(LoopStream.opened, self._client.session, socket, priority, outcomes.until)
        run = AsyncMap(opened, Inputs(*iterables), max_in_flight, outcomes)
        return run.in_order() if ordered else run.as_they_come()

    async def as_completed(self, futures: Iterable[Future], timeout: float | None = None) -> AsyncIterator[Future]:
        """`async for` over the futures as they get done.

        Raises:
            WaitTimeout: `timeout` seconds are over and some are not done; the work goes on.
        """
        arrivals, left = awaiting.LoopArrivals(), set(futures)
        until = None if timeout is None else asyncio.get_running_loop().time() + timeout
        arrivals.put(left)
        try:
            while left:
                seconds = None if until is None else max(0.0, until - asyncio.get_running_loop().time())
                done = await arrivals.next(seconds)
                if not isinstance(done, Future):
                    raise WaitTimeout("E_TIMEOUT", f"{len(left)} futures are not done; the work goes on")
                left.discard(done)
                yield done
        finally:
            for each in left:
                each.untell(arrivals)

    async def items(self, which: Which, timeout: float | None = None) -> AsyncGenerator[Any, None]:
        """`async for` over what a task that is a generator yields. See `Future.items`."""
        future = which if isinstance(which, Future) else await self.future(which)
        session, found = self._client.session, future.items(timeout)
        for number in itertools.count():
            item = session.watched(Future(session, item_id(future.identity, number), future.socket))
            try:
                there = await awaiting.one_done([item, future], timeout)
            finally:
                session.let_go([item])
            if not there:
                raise late(future, timeout)
            # it is there, or the call is over: what is left is a look into the record
            value = await asyncio.to_thread(next, found, _END)
            if value is _END:
                return
            yield value

    # what is asked of the record, each on another thread

    async def future(self, id: str | uuid.UUID) -> Future:
        """The future of an invocation that was submitted anywhere. See `Client.future`."""
        return await asyncio.to_thread(self._client.future, id)

    async def status(self, which: Which) -> str:
        """See `Future.status`."""
        return await self._asked(which, lambda future: future.status)

    async def attempts(self, which: Which) -> list[dict[str, Any]]:
        """See `Future.attempts`."""
        return await self._asked(which, lambda future: future.attempts)

    async def logs(self, which: Which) -> str:
        """See `Future.logs`."""
        return await self._asked(which, lambda future: future.logs())

    async def retry(self, which: Which) -> Future:
        """See `Future.retry`."""
        return await self._asked(which, lambda future: future.retry())

    async def _asked(self, which: Which, ask: Callable[[Future], T]) -> T:
        def work() -> T:
            return ask(which if isinstance(which, Future) else self._client.future(which))

        return await asyncio.to_thread(work)

    async def cancel(self, *which: Which, tree: bool = False) -> list[dict[str, Any]]:
        """Commit that these are cancelled, where nothing is decided; running ones are asked to stop.

        See `Client.cancel`.
        """
        return await asyncio.to_thread(self._client.cancel, *which, tree=tree)

    async def forget(self, *which: Which) -> list[dict[str, Any]]:
        """Clear the values of these for good. See `Client.forget`."""
        return await asyncio.to_thread(self._client.forget, *which)

    def __repr__(self) -> str:
        return repr(self._client).replace("<Client", "<AsyncClient", 1)
