"""Sends committed results along their plugs, with confirms, under ids derived from the parent (RELIABILITY 1.5, 1.22).

Children for one target travel together. What the broker refuses is tried again; what it refuses for longer than the
spill time is given back to be parked in hold rows, so that a full queue downstream never blocks an ack. To a fifo
socket one parcel goes at a time (1.13): none overtakes another that was refused for a moment.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pyfi_hpc.agent.commit.verdicts import Verdict
from pyfi_hpc.agent.lots import child_call
from pyfi_hpc.brokers.base import Confirm, Publication
from pyfi_hpc.model.names import is_fifo
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.ids import child_id, new_id
from pyfi_hpc.wire.messages import WIRE_VERSION, Call, Message, Route

MAX_CALLS = 64
MAX_BYTES = 100_000
SPILL_SECONDS = 10.0
_AGAIN_SECONDS = 0.5


@dataclass(slots=True, eq=False)
class Parcel:
    """Children on their way to one target, and the parents that wait for the broker's word."""

    message: Message
    route: Route
    parents: list[Verdict]
    first_tried: float = field(default_factory=time.monotonic)
    #: when it may be tried again, once it was refused
    due: float = 0.0


class Forwarder:
    """Publishes parcels and keeps count of what each parent still waits for. Lives on the committer's thread."""

    def __init__(
        self,
        publish: Callable[[Publication], Confirm],
        confirmed: Callable[[Parcel, BaseException | None], None],
    ) -> None:
        """`confirmed` is called on the broker's thread; it must hand the parcel back to `resolve`."""
        self._send = publish
        self._confirmed = confirmed
        self._waiting: dict[int, int] = {}
        self._again: list[Parcel] = []
        #: what goes to fifo sockets; the first of each is on its way
        self._lines: dict[Route, deque[Parcel]] = {}

    @property
    def busy(self) -> bool:
        """True while a parent waits for a confirm."""
        return bool(self._waiting)

    def send(self, verdicts: Iterable[Verdict]) -> None:
        """Publish the children of these parents."""
        for parcel in _parcels(verdicts):
            for parent in parcel.parents:
                self._waiting[id(parent)] = self._waiting.get(id(parent), 0) + 1
            if not is_fifo(parcel.route.key) or self._is_first(parcel):
                self._publish(parcel)

    def _is_first(self, parcel: Parcel) -> bool:
        """Let it stand in line; whether there is none before it."""
        line = self._lines.setdefault(parcel.route, deque())
        line.append(parcel)
        return len(line) == 1

    def _next(self, route: Route) -> None:
        """The first in line is accepted, or given up; the one behind it has its turn."""
        line = self._lines[route]
        line.popleft()
        if line:
            self._publish(line[0])
        else:
            del self._lines[route]

    def _publish(self, parcel: Parcel) -> None:
        message = parcel.message
        publication = Publication(
            parcel.route.exchange, parcel.route.key, messages.encode(message), message_id=message.batch.hex()
        )

        def told(confirm: Confirm) -> None:
            self._confirmed(parcel, None if confirm.cancelled() else confirm.exception())

        self._send(publication).add_done_callback(told)

    def resolve(self, parcel: Parcel, error: BaseException | None) -> tuple[list[Verdict], Parcel | None]:
        """Take the broker's word: (parents that wait for nothing more, the parcel when it is to be parked)."""
        spilt = error is not None and time.monotonic() - parcel.first_tried >= SPILL_SECONDS
        if (error is None or spilt) and parcel.route in self._lines:
            self._next(parcel.route)
        if error is None:
            return self.release(parcel), None
        if spilt:
            return [], parcel
        parcel.due = time.monotonic() + _AGAIN_SECONDS
        self._again.append(parcel)
        return [], None

    def release(self, parcel: Parcel) -> list[Verdict]:
        """The parcel is safe; returns the parents that wait for nothing more."""
        free = []
        for parent in parcel.parents:
            self._waiting[id(parent)] -= 1
            if not self._waiting[id(parent)]:
                del self._waiting[id(parent)]
                free.append(parent)
        return free

    def try_again(self) -> None:
        """Publish again what was refused, where its time has come."""
        now = time.monotonic()
        due = [parcel for parcel in self._again if parcel.due <= now]
        self._again = [parcel for parcel in self._again if parcel.due > now]
        for parcel in due:
            self._publish(parcel)

    @property
    def again_seconds(self) -> float | None:
        """In how many seconds `try_again` is worth calling; None when nothing was refused."""
        if not self._again:
            return None
        return max(0.001, min(parcel.due for parcel in self._again) - time.monotonic())


def _parcels(verdicts: Iterable[Verdict]) -> list[Parcel]:
    groups: dict[tuple[str, Route], list[tuple[Verdict, Call]]] = {}
    for verdict in verdicts:
        for route in verdict.routes:
            target = Route(b"", b"", route.socket, route.generation, route.exchange, route.key)
            groups.setdefault((verdict.lot.message.owner, target), []).append((verdict, _child(verdict, route)))
    return [
        _parcel(owner, target, chunk) for (owner, target), children in groups.items() for chunk in _chunks(children)
    ]


def _child(verdict: Verdict, route: Route) -> Call:
    assert verdict.value is not None
    return child_call(child_id(verdict.lot.call(verdict.index).id, route.edge), verdict.value, route)


def _chunks(children: list[tuple[Verdict, Call]]) -> Iterable[list[tuple[Verdict, Call]]]:
    chunk: list[tuple[Verdict, Call]] = []
    size = 0
    for child in children:
        if chunk and (len(chunk) == MAX_CALLS or size + len(child[1].args) > MAX_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(child)
        size += len(child[1].args)
    if chunk:
        yield chunk


def _parcel(owner: str, target: Route, children: list[tuple[Verdict, Call]]) -> Parcel:
    message = Message(
        WIRE_VERSION, new_id(), owner, target.socket, target.generation, tuple(call for _, call in children)
    )
    return Parcel(message, target, [parent for parent, _ in children])
