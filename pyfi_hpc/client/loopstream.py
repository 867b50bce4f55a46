"""A `Stream` as a coroutine uses it: what would block the event loop is done on another thread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyfi_hpc.client import awaiting
from pyfi_hpc.client.futures import Future
from pyfi_hpc.client.notices import NEVER
from pyfi_hpc.client.session import Session
from pyfi_hpc.client.stream import Stream
from pyfi_hpc.client.tickets import Ticket
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.model.priority import Priority

#: Arguments of at least this size, as far as one look tells it, are encoded on another thread.
_HEAVY_BYTES, _HEAVY_ITEMS = 64 * 2**10, 1000


def heavy(args: Iterable[object], kwargs: Mapping[str, object]) -> bool:
    """Whether these arguments may take a while to encode, or have to be stored; told by a look at each, not inside."""
    return any(_is_heavy(value) for value in (*args, *kwargs.values()))


def _is_heavy(value: object) -> bool:
    if isinstance(size := getattr(value, "nbytes", None), int):
        return size >= _HEAVY_BYTES
    if isinstance(value, str | bytes | bytearray):
        return len(value) >= _HEAVY_BYTES
    return isinstance(value, list | tuple | dict | set | frozenset) and len(value) >= _HEAVY_ITEMS


class LoopStream:
    """For one task at a time."""

    def __init__(self, session: Session, stream: Stream) -> None:
        self._session, self._stream = session, stream

    @classmethod
    async def opened(
        cls, session: Session, socket: str, priority: str = Priority.NORMAL, until: float = NEVER
    ) -> LoopStream:
        """The stream to that socket; nobody waits for room in it after `until`."""
        if priority == Priority.NORMAL and session.at_hand(socket):
            return cls(session, Stream(session, socket, until=until))
        return cls(session, await awaiting.elsewhere(Stream, session, socket, priority, until=until))

    @property
    def stream(self) -> Stream:
        """What it is made of."""
        return self._stream

    @property
    def ticket(self) -> Ticket:
        """See `Stream`."""
        return self._stream.ticket

    async def send(self, args: tuple[object, ...]) -> Future:
        """Have one call sent, soon; see `Stream.send`."""
        begun = self._stream.begun
        future, store = await awaiting.elsewhere(begun, args) if heavy(args, {}) else begun(args)
        if store is not None:
            await awaiting.elsewhere(store)
        if self._stream.hungry:
            await self.flush()
        return future

    async def flush(self) -> None:
        """Hand over what has gathered; waits while there is no room for it."""
        if self._session.sender.roomy:
            self._stream.flush()
        else:
            await awaiting.elsewhere(self._stream.flush)

    async def refused(self) -> list[tuple[Future, PyfiError]]:
        """Hand over the rest and wait until each call is accepted or refused; those that were not accepted."""
        await self.flush()
        await awaiting.settled(self.ticket)
        return self._stream.refused()
