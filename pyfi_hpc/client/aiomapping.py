"""`AsyncClient.map`: what `mapping` does, for `async for`."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any

from pyfi_hpc.client import awaiting
from pyfi_hpc.client.loopstream import LoopStream
from pyfi_hpc.client.mapping import Entry, Outcomes
from pyfi_hpc.client.tickets import unsent
from pyfi_hpc.errors import PyfiError, WaitTimeout


class Inputs:
    """Several iterables, asynchronous ones among them, read together until the first is at its end."""

    def __init__(self, *iterables: Iterable[object] | AsyncIterable[object]) -> None:
        self._sources: list[Iterator[object] | AsyncIterator[object]] = [
            aiter(each) if isinstance(each, AsyncIterable) else iter(each) for each in iterables
        ]

    def __aiter__(self) -> Inputs:
        return self

    async def __anext__(self) -> tuple[object, ...]:
        if not self._sources:
            raise StopAsyncIteration
        found: list[object] = []
        for source in self._sources:
            try:
                found.append(await anext(source) if isinstance(source, AsyncIterator) else next(source))
            except StopIteration:
                raise StopAsyncIteration from None
        return tuple(found)


class AsyncMap:
    """One run of `map`; `opened` gives its stream, `most` is how many calls may be in flight."""

    def __init__(
        self, opened: Callable[[], Awaitable[LoopStream]], inputs: Inputs, most: int, outcomes: Outcomes
    ) -> None:
        self._opened, self._inputs, self._most, self._outcomes = opened, inputs, most, outcomes
        self._more = True
        self._broken: Exception | None = None
        self._numbers = itertools.count()

    async def in_order(self) -> AsyncGenerator[Any, None]:
        """Values in the order of the inputs."""
        stream = await self._opened()
        flying: deque[Entry] = deque()
        try:
            while (sent := await self._sent(stream, len(flying))) or flying:
                flying.extend(sent)
                yield await self._value(stream, flying[0], flying)
                flying.popleft()
            self._end()
        finally:
            stream.stream.let_go(flying)

    async def as_they_come(self) -> AsyncGenerator[Any, None]:
        """Values in the order in which they are there."""
        stream = await self._opened()
        arrivals = awaiting.LoopArrivals()
        flying: set[Entry] = set()
        try:
            while (sent := await self._sent(stream, len(flying))) or flying:
                flying.update(sent)
                arrivals.put(sent)
                done = await arrivals.next(self._outcomes.left)
                if done is None:
                    raise self._late(stream, flying)
                flying.discard(done)
                yield await self._value(stream, done, flying)
            self._end()
        finally:
            stream.stream.let_go(flying)

    async def _sent(self, stream: LoopStream, flying: int) -> list[Entry]:
        """Send calls until enough are in flight, the inputs are at their end, or calls are being refused; once the time
        is over only to see whether there is another, where no other call is waited for."""
        sent: list[Entry] = []
        while self._wants(stream, flying + len(sent)):
            sent += await self._read(stream)
        await stream.flush()
        return sent

    def _wants(self, stream: LoopStream, flying: int) -> bool:
        self._more = self._more and not stream.ticket.refused
        return self._more and flying < self._most and not (flying and self._outcomes.over)

    async def _read(self, stream: LoopStream) -> list[Entry]:
        """What the next input becomes; nothing where there is none."""
        try:
            args = await anext(self._inputs)
        except StopAsyncIteration:
            self._more = False
            return []
        except Exception as error:  # raised once all that was read before it has been told
            self._more, self._broken = False, error
            return []
        number = next(self._numbers)
        try:
            return [await stream.send(args)]
        except PyfiError as error:
            # what comes after an error that ends the map is never told
            self._more = not self._outcomes.ends_at_error
            return [unsent(error, number)]

    async def _value(self, stream: LoopStream, entry: Entry, flying: Iterable[Entry]) -> Any:
        if isinstance(entry, Exception):
            return self._outcomes.unsent(entry, flying)
        try:
            async with asyncio.timeout(self._outcomes.left):
                await awaiting.done(entry)
        except TimeoutError:
            raise self._late(stream, flying) from None
        try:
            return await awaiting.value(entry)
        except Exception as error:
            if isinstance(entry.answer, PyfiError):
                await self._settled(stream, flying)
                stream.stream.check()
            return self._outcomes.failed(error, entry)

    async def _settled(self, stream: LoopStream, flying: Iterable[Entry]) -> None:
        if stream.ticket.wait(0):
            return
        try:
            async with asyncio.timeout(self._outcomes.left):
                await awaiting.settled(stream.ticket)
        except TimeoutError:
            raise self._late(stream, flying) from None

    def _late(self, stream: LoopStream, flying: Iterable[Entry]) -> WaitTimeout:
        return self._outcomes.late(flying, accepted=stream.ticket.wait(0))

    def _end(self) -> None:
        if self._broken is not None:
            raise self._broken
