"""A network of one processor without agents, and a runner that does by hand what an agent does with a call."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extras import Json

from pyfi_hpc.brokers.base import Broker, Confirm, Delivery, Publication, TaskQueue
from pyfi_hpc.brokers.memory import Hub, MemoryBroker
from pyfi_hpc.client.client import Client
from pyfi_hpc.db import record
from pyfi_hpc.db.record import NewHold, NewOutcome
from pyfi_hpc.errors import BadInput, PyfiError
from pyfi_hpc.model.names import task_key
from pyfi_hpc.model.status import HoldState, OutcomeStatus
from pyfi_hpc.wire import messages, values
from pyfi_hpc.wire.messages import Answer, ErrorRecord, Kind, Message, Reply

REPOSITORY, MODULE, COMMIT = "/srv/flows.git", "flows.steps", "3f9c21d" + "0" * 33
SIGNATURES = {
    "double": [("x", "positional_or_keyword", False)],
    "fail": [("how", "positional_or_keyword", False)],
    "kill": [("x", "positional_or_keyword", False)],
    "limited": [("x", "positional_or_keyword", False), ("timeout", "positional_or_keyword", True)],
    "add": [("x", "positional_or_keyword", False), ("y", "positional_or_keyword", True)],
}


def execute(uri: str, query: str, arguments: tuple[object, ...] = ()) -> list[Any]:
    """The rows of one statement, committed."""
    with closing(psycopg2.connect(uri)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(query, arguments)
        return cursor.fetchall() if cursor.description else []


class Place:
    """A queue and a socket for each task, named after a mark of its own; nothing is declared unless asked for."""

    def __init__(self, uri: str, broker: Broker, max_length: int | None = None) -> None:
        self.uri, self.mark = uri, uuid.uuid4().hex[:8]
        self._broker, self._max_length = broker, max_length
        self._generations: dict[str, int] = {}
        (network,) = execute(uri, "SELECT id FROM pyfi.network WHERE name = 'default'")
        self._network = network[0]
        (self._queue,) = execute(
            uri,
            "INSERT INTO pyfi.queue (network_id, name, max_length) VALUES (%s, %s, %s) RETURNING id",
            (self._network, f"work-{self.mark}", max_length),
        )[0]
        (self._processor,) = execute(
            uri,
            """INSERT INTO pyfi.processor (network_id, name, repository, commit, module, max_attempts)
               VALUES (%s, %s, %s, %s, %s, 3) RETURNING id""",
            (self._network, f"steps-{self.mark}", REPOSITORY, COMMIT, MODULE),
        )[0]
        self.queue = f"work-{self.mark}"

    def socket(self, task: str, *, declared: bool = True) -> str:
        """A new socket's name."""
        key = task_key(REPOSITORY, MODULE, task)
        parameters = [dict(zip(("name", "kind", "has_default"), each, strict=True)) for each in SIGNATURES[task]]
        execute(
            self.uri,
            """INSERT INTO pyfi.socket (network_id, name, processor_id, queue_id, task, task_key, signature)
               VALUES (%s, %s, %s, %s, %s, %s, %s)""",
            (
                self._network,
                f"{task}-{self.mark}",
                self._processor,
                self._queue,
                task,
                key,
                Json({"parameters": parameters}),
            ),
        )
        ((self._generations[task],),) = execute(
            self.uri,
            "INSERT INTO pyfi.task_queue (queue_id, task_key, declared) VALUES (%s, %s, CASE WHEN %s THEN now() END)"
            " RETURNING generation",
            (self._queue, key, declared),
        )
        if declared:
            self._broker.declare(self.task_queue(task))
        return f"{task}-{self.mark}"

    def task_queue(self, task: str) -> TaskQueue:
        """The broker's queue of a task."""
        return TaskQueue(
            "default", self.queue, task_key(REPOSITORY, MODULE, task), self._generations[task], self._max_length
        )


def _run(task: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    if task == "double":
        return args[0] * 2
    if task == "add":
        return sum(args) + sum(kwargs.values())
    raise ValueError(args[0])


class Runner:
    """Takes calls from a task's queue, commits what came of them and replies, as RELIABILITY 1.5 orders.

    With `replies` false every reply is lost, with `values` false they leave out what came; `attempts` is how often a
    failing task is tried before it is dead.
    """

    def __init__(
        self,
        uri: str,
        broker: Broker,
        queue: TaskQueue,
        *,
        replies: bool = True,
        values: bool = True,
        dead: bool = False,
    ) -> None:
        self._connection = psycopg2.connect(uri)
        self._broker, self._queue, self._replies, self._dead = broker, queue, replies, dead
        self._values = values
        self.sizes: list[int] = []
        self.addresses: set[str] = set()
        self._subscription = broker.consume(queue.name, prefetch=16, deliver=self._take)

    def _take(self, delivery: Delivery) -> None:
        message = messages.decode_message(delivery.body)
        self.sizes.append(len(message.calls))
        outcomes = [self._outcome(message, index) for index in range(len(message.calls))]
        with self._connection, self._connection.cursor() as cursor:
            record.insert_outcomes(cursor, outcomes)
            dead = [index for index, each in enumerate(outcomes) if each.status is OutcomeStatus.DEAD]
            record.put_holds(cursor, [self._hold(message, index) for index in dead])
        if self._replies:
            answers = tuple(_answer(outcome) for outcome in outcomes)
            if not self._values:
                answers = tuple(Answer(each.id, each.kind, None, each.error) for each in answers)
            self._broker.reply(message.reply, messages.encode(Reply(1, answers)))
        delivery.ack()

    def _outcome(self, message: Message, index: int) -> NewOutcome:
        call, started = message.calls[index], time.time()
        args, kwargs = values.decode_arguments(call.args)
        value, error, status = None, None, OutcomeStatus.SUCCEEDED
        try:
            value = values.encode(_run(self._queue.key.rpartition("-")[0], args, kwargs))
        except ValueError as raised:
            status = OutcomeStatus.DEAD if self._dead else OutcomeStatus.FAILED
            kind = str(raised) if "." in str(raised) else "ValueError"
            cause = str(raised) if str(raised) in ("timeout", "signal") else "user_error"
            code = "E_REMOTE" if cause == "user_error" else "E_DEAD"
            error = messages.encode(ErrorRecord(kind, str(raised), "Traceback: line 7", code, cause))
        return NewOutcome(
            message.owner, call.id, status, value, error, call.digest, message.socket, call.serial,
            started=started, ended=time.time(),
        )  # fmt: skip

    def _hold(self, message: Message, index: int) -> NewHold:
        call = message.calls[index]
        single = Message(1, message.batch, message.owner, message.socket, 1, (call,), message.reply)
        later = record.with_serial(single, call.serial + 1)
        return NewHold(later, self._queue.exchange, self._queue.key, HoldState.DEAD, used=3)

    def close(self) -> None:
        """Take nothing more."""
        self._subscription.drop()
        self._connection.close()


_KINDS = {
    OutcomeStatus.SUCCEEDED: Kind.VALUE,
    OutcomeStatus.FAILED: Kind.ERROR,
    OutcomeStatus.DEAD: Kind.DEAD,
}


def _answer(outcome: NewOutcome) -> Answer:
    error = messages.decode_error(outcome.error) if outcome.error else None
    return Answer(outcome.id, _KINDS[outcome.status], outcome.value, error)


def settings_with(uri: str, folder: Any, blobs_gib: float | None = None, **client: Any) -> Any:
    """Settings for a client of that database, blobs in `folder`, where they may take so much."""
    from pyfi_hpc.config import Settings
    from pyfi_hpc.config.sections import Client, Database, Paths

    return Settings(
        database=Database(uri=uri),
        client=Client(**client),
        paths=Paths(cache=folder, state=folder, blobs_gib=blobs_gib),
    )


def ids_in(text: str) -> list[str]:
    """The lines of an accepted log."""
    return [str(uuid.UUID(line)) for line in text.splitlines()]


Make = Callable[..., Any]


class World:
    """A hub, a place in the database, and what was opened on them."""

    def __init__(self, uri: str, folder: Path, close: ExitStack, max_length: int | None = None) -> None:
        self.uri, self._folder, self._close, self.hub = uri, folder, close, Hub()
        self.place = Place(uri, self.broker(), max_length)

    def broker(self) -> MemoryBroker:
        """A connection to the hub."""
        broker = MemoryBroker(self.hub)
        self._close.callback(broker.close)
        return broker

    def client(self, make_broker: Any = None, **settings: Any) -> Client:
        """A client of the hub."""
        client = Client(
            settings_with(self.uri, self._folder, **settings),
            make_broker=make_broker or (lambda _: MemoryBroker(self.hub)),
        )
        self._close.callback(client.close)
        return client

    def runner(self, task: str, **how: Any) -> Runner:
        """A runner of the task's queue."""
        runner = Runner(self.uri, self.broker(), self.place.task_queue(task), **how)
        self._close.callback(runner.close)
        return runner


class Unhurried(MemoryBroker):
    """Confirms from a thread of its own, as other brokers do."""

    def publish(self, publication: Publication) -> Confirm:
        confirm, held = Confirm(), super().publish(publication)

        def told() -> None:
            held.result()
            confirm.set_result(None)

        self._calls.put(told)
        return confirm


class Picky(MemoryBroker):
    """Refuses every message for good, and says so at once."""

    def publish(self, publication: Publication) -> Confirm:
        confirm: Confirm = Confirm()
        confirm.set_exception(BadInput.of("E_LIMIT", "message", "too large"))
        return confirm


class Stubborn(MemoryBroker):
    """Gives no confirm until it is let go; then the calls that `refuse` names are refused for good."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self.held: list[tuple[Publication, Confirm]] = []
        self.up = True

    def publish(self, publication: Publication) -> Confirm:
        confirm: Confirm = Confirm()
        self.held.append((publication, confirm))
        return confirm

    def let_go(self, error: PyfiError | None = None, count: int | None = None) -> list[Publication]:
        """Confirm, or refuse, the first `count` (or all) that are held; those it was."""
        gone: list[Publication] = []
        for _ in range(len(self.held) if count is None else count):
            publication, confirm = self.held.pop(0)
            gone.append(publication)
            if not confirm.set_running_or_notify_cancel():
                continue
            if error is not None:
                confirm.set_exception(error)
            else:
                super().publish(publication).result()
                confirm.set_result(None)
        return gone

    def publishing(self) -> bool:
        return self.up
