"""One message to every task that is bound to a logical queue: a call for each, under ids derived from the message's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pyfi_hpc.client import awaiting
from pyfi_hpc.client.stream import Stream
from pyfi_hpc.client.tickets import not_accepted
from pyfi_hpc.db import topology
from pyfi_hpc.errors import BadInput, Cancelled
from pyfi_hpc.wire.ids import child_id, id_text

if TYPE_CHECKING:
    from pyfi_hpc.client.futures import Future
    from pyfi_hpc.client.session import Session


class Broadcast(Mapping[str, "Future"]):
    """What became of a message: a future for each task that was bound when it was sent, by the name of its socket.

    `await` gives its `result`; a task that is cancelled while it awaits leaves the calls alone.
    """

    def __init__(self, identity: bytes, futures: Mapping[str, Future]) -> None:
        self.identity, self._futures = identity, dict(futures)

    @property
    def id(self) -> str:
        """The message's id; sent again with it, each call still has one outcome. No call has it."""
        return id_text(self.identity)

    def __getitem__(self, socket: str) -> Future:
        return self._futures[socket]

    def __iter__(self) -> Iterator[str]:
        return iter(self._futures)

    def __len__(self) -> int:
        return len(self._futures)

    def done(self) -> bool:
        """True once every outcome is known here."""
        return all(future.done() for future in self.values())

    def result(self, timeout: float | None = None, *, return_exceptions: bool = False) -> dict[str, Any]:
        """Socket -> value. The first error in their order is raised, or, where asked for, is there in a value's place.

        Raises:
            WaitTimeout: `timeout` seconds are over; the work goes on. Exception: as `Future.result`.
        """
        until = None if timeout is None else time.monotonic() + timeout
        errors = {name: _error(future, until) for name, future in self.items()}
        return {
            name: error if error is not None and return_exceptions else self[name].result()
            for name, error in errors.items()
        }

    def cancel(self, *, running: bool = False) -> bool:
        """Cancel each as `Future.cancel` does; True if that decided all of them."""
        cancelled = [future.cancel(running=running) for future in self.values()]
        return all(cancelled)

    def __await__(self) -> Generator[Any, None, dict[str, Any]]:
        return self._gathered().__await__()

    async def _gathered(self) -> dict[str, Any]:
        values = await asyncio.gather(*(awaiting.value(future) for future in self.values()))
        return dict(zip(self, values, strict=True))

    def __repr__(self) -> str:
        return f"<Broadcast {self.id} to {', '.join(self)}>"


def _error(future: Future, until: float | None) -> BaseException | None:
    try:
        return future.exception(None if until is None else max(0.0, until - time.monotonic()))
    except Cancelled as cancelled:
        return cancelled


def begin(
    session: Session,
    queue: str,
    key: str,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    identity: bytes,
    priority: str,
    decided: Callable[[Future], bool],
    **limits: Any,
) -> tuple[Broadcast, list[Stream]]:
    """Hand one message over, and do not wait until each task's call is accepted: the streams' tickets tell that.

    `decided` settles a future whose outcome is on record: that call is not sent once more. Raises as `Client.publish`.
    """
    bound = session.link.run(lambda cursor: topology.bound(cursor, session.network_name, queue, key))
    if not bound:
        raise _nobody(queue, key, bound)
    # all of them are made before the first is sent: what one of them does not take is sent to none
    streams = {name: Stream(session, name, priority) for name in bound}
    futures = {
        name: stream.made(args, kwargs, id=child_id(identity, bound[name].encode()), **limits)
        for name, stream in streams.items()
    }
    # looked up before the first is sent as well: an id that is another message's is so for all of them
    for stream in [stream for name, stream in streams.items() if not decided(futures[name])]:
        stream.flush()
    return Broadcast(identity, futures), list(streams.values())


def accepted(sent: Broadcast, streams: Iterable[Stream]) -> Broadcast:
    """Wait, then give what was sent if each of its calls was accepted.

    Raises:
        PyfiError: E_NOT_ACCEPTED.
    """
    if refused := [each for stream in streams for each in stream.refused()]:
        error = not_accepted(refused, list(sent.values()))
        error.facts["id"] = sent.id
        error.cure = f"send it again with id={sent.id}: each call has one outcome, however often"
        raise error
    return sent


def _nobody(queue: str, key: str, bound: Mapping[str, str] | None) -> BadInput:
    if bound is None:
        return BadInput.of("E_NOT_FOUND", "queue", queue, f"no queue {queue!r}", cure="pyfi ls queues")
    by_key = f" by a pattern that {key!r} fits" if key else ""
    what = f"no task is bound to queue {queue}{by_key}: nobody would get it"
    return BadInput.of("E_UNKNOWN_SOCKET", "queue", queue, what, cure=f"pyfi add socket -q {queue} …")
