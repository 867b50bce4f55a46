"""Calls that yield: each item becomes an outcome of its own, and the call ends when all of them are sent on (1.15).

Main thread only. The items of one frame are a lot of their own that no broker delivered; in place of an ack it tells
that they are committed and forwarded. Until the last one has said so, the end of the call waits here, so a delivery is
never acked, nor its budget charged, while something that it yielded could still be lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from pyfi_hpc.agent.lots import Finished, Lot, Stream, Undelivered
from pyfi_hpc.errors import BadInput
from pyfi_hpc.wire.frames import Item, Yielded
from pyfi_hpc.wire.ids import item_id, new_id
from pyfi_hpc.wire.messages import WIRE_VERSION, Call, Message

#: A member by the agent's books: token of its lot, index.
At = tuple[int, int]


@dataclass(slots=True)
class _Running:
    """A call that has yielded: what came, what of it is settled, and its end once that is known."""

    stream: Stream
    came: int = 0
    settled: int = 0
    end: Finished | None = None


class Streams:
    """Every call of this agent that yields."""

    def __init__(self, put: Callable[..., None], post: Callable[[Callable[[], None]], None]) -> None:
        """`put` hands what is to be committed on; `post` has something done on the main thread, from any."""
        self._put, self._post = put, post
        self._running: dict[At, _Running] = {}
        #: told how many items of a call are settled, and of a call whose items another attempt yields now
        self.taken: Callable[[At, int], None] = lambda at, count: None
        self.overtaken: Callable[[At], None] = lambda at: None

    def yielded(self, lot: Lot, frame: Yielded, worker: bytes) -> None:
        """Have the items of a frame committed.

        Raises:
            BadInput: E_FIELD, the frame is not the next one.
        """
        running = self._begun(lot, frame.index)
        if frame.first != running.came or not frame.values:
            raise BadInput.of("E_FIELD", "first", frame.first, f"item {running.came} comes next")
        running.came += len(frame.values)
        items = self._lot(lot, frame)
        for index, value in enumerate(frame.values):
            opens = frame.first + index == 0
            item = Item(index, value, None, 0.0, 0.0)
            self._put(Finished(items, index, item, worker, stream=running.stream, opens=opens))

    def _begun(self, lot: Lot, index: int) -> _Running:
        at = lot.token, index
        if at not in self._running:
            call = lot.call(index)
            self._running[at] = _Running(Stream(lot.message.owner, call.id, attempt=new_id()))
        return self._running[at]

    def _lot(self, lot: Lot, frame: Yielded) -> Lot:
        parent, message = lot.call(frame.index), lot.message
        calls = [
            Call(item_id(parent.id, frame.first + index), b"", parent.digest, parent.serial)
            for index in range(len(frame.values))
        ]
        own = Message(
            WIRE_VERSION, new_id(), message.owner, message.socket, message.generation, tuple(calls), message.reply,
            message.workflow,
        )  # fmt: skip
        at, count = (lot.token, frame.index), len(calls)
        settled = Undelivered(lambda: self._post(lambda: self._settled(at, count)))
        items = Lot(-1, settled, own, lot.socket, lot.processor, careful=False)
        items.overtaken = lambda: self._post(lambda: self.overtaken(at))
        return items

    def _settled(self, at: At, count: int) -> None:
        """So many more items of the call are committed and sent on."""
        running = self._running[at]
        running.settled += count
        self.taken(at, running.settled)
        self._end(at, running)

    def finish(self, *finished: Finished) -> None:
        """Attempts are over: have their ends committed, of one that has yielded once its items are settled."""
        plain = [done for done in finished if not self._yielded_before(done)]
        if plain:
            self._put(*plain)
        for done in finished if len(plain) < len(finished) else ():
            if self._yielded_before(done):
                running = self._begun(done.lot, done.index)
                running.end = msgspec.structs.replace(done, stream=running.stream, opens=running.came == 0)
                self._end((done.lot.token, done.index), running)

    def _yielded_before(self, done: Finished) -> bool:
        return done.item.yielded is not None or (done.lot.token, done.index) in self._running

    def _end(self, at: At, running: _Running) -> None:
        if running.end is not None and running.settled == running.came:
            del self._running[at]
            self._put(running.end)
