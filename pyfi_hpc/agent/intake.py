"""Deliveries on their way in: subscriptions, lots, and what is refused at the door. Main thread only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from pyfi_hpc.agent.committer import Adopt, GiveBack, Job, Lease, Look, SetAside, Split
from pyfi_hpc.agent.dispatch import Dispatcher
from pyfi_hpc.agent.keeper import View
from pyfi_hpc.agent.lots import Looked, Lot, Served
from pyfi_hpc.brokers.base import Broker, Delivery, Reason, Subscription
from pyfi_hpc.errors import BadInput
from pyfi_hpc.failpoints import reach
from pyfi_hpc.model.status import Requested
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.messages import Message

#: A delivery that came back so often is not run as it is (RELIABILITY 1.10).
SPLIT_AT_COUNT = 3
#: Messages in hand for each worker: one that it works on, one that waits.
_PREFETCH_PER_WORKER = 2
#: The same where calls are short: enough to run while others are on their way in, or being committed.
_PREFETCH_OF_SHORT = 8
#: How long a message for a socket that nobody knows waits for fresh rows before it is set aside.
_UNKNOWN_SECONDS = 5.0


@dataclass(slots=True)
class _Source:
    """A queue that is consumed for `workers` workers of a processor, and the tasks whose calls come from it."""

    workers: int
    tasks: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Unknown:
    processor: bytes
    delivery: Delivery
    message: Message
    since: float = field(default_factory=time.monotonic)


class Intake:
    """Turns deliveries into lots, and lots into work for the dispatcher."""

    def __init__(
        self,
        broker: Broker,
        dispatcher: Dispatcher,
        put: Callable[[Job], None],
        deliver: Callable[[bytes, Delivery], None],
    ) -> None:
        """`put` hands a job to the committer; `deliver` (any thread) brings a delivery to `take` on this one."""
        self._broker, self._dispatcher, self._put, self._deliver = broker, dispatcher, put, deliver
        self._subscriptions: dict[tuple[bytes, str], Subscription] = {}
        self._prefetch: dict[tuple[bytes, str], int] = {}
        self._sources: dict[tuple[bytes, str], _Source] = {}
        self._sockets: dict[bytes, Served] = {}
        self._unknown: list[_Unknown] = []
        self._next = 1
        self.lots: dict[int, Lot] = {}
        self._batches: dict[bytes, int] = {}

    # subscriptions

    def follow(self, view: View, ready: dict[bytes, int], *, open_for_work: bool) -> None:
        """Consume for every processor that runs and has `ready` workers here; stop consuming for the others."""
        fresh, self._sockets = view.sockets is not self._sockets, view.sockets
        wanted: dict[tuple[bytes, str], _Source] = {}
        for socket in view.sockets.values():
            program = view.programs.get(socket.processor)
            workers = ready.get(socket.processor, 0)
            if open_for_work and workers and program and program.requested is Requested.RUNNING:
                for each in (socket, *socket.others):
                    wanted.setdefault((each.processor, each.queue), _Source(workers)).tasks.add(each.task)
        for key in self._subscriptions.keys() - wanted.keys():
            self._subscriptions.pop(key).cancel()
            self._prefetch.pop(key)
        self._sources = wanted
        for key, source in wanted.items():
            self._subscribe(key, self._prefetch_of(source))
        if fresh:
            # an old view may be older than a socket: while the database is away nothing is unknown for good
            self._retry_unknown()

    def _prefetch_of(self, source: _Source) -> int:
        short = all(map(self._dispatcher.short, source.tasks))
        return source.workers * (_PREFETCH_OF_SHORT if short else _PREFETCH_PER_WORKER)

    def _deepen(self, key: tuple[bytes, str]) -> None:
        """Hold more once calls have turned out to be short; the next look at what is wanted may take it back."""
        if key in self._subscriptions and (source := self._sources.get(key)):
            prefetch = self._prefetch_of(source)
            if prefetch > self._prefetch[key]:
                self._subscribe(key, prefetch)

    def _subscribe(self, key: tuple[bytes, str], prefetch: int) -> None:
        if key not in self._subscriptions:
            deliver = partial(self._deliver, key[0])
            self._subscriptions[key] = self._broker.consume(key[1], prefetch=prefetch, deliver=deliver)
        elif self._prefetch[key] != prefetch:
            self._subscriptions[key].resize(prefetch)
        self._prefetch[key] = prefetch

    def close(self) -> None:
        """Take nothing new."""
        for subscription in self._subscriptions.values():
            subscription.cancel()
        self._subscriptions.clear()
        self._prefetch.clear()
        self._sources.clear()

    def consumes(self, processor: bytes) -> bool:
        """True when deliveries for `processor` may come."""
        return any(key[0] == processor for key in self._subscriptions)

    # deliveries

    def take(self, processor: bytes, delivery: Delivery) -> None:
        """A delivery came for a worker of `processor`."""
        reach("agent_after_receive")
        try:
            message = messages.decode_message(delivery.body, delivery.content_type, delivery.content_encoding)
        except BadInput as error:
            self._put(SetAside(delivery, Reason.DECODE, f"{error.code}: {error.what}: {error.at}"))
            return
        self._admit(_Unknown(processor, delivery, message))

    def _admit(self, arrival: _Unknown) -> None:
        socket = self._sockets.get(arrival.message.socket)
        if socket is None:
            self._unknown.append(arrival)
        elif socket.owner != arrival.message.owner:
            detail = f"the message says {arrival.message.owner!r}, socket {socket.name} is {socket.owner!r}'s"
            self._put(SetAside(arrival.delivery, Reason.OWNER, detail))
        else:
            self._accept(arrival, socket.at(arrival.delivery.queue))

    def _retry_unknown(self) -> None:
        waiting, self._unknown = self._unknown, []
        for arrival in waiting:
            if arrival.message.socket in self._sockets or time.monotonic() - arrival.since < _UNKNOWN_SECONDS:
                self._admit(arrival)
            else:
                detail = f"no socket {arrival.message.socket.hex()}"
                self._put(SetAside(arrival.delivery, Reason.UNKNOWN_SOCKET, detail))

    def _accept(self, arrival: _Unknown, socket: Served) -> None:
        delivery, message = arrival.delivery, arrival.message
        careful = delivery.redelivered or delivery.delivery_count > 0 or any(call.serial > 1 for call in message.calls)
        known = self.lots.get(self._batches.get(message.batch, 0)) if careful else None
        if known is not None and known.message.calls == message.calls and known.open:
            self._put(Adopt(known, delivery))
            return
        lot = Lot(self._next, delivery, message, socket, arrival.processor, careful)
        self._next += 1
        self.lots[lot.token] = lot
        self._batches[message.batch] = lot.token
        if careful:
            self._put(Look(lot))
        else:
            calls = range(len(message.calls))
            self._dispatcher.offer(lot.token, lot.processor, socket.task, calls, priority=socket.priority)
            self._deepen((lot.processor, socket.queue))

    def looked(self, looked: Looked) -> None:
        """The look-up of a careful lot is back."""
        lot = looked.lot
        if not looked.runnable:
            return
        if lot.delivery.delivery_count >= SPLIT_AT_COUNT:
            self._put(Split(lot, looked.runnable))
        elif not self.consumes(lot.processor):
            self._put(GiveBack(lot, looked.runnable))
        else:
            socket = lot.socket
            self._dispatcher.offer(
                lot.token, lot.processor, socket.task, looked.runnable, careful=True, priority=socket.priority
            )

    # what waits

    def give_back(self, processors: Iterable[bytes]) -> None:
        """Everything that waits here for these processors goes back to its queue, at no cost."""
        for processor in processors:
            for token, indexes in self._dispatcher.withdraw_processor(processor).items():
                if token in self.lots:
                    self._put(GiveBack(self.lots[token], tuple(indexes)))

    def sweep(self, now: float) -> None:
        """Forget settled lots; turn deliveries that grow old into leases (1.11)."""
        busy = self._dispatcher.tokens()
        for token in [token for token, lot in self.lots.items() if not lot.open and token not in busy]:
            lot = self.lots.pop(token)
            if self._batches.get(lot.message.batch) == token:
                del self._batches[lot.message.batch]
        limit = self._broker.ack_timeout_seconds
        if limit is not None:
            for lot in self.lots.values():
                if lot.open and not lot.leased and now - lot.delivery.received > limit / 2:
                    self._lease(lot)

    def _lease(self, lot: Lot) -> None:
        waiting = self._dispatcher.withdraw(lot.token)
        running = self._dispatcher.held(lot.token)
        if running or waiting:
            # marked here, so that the next sweep does not ask again; the committer fills in the epochs
            lot.leased.update(dict.fromkeys(running, 0))
            self._put(Lease(lot, tuple(running), tuple(waiting)))

    @property
    def idle(self) -> bool:
        """True when no delivery is in hand."""
        return not self._unknown and all(not lot.open for lot in self.lots.values())
