"""Deliveries on their way in: subscriptions, lots, and what is refused at the door. Main thread only."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from pyfi_hpc.agent.commit.jobs import Adopt, GiveBack, Job, Lease, Look, SetAside, Split
from pyfi_hpc.agent.dispatch import Dispatcher
from pyfi_hpc.agent.keeper import View
from pyfi_hpc.agent.line import Line
from pyfi_hpc.agent.lots import Looked, Lot, Served
from pyfi_hpc.brokers.base import Broker, Delivery, Reason, Subscription, nothing
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
#: And where messages are small besides, as those of single calls are: the more of them there are in hand, the more go
#: together from each part to the next. So many bytes of them for each worker. Where they are so many, it stays so for a
#: while longer, up to this many times the bytes: a smaller number makes redeliveries.
_PREFETCH_OF_SMALL, _SMALL_BYTES, _STAY_TIMES = 128, 64 * 1024, 40
#: How much the newest message tells of what is usual, and how often that is thought over.
_LEARNING, _LOOK_EVERY = 0.05, 16
#: How long a message for a socket that nobody knows waits for fresh rows before it is set aside.
_UNKNOWN_SECONDS = 5.0


@dataclass(slots=True)
class _Source:
    """A queue that is consumed for `workers` workers of `processor`, and the tasks whose calls come from it."""

    processor: bytes
    workers: int
    ordered: bool = False
    tasks: set[str] = field(default_factory=set)
    #: bytes of a message, as is usual; None before the first
    size: float | None = None

    def learn(self, size: int) -> None:
        """A message of so many bytes came."""
        self.size = size if self.size is None else self.size + _LEARNING * (size - self.size)

    def deep(self, before: int) -> int:
        """How many messages to hold of short calls, where it was `before`."""
        if self.size is None:
            return self.workers * _PREFETCH_OF_SHORT
        most = self.workers * _PREFETCH_OF_SMALL
        # between the two it stays as it is
        small = self.size * _PREFETCH_OF_SMALL <= _SMALL_BYTES * (_STAY_TIMES if before >= most else 1)
        return most if small else self.workers * _PREFETCH_OF_SHORT


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
        post: Callable[[Callable[[], None]], None] = lambda do: do(),
        grows_old: Callable[[int], None] = lambda token: None,
        all_here: Callable[[], None] = nothing,
        first: int = 1,
    ) -> None:
        """`put` hands a job to the committer; `deliver` and `post` (from any thread) bring a delivery to `take`, and
        whatever is to be done, to this one; `grows_old` is told the token of a lot whose delivery does; `all_here` is
        called when the deliveries that came together were given to `deliver`; tokens begin with `first`."""
        self._grows_old, self._all_here = grows_old, all_here
        self._broker, self._dispatcher, self._put, self._deliver = broker, dispatcher, put, deliver
        self._subscriptions: dict[tuple[bytes, str], Subscription] = {}
        self._prefetch: dict[tuple[bytes, str], int] = {}
        self._sources: dict[tuple[bytes, str], _Source] = {}
        self._sockets: dict[bytes, Served] = {}
        self._unknown: list[_Unknown] = []
        self._next = first
        self.lots: dict[int, Lot] = {}
        self._batches: dict[bytes, int] = {}
        self._post = post
        #: lots of fifo sockets by their tokens
        self._lines: dict[int, Line] = {}
        #: fifo queues that are consumed no more, but for the member in hands
        self._leaving: dict[tuple[bytes, str], Subscription] = {}

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
                    source = _Source(each.processor, workers, each.ordered)
                    wanted.setdefault((each.processor, each.queue), source).tasks.add(each.task)
        for key in wanted.keys() & self._sources.keys():
            wanted[key].size = self._sources[key].size
        for key in self._subscriptions.keys() - wanted.keys():
            self._unsubscribe(key)
        self._sources = wanted
        for key, source in wanted.items():
            self._subscribe(key, self._prefetch_of(source, self._prefetch.get(key, 0)))
        if fresh:
            # an old view may be older than a socket: while the database is away nothing is unknown for good
            self._retry_unknown()

    def _prefetch_of(self, source: _Source, before: int = 0) -> int:
        """How many messages to hold; where it was deep `before`, less only for good reason.

        RabbitMQ takes back what is on its way to a consumer whose prefetch is lowered, and then counts it as delivered
        twice: each of its calls is announced before it runs.
        """
        if source.ordered:
            return 1
        deep = source.deep(before)
        code = [(source.processor, task) for task in source.tasks]
        short = all(itertools.starmap(self._dispatcher.short, code))
        long = any(itertools.starmap(self._dispatcher.long, code))
        stays = before >= source.workers * _PREFETCH_OF_SHORT and not long
        return deep if short or stays else source.workers * _PREFETCH_PER_WORKER

    def _deepen(self, lot: Lot) -> None:
        """Hold more once calls have turned out to be short, and messages small; the next look may take it back."""
        key = lot.processor, lot.socket.queue
        if (source := self._sources.get(key)) is None:
            return
        source.learn(len(lot.delivery.body))
        before = self._prefetch.get(key, 0)
        shallow = before < source.workers * _PREFETCH_OF_SHORT
        if (shallow or lot.token % _LOOK_EVERY == 0) and key in self._subscriptions:
            prefetch = self._prefetch_of(source, before)
            if prefetch > before:
                self._subscribe(key, prefetch)

    def _subscribe(self, key: tuple[bytes, str], prefetch: int) -> None:
        if key in self._leaving:
            self._subscriptions[key] = self._leaving.pop(key)
        elif key not in self._subscriptions:
            deliver = partial(self._deliver, key[0])
            self._subscriptions[key] = self._broker.consume(
                key[1], prefetch=prefetch, deliver=deliver, all_here=self._all_here
            )
        elif self._prefetch[key] != prefetch:
            self._subscriptions[key].resize(prefetch)
        self._prefetch[key] = prefetch

    def _unsubscribe(self, key: tuple[bytes, str]) -> None:
        self._prefetch.pop(key)
        subscription = self._subscriptions.pop(key)
        if not self._sources[key].ordered:
            subscription.cancel()
            return
        # once it is cancelled another consumer would be served: not while something of it is in hands
        self._leaving[key] = subscription
        for token in self._lines_of(key):
            if token in self._lines and self._dispatcher.withdraw(token):
                self._lines[token].put_back()
            self._step(token)
        if not self._lines_of(key):
            self._let_go(key)

    def close(self) -> None:
        """Take nothing new."""
        for key in list(self._subscriptions):
            self._unsubscribe(key)
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
        if known is not None and known.open and (known.renumbered or known.message.calls == message.calls):
            self._put(Adopt(known, delivery))
            return
        lot = Lot(self._next, delivery, message, socket, arrival.processor, careful)
        self._next += 1
        self.lots[lot.token] = lot
        self._batches[message.batch] = lot.token
        if socket.ordered:
            self._line_up(lot)
        elif careful:
            self._put(Look(lot))
        else:
            calls, size = range(len(message.calls)), len(delivery.body)
            self._dispatcher.offer(lot.token, lot.processor, socket.task, calls, priority=socket.priority, size=size)
            self._deepen(lot)

    def looked(self, looked: Looked) -> None:
        """The look-up of a careful lot is back."""
        lot = looked.lot
        if lot.socket.ordered:
            self._go_on(lot, looked.runnable)
            return
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
                if token in self._lines:
                    self._lines[token].put_back()
                    self._step(token)
                elif token in self.lots:
                    self._put(GiveBack(self.lots[token], tuple(indexes)))

    def sweep(self, now: float) -> None:
        """Forget settled lots; turn deliveries that grow old into leases (1.11)."""
        busy = self._dispatcher.tokens() | self._lines.keys()
        for token in [token for token, lot in self.lots.items() if not lot.open and token not in busy]:
            lot = self.lots.pop(token)
            if self._batches.get(lot.message.batch) == token:
                del self._batches[lot.message.batch]
        if self._broker.ack_timeout_seconds is not None:
            for lot in self.lots.values():
                if lot.open and not lot.leased and not lot.socket.ordered and self._old(lot, now):
                    self._lease(lot)

    def _old(self, lot: Lot, now: float) -> bool:
        limit = self._broker.ack_timeout_seconds
        return limit is not None and now - lot.delivery.received > limit / 2

    def _lease(self, lot: Lot) -> None:
        self._grows_old(lot.token)
        waiting = self._dispatcher.withdraw(lot.token)
        running = self._dispatcher.held(lot.token)
        if running or waiting:
            # marked here, so that the next sweep does not ask again; the committer fills in the epochs
            lot.leased.update(dict.fromkeys(running, 0))
            self._put(Lease(lot, tuple(running), tuple(waiting)))

    # fifo sockets (1.13): one message in hands, one member of it at a time

    def _line_up(self, lot: Lot) -> None:
        line = Line(list(range(len(lot.message.calls)))) if lot.careful else Line.fresh(len(lot.message.calls))
        self._lines[lot.token] = line
        lot.told = partial(self._tell, lot.token)
        if lot.careful:
            self._put(Look(lot))
        else:
            self._step(lot.token)

    def _go_on(self, lot: Lot, runnable: Iterable[int]) -> None:
        if (line := self._lines.get(lot.token)) is not None:
            line.allow(runnable)
            self._step(lot.token)

    def _tell(self, token: int, index: int, seconds: float | None) -> None:
        """A member is settled, or to be tried again in so many seconds; on any thread."""
        self._post(partial(self._told, token, index, seconds))

    def _told(self, token: int, index: int, seconds: float | None) -> None:
        if (line := self._lines.get(token)) is None:
            return
        if seconds is None:
            line.settled(index)
        else:
            line.again(index, time.monotonic() + seconds)
        self._step(token)

    def step(self) -> None:
        """Start what has waited for its next attempt, and give back messages that grow old."""
        for token in list(self._lines):
            self._step(token)

    def _step(self, token: int) -> None:
        """Start the next member, where the one before it is settled and the message is still ours."""
        line = self._lines.get(token)
        if line is None or line.current is not None:
            return
        lot = self.lots[token]
        key = (lot.processor, lot.socket.queue)
        if not line.waiting:
            del self._lines[token]
            if key in self._leaving:
                self._let_go(key)
        elif not lot.delivery.held():
            self._forget(token)
        elif key not in self._subscriptions or self._old(lot, time.monotonic()):
            self._let_go(key)
        elif (index := line.next(time.monotonic())) is not None:
            self._dispatcher.offer(token, lot.processor, lot.socket.task, [index], careful=lot.careful)

    def _let_go(self, key: tuple[bytes, str]) -> None:
        """The broker has the message back, in its old place; where more is wanted we stand in line again."""
        for token in self._lines_of(key):
            self._forget(token)
        subscription = self._leaving.pop(key, None) or self._subscriptions.pop(key, None)
        if subscription is not None:
            subscription.drop()
        if key in self._prefetch:
            self._subscribe(key, 1)

    def _lines_of(self, key: tuple[bytes, str]) -> list[int]:
        lots = ((token, self.lots[token]) for token in self._lines)
        return [token for token, lot in lots if (lot.processor, lot.socket.queue) == key]

    def _forget(self, token: int) -> None:
        """The message is somebody else's now; nothing of it is in our workers' hands."""
        del self._lines[token]
        lot = self.lots.pop(token)
        if self._batches.get(lot.message.batch) == token:
            del self._batches[lot.message.batch]

    def skip(self, lot: Lot, members: Iterable[int]) -> list[int]:
        """Run these no more, where they wait for those before them; which of them that is true of."""
        line = self._lines.get(lot.token)
        return [] if line is None else line.skip(members)

    @property
    def idle(self) -> bool:
        """True when no delivery is in hand."""
        return not self._unknown and all(not lot.open for lot in self.lots.values())
