"""What a broker promises, whichever kind it is: rabbitmq, postgres (embedded) or memory (in one process).

A broker carries messages to agents at least once. All calls may come from any thread. Callbacks (`deliver`, `on_hint`,
`on_reply`, a confirm's) run on a thread of the broker's own: they append, wake somebody, and return.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from pyfi_hpc.brokers.confirm import Confirm as Confirm
from pyfi_hpc.model.names import is_fifo
from pyfi_hpc.wire.messages import CONTENT_TYPE


class Reason(StrEnum):
    """Why a message was set aside; travels as header `x-pyfi-reason` to the dead letters."""

    DECODE = "decode"
    OWNER = "owner"
    UNKNOWN_SOCKET = "unknown_socket"
    ID_CONFLICT = "id_conflict"
    DELIVERY_LIMIT = "delivery_limit"


@dataclass(frozen=True, slots=True)
class TaskQueue:
    """One durable queue: a task bound to a logical queue.

    `exchange` is `q.<network>.<queue>`, `key` the task key, `name` `<exchange>.<key>.g<generation>`. `kind` is for
    RabbitMQ alone: `quorum`, or `classic`, which answers sooner, is not replicated, and counts no deliveries.
    """

    network: str
    queue: str
    key: str
    generation: int = 1
    max_length: int | None = None
    kind: str = "quorum"

    @property
    def exchange(self) -> str:
        return f"q.{self.network}.{self.queue}"

    @property
    def name(self) -> str:
        return f"{self.exchange}.{self.key}.g{self.generation}"

    @property
    def single(self) -> bool:
        """Whether one of its consumers alone is served at a time, the others stand by."""
        return is_fifo(self.key)


@dataclass(frozen=True, slots=True)
class Publication:
    """A message on its way in. `headers` only for what is set aside."""

    exchange: str
    key: str
    body: bytes
    message_id: str
    content_type: str = CONTENT_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)


class Delivery(Protocol):
    """A message in a consumer's hands, unacked until `ack` or until its consumer goes away."""

    queue: str
    body: bytes
    content_type: str | None
    content_encoding: str | None
    headers: Mapping[str, object]
    #: True when this message may have been in somebody's hands before.
    redelivered: bool
    #: How often the broker took it back; decides nothing by itself (RELIABILITY 1.10).
    delivery_count: int
    #: time.monotonic() when it was received.
    received: float

    def ack(self) -> None:
        """The message is settled. Never blocks; an ack of a channel that is gone is dropped."""

    def held(self) -> bool:
        """False once it is known here that the broker has taken the message back."""


class Subscription(Protocol):
    """A consumer of one queue. Messages come to its `deliver` callback until it is cancelled."""

    def cancel(self) -> None:
        """Take nothing new; deliveries already handed over stay valid and can still be acked."""

    def resize(self, prefetch: int) -> None:
        """Hold at most `prefetch` unacked messages from now on."""

    def drop(self) -> None:
        """Cancel, and let the broker have every unacked delivery back at once."""


@dataclass(frozen=True, slots=True)
class Depth:
    """What a queue holds: `ready`, `unacked` in hands (None: the broker does not tell), and how many consume."""

    ready: int
    unacked: int | None
    consumers: int


@dataclass(frozen=True, slots=True)
class Peeked:
    """A message looked at without taking it."""

    body: bytes
    redelivered: bool
    headers: Mapping[str, object]


def nothing() -> None:
    """There is nothing to do."""


class Broker(Protocol):
    """Carries messages to the agents that run them, each at least once."""

    #: `rabbitmq`, `postgres` or `memory`.
    kind: str
    #: A delivery older than this is taken back by the broker; None where it never is.
    ack_timeout_seconds: float | None

    def prepare(self) -> None:
        """Begin to connect, since messages will be published and consumed soon; else the first of them has to wait."""

    def declare(self, queue: TaskQueue) -> None:
        """Make the queue and its exchange, durable, bound by `queue.key`; nothing happens where they stand as asked.

        Raises:
            BadInput: E_QUEUE_MISMATCH, it stands with other arguments.
            BrokerUnavailable: E_BROKER.
        """

    def declare_dead_letters(self, network: str) -> None:
        """Make the dead letters' queue of `network`, where it is not there yet.

        Raises:
            BrokerUnavailable: E_BROKER.
        """

    def delete(self, queue: TaskQueue) -> None:
        """Remove the queue with what is in it; one that is not there is fine."""

    def publish(self, publication: Publication) -> Confirm:
        """Hand the message over, durably and `mandatory`; after a reconnect unconfirmed ones are sent again."""

    def publish_all(self, publications: Sequence[Publication]) -> list[Confirm]:
        """As `publish`, for several at a time: it costs each of them less."""

    def set_aside(self, network: str, publication: Publication, reason: Reason, detail: str) -> Confirm:
        """Publish to the dead letters of `network` (queue `dead.<network>`), with reason headers of ours."""

    def consume(
        self,
        queue: str,
        *,
        prefetch: int,
        deliver: Callable[[Delivery], None],
        all_here: Callable[[], None] = nothing,
    ) -> Subscription:
        """Deliver messages of the queue named `queue`, at most `prefetch` unacked. Reopens itself after a lost
        connection (old deliveries' acks are then dropped) and waits where the queue does not exist yet.

        Several messages may come at once: `all_here` is called when each of them was given to `deliver`.
        Of a `single` queue one consumer is served. With a prefetch of 1 one message is in hands over all of them, and
        what comes back is delivered before what was sent after it.
        """

    def reply_address(self, on_reply: Callable[[bytes], None]) -> str:
        """Start to listen for replies; what to write into `Message.reply`."""

    def reply(self, address: str, body: bytes) -> None:
        """Send a hint to a waiting client; may be lost, never raises."""

    def hint(self, network: str, text: str) -> None:
        """Tell every agent of `network` that something changed; may be lost, never raises."""

    def on_hint(self, network: str, hear: Callable[[str], None]) -> None:
        """Hear hints from now on."""

    def depth(self, queue: str) -> Depth:
        """What the queue holds now.

        Raises:
            BadInput: E_NOT_FOUND, no such queue.
        """

    def peek(self, queue: str, count: int) -> list[Peeked]:
        """The first `count` ready messages, left where they are."""

    def purge(self, queue: str, taken: Callable[[bytes], None]) -> int:
        """Take every ready message off the queue, giving each body to `taken` before it is gone; return how many."""

    def publishing(self) -> bool:
        """False while messages cannot be handed over (disconnected or blocked)."""

    def check(self) -> str:
        """Product and version of the broker, for `doctor`.

        Raises:
            BrokerUnavailable: it does not answer. BadInput: E_BROKER_VERSION.
        """

    def close(self) -> None:
        """End every thread and connection. Unacked deliveries go back."""


def is_single(queue: str) -> bool:
    """Whether the task queue of that name is a `single` one."""
    return is_fifo(queue.rpartition(".g")[0])


#: Never deletes a message on its own: how often a message may come back before it is set aside.
DELIVERY_LIMIT = 100


def dead_queue(network: str) -> str:
    """The name of the queue that holds the dead letters of `network`."""
    return f"dead.{network}"
