"""The memory broker: the promises of `base` within one process, for tests and for trying things out.

`Hub` is the server: queues, and who listens. A `MemoryBroker` is one connection to it, with one thread for callbacks.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pyfi_hpc.brokers.base import (
    DELIVERY_LIMIT,
    Confirm,
    Delivery,
    Depth,
    Peeked,
    Publication,
    Reason,
    TaskQueue,
    dead_queue,
    nothing,
)
from pyfi_hpc.brokers.letters import DEAD_EXCHANGE, letter
from pyfi_hpc.brokers.refusals import closed, full, mismatch, unroutable
from pyfi_hpc.errors import BadInput, PyfiError
from pyfi_hpc.logs import logger

log = logger()


@dataclass(slots=True, order=True)
class _Held:
    """A message that the hub holds; given back, it stands where it stood (`seq`)."""

    seq: int
    publication: Publication = field(compare=False)
    delivery_count: int = field(default=0, compare=False)


@dataclass(slots=True)
class _Queue:
    network: str
    name: str
    exchange: str
    key: str
    generation: int = 1
    max_length: int | None = None
    single: bool = False
    ready: list[_Held] = field(default_factory=list)


class MemoryDelivery:
    """A message in a consumer's hands."""

    content_encoding: str | None = None

    def __init__(self, subscription: MemorySubscription, held: _Held) -> None:
        self._subscription, self._incarnation, self._seq = subscription, subscription.incarnation, held.seq
        self.queue, self.body = subscription.queue, held.publication.body
        self.content_type: str | None = held.publication.content_type
        self.headers: Mapping[str, object] = dict(held.publication.headers)
        self.delivery_count, self.redelivered = held.delivery_count, held.delivery_count > 0
        self.received = time.monotonic()

    def held(self) -> bool:
        """False once it was taken back."""
        return self._subscription.current(self._incarnation)

    def ack(self) -> None:
        """The message is settled, unless it was taken back before."""
        self._subscription.settle(self._seq, self._incarnation)


class MemorySubscription:
    """One consumer of one queue."""

    def __init__(self, hub: Hub, name: str, prefetch: int, deliver: Callable[[MemoryDelivery], None]) -> None:
        self._hub, self.queue, self.prefetch, self.deliver = hub, name, prefetch, deliver
        self.unacked: dict[int, _Held] = {}
        self.incarnation = 0

    def free(self) -> int:
        """How many more messages it may hold."""
        return self.prefetch - len(self.unacked)

    def current(self, incarnation: int) -> bool:
        """True while what was delivered under `incarnation` is still in hands."""
        return incarnation == self.incarnation

    def settle(self, seq: int, incarnation: int) -> None:
        """Forget a message, when this incarnation still holds it."""
        with self._hub.lock:
            if self.current(incarnation):
                self.unacked.pop(seq, None)
                self._hub.pump(self.queue)

    def cancel(self) -> None:
        """Take nothing new; what is in hands stays there."""
        with self._hub.lock:
            self._hub.subscriptions[self.queue] = [s for s in self._hub.subscriptions[self.queue] if s is not self]
            self._hub.pump(self.queue)

    def resize(self, prefetch: int) -> None:
        """Hold at most `prefetch` from now on."""
        with self._hub.lock:
            self.prefetch = prefetch
            self._hub.pump(self.queue)

    def drop(self) -> None:
        """Cancel, and give everything back."""
        self.cancel()
        self.lose()
        self._hub.holders.discard(self)

    def lose(self) -> None:
        """Everything in hands goes back to the queue; acks of it are void from now on."""
        with self._hub.lock:
            self.incarnation += 1
            given, self.unacked = self.unacked, {}
            self._hub.take_back(self.queue, list(given.values()))


class Hub:
    """What the memory brokers of one process share."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.queues: dict[str, _Queue] = {}
        self.subscriptions: dict[str, list[MemorySubscription]] = defaultdict(list)
        #: those that may hold messages, the cancelled ones too
        self.holders: set[MemorySubscription] = set()
        self.reply_to: dict[str, Callable[[bytes], None]] = {}
        self.hearers: dict[str, list[tuple[MemoryBroker, Callable[[str], None]]]] = defaultdict(list)
        self._numbers = itertools.count(1)

    def found(self, name: str) -> _Queue:
        """The queue called `name`; raises BadInput E_NOT_FOUND."""
        if name not in self.queues:
            raise BadInput.of("E_NOT_FOUND", "queue", name)
        return self.queues[name]

    def ensure_dead(self, network: str) -> None:
        """The dead letters of `network` can be kept."""
        name = dead_queue(network)
        self.queues.setdefault(name, _Queue(network, name, DEAD_EXCHANGE, network))

    def route(self, publication: Publication) -> _Queue:
        """The newest queue bound there; raises what the confirm is to raise."""
        ways = [q for q in self.queues.values() if (q.exchange, q.key) == (publication.exchange, publication.key)]
        if not ways:
            raise unroutable(publication.exchange, publication.key)
        target = max(ways, key=lambda way: way.generation)
        if target.max_length is not None and len(target.ready) >= target.max_length:
            raise full(target.name)
        return target

    def put(self, publication: Publication) -> None:
        """Hold the message; raises what the confirm is to raise."""
        with self.lock:
            target = self.route(publication)
            heapq.heappush(target.ready, _Held(next(self._numbers), publication))
            self.pump(target.name)

    def take_back(self, name: str, given: list[_Held]) -> None:
        """Put messages back where they stood, counted; those that came back too often are set aside."""
        if (target := self.queues.get(name)) is None:
            return
        for held in given:
            held.delivery_count += 1
            if held.delivery_count > DELIVERY_LIMIT and target.exchange != DEAD_EXCHANGE:
                detail = f"it came back {held.delivery_count} times"
                self.put(letter(target.network, held.publication, Reason.DELIVERY_LIMIT, detail))
            else:
                heapq.heappush(target.ready, held)
        self.pump(name)

    def pump(self, name: str) -> None:
        """Hand out what is ready to the consumers that have room, the least laden first."""
        target = self.queues.get(name)
        while target and target.ready and (free := self._free(target)):
            taker = min(free, key=lambda subscription: len(subscription.unacked))
            held = heapq.heappop(target.ready)
            taker.unacked[held.seq] = held
            taker.deliver(MemoryDelivery(taker, held))

    def _free(self, queue: _Queue) -> list[MemorySubscription]:
        """The consumers that may be given a message now."""
        every = self.subscriptions[queue.name]
        if queue.single:
            every = (
                []
                if any(s.unacked for s in self.holders if s.queue == queue.name and s not in every[:1])
                else every[:1]
            )
        return [subscription for subscription in every if subscription.free() > 0]


class MemoryBroker:
    """A connection to a hub."""

    kind = "memory"
    ack_timeout_seconds: float | None = None

    def __init__(self, hub: Hub) -> None:
        self._hub, self._closed = hub, False
        self._subscriptions: list[MemorySubscription] = []
        self._addresses: list[str] = []
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="pyfi-memory-broker", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception:
                log.exception("a callback of the broker failed")

    def prepare(self) -> None:
        """There is nothing to connect to."""

    def declare(self, queue: TaskQueue) -> None:
        """Make the queue, or see that it stands as asked."""
        with self._hub.lock:
            self._hub.ensure_dead(queue.network)
            fresh = _Queue(queue.network, queue.name, queue.exchange, queue.key, queue.generation, queue.max_length)
            fresh.single = queue.single
            stands = self._hub.queues.setdefault(queue.name, fresh)
            if stands.max_length != queue.max_length:
                raise mismatch(queue.name, queue.max_length, stands.max_length)
            self._hub.pump(queue.name)

    def declare_dead_letters(self, network: str) -> None:
        """Make the dead letters' queue of `network`."""
        with self._hub.lock:
            self._hub.ensure_dead(network)

    def delete(self, queue: TaskQueue) -> None:
        """Remove the queue with what is in it."""
        with self._hub.lock:
            self._hub.queues.pop(queue.name, None)

    def publish(self, publication: Publication) -> Confirm:
        """Hold the message at once."""
        confirm: Confirm = Confirm()
        try:
            if self._closed:
                raise closed()
            self._hub.put(publication)
        except PyfiError as error:
            confirm.set_exception(error)
        else:
            confirm.set_result(None)
        return confirm

    def publish_all(self, publications: Sequence[Publication]) -> list[Confirm]:
        """Hold each at once."""
        return [self.publish(each) for each in publications]

    def set_aside(self, network: str, publication: Publication, reason: Reason, detail: str) -> Confirm:
        """Publish to the dead letters of `network`."""
        with self._hub.lock:
            self._hub.ensure_dead(network)
        return self.publish(letter(network, publication, reason, detail))

    def consume(
        self,
        queue: str,
        *,
        prefetch: int,
        deliver: Callable[[Delivery], None],
        all_here: Callable[[], None] = nothing,
    ) -> MemorySubscription:
        """Deliver what is ready and what comes, each alone, on this broker's thread."""

        def hand_over(delivery: MemoryDelivery) -> None:
            self._calls.put(lambda: deliver(delivery) if delivery.held() else None)
            self._calls.put(all_here)

        subscription = MemorySubscription(self._hub, queue, prefetch, hand_over)
        with self._hub.lock:
            if queue.startswith(dead_queue("")):
                self._hub.ensure_dead(queue.removeprefix(dead_queue("")))
            self._subscriptions.append(subscription)
            self._hub.holders.add(subscription)
            self._hub.subscriptions[queue].append(subscription)
            self._hub.pump(queue)
        return subscription

    def reply_address(self, on_reply: Callable[[bytes], None]) -> str:
        """A fresh address."""
        address = uuid.uuid4().hex
        with self._hub.lock:
            self._addresses.append(address)
            self._hub.reply_to[address] = lambda body: self._calls.put(lambda: on_reply(body))
        return address

    def reply(self, address: str, body: bytes) -> None:
        """Send a hint to whoever listens there."""
        with self._hub.lock:
            if listener := self._hub.reply_to.get(address):
                listener(body)

    def hint(self, network: str, text: str) -> None:
        """Tell every listener of `network`."""
        with self._hub.lock:
            for _, hear in self._hub.hearers[network]:
                hear(text)

    def on_hint(self, network: str, hear: Callable[[str], None]) -> None:
        """Hear hints from now on."""
        with self._hub.lock:
            self._hub.hearers[network].append((self, lambda text: self._calls.put(lambda: hear(text))))

    def depth(self, queue: str) -> Depth:
        """What the queue holds now."""
        with self._hub.lock:
            ready = len(self._hub.found(queue).ready)
            unacked = sum(len(s.unacked) for s in self._hub.holders if s.queue == queue)
            return Depth(ready, unacked, len(self._hub.subscriptions[queue]))

    def peek(self, queue: str, count: int) -> list[Peeked]:
        """The first `count` ready messages."""
        with self._hub.lock:
            first = heapq.nsmallest(count, self._hub.found(queue).ready)
            return [Peeked(h.publication.body, h.delivery_count > 0, dict(h.publication.headers)) for h in first]

    def purge(self, queue: str, taken: Callable[[bytes], None]) -> int:
        """Take every ready message, in order."""
        with self._hub.lock:
            ready, count = self._hub.found(queue).ready, 0
            while ready:
                taken(ready[0].publication.body)
                heapq.heappop(ready)
                count += 1
            return count

    def publishing(self) -> bool:
        """True until it is closed."""
        return not self._closed

    def check(self) -> str:
        """There is nothing to ask."""
        return "memory"

    def sever(self) -> None:
        """As a lost connection: everything in hands goes back, the consumers stay."""
        for subscription in list(self._subscriptions):
            subscription.lose()

    def close(self) -> None:
        """Give everything back and end the thread."""
        with self._hub.lock:
            self._closed = True
            for subscription in self._subscriptions:
                subscription.drop()
            for address in self._addresses:
                self._hub.reply_to.pop(address, None)
            for network, hearers in self._hub.hearers.items():
                self._hub.hearers[network] = [(broker, hear) for broker, hear in hearers if broker is not self]
        self._calls.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()
