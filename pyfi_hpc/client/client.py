"""`Client`: submit calls to sockets, get futures, map over inputs; the one way in for Python and the command line."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from pyfi_hpc.brokers.base import Broker
from pyfi_hpc.client import broadcast, rows, times
from pyfi_hpc.client.broadcast import Broadcast
from pyfi_hpc.client.futures import Future
from pyfi_hpc.client.holding import hold
from pyfi_hpc.client.mapping import Map, Outcomes, check_most
from pyfi_hpc.client.sender import REPEAT
from pyfi_hpc.client.session import Session
from pyfi_hpc.client.stream import Stream
from pyfi_hpc.client.tickets import not_accepted, unsent_after
from pyfi_hpc.client.waiter import conflict
from pyfi_hpc.config import Settings
from pyfi_hpc.db import record
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.errors import BadInput, DatabaseUnavailable, PyfiError
from pyfi_hpc.model.priority import Priority
from pyfi_hpc.wire.ids import ID_BYTES, new_id, parse_id
from pyfi_hpc.wire.messages import Answer

if TYPE_CHECKING:
    from pyfi_hpc.client.network import Network
    from pyfi_hpc.client.operations import Operations

#: A call is named by its future or its id.
Which: TypeAlias = "Future | str | uuid.UUID"


_NONE: Mapping[str, object] = {}


class Client:
    """Calls tasks through durable queues. Making one opens nothing; the first use does. Safe from many threads.

    Without a database in the settings it works with this machine's own service, and starts it where it does not run.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        database_uri: str | None = None,
        broker_uri: str | None = None,
        make_broker: Callable[[str], Broker] | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        """`settings` are read from files and variables where not given; `make_broker` is for other kinds of broker;
        `note` is given what a person should read beside a result, such as what is waited for; without one the latter
        is logged as a warning."""
        self._session = Session(settings or Settings.load(), database_uri, broker_uri, make_broker, note)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End its connections; accepted calls go on, and any client may ask for them by id."""
        self._session.close()

    # calls

    def submit(
        self,
        socket: str,
        *args: object,
        id: str | uuid.UUID | None = None,
        timeout: float | None = None,
        deadline: float | datetime.datetime | None = None,
        delay: float | None = None,
        at: datetime.datetime | None = None,
        priority: str = Priority.NORMAL,
        **kwargs: object,
    ) -> Future:
        """Call the task behind `socket`; returns once the call is accepted.

        `timeout` is the seconds that each attempt may run, `deadline` a time (or UTC seconds since 1970) after which it
        need not start: its outcome is then FAILED with E_TIMEOUT, as soon as a worker would begin it. `delay` seconds
        from now, or `at` a time, it may start; until then the database holds it. `id` is an id of the caller's own:
        repeating a call with it never makes a second outcome, and another call of that id is refused: here where the
        first is decided, held, or waited for by this client, else by its future. `priority` is high, normal or low:
        while all wait, eight high calls and two normal ones run for each low one.

        Where the task has a parameter of one of these names, it is given by its position; by name it would be taken for
        ours, so that is refused.

        Raises:
            BadInput: E_NOT_FOUND; E_TYPE, arguments that cannot be sent, or that the task does not take; E_RANGE, a
                time that cannot be; E_LIMIT; E_ID; E_ID_CONFLICT.
            Unavailable: E_BROKER, E_BROKER_BLOCKED, E_BACKPRESSURE, E_DB_UNAVAILABLE, E_STORAGE_FULL: not accepted, or
                not known to be; may be repeated, with the same id where it says so.
        """
        return self._submit(
            socket, args, kwargs, id=id, timeout=timeout, deadline=deadline, delay=delay, at=at, priority=priority
        )

    def _submit(self, socket: str, args: tuple[object, ...], kwargs: Mapping[str, object], **how: Any) -> Future:
        future, stream = self.begin(socket, args, kwargs, options=how, **how)
        raise_refused(stream)
        return future

    def begin(
        self,
        socket: str,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        *,
        id: str | uuid.UUID | None = None,
        timeout: float | None = None,
        deadline: float | datetime.datetime | None = None,
        delay: float | None = None,
        at: datetime.datetime | None = None,
        priority: str = Priority.NORMAL,
        patience: float | None = None,
        options: Mapping[str, object] = _NONE,
    ) -> tuple[Future, Stream]:
        """Hand one call over, as `submit` does, and do not wait until it is accepted: the stream's ticket tells that,
        within `patience` seconds where they are given. `options` are those that stood beside the task's own keyword
        arguments, so that one may have been meant for the other.

        Where the record has the outcome already, nothing is handed over; nor where it has the id for another call.
        """
        identity = None if id is None else parse_id(id)
        limits = {"timeout": times.timeout_of(timeout), "deadline": (latest := times.deadline_of(deadline))}
        seconds = times.delay_of(delay, at, latest)
        stream = Stream(self._session, socket, priority, patience)
        if options:
            stream.apart(args, options)
        if seconds:
            return self._held(stream, args, kwargs, seconds, id=identity, **limits), stream
        future = stream.made(args, kwargs, id=identity, **limits)
        if identity is None or not self._decided(future):
            stream.flush()
        return future, stream

    def _held(
        self, stream: Stream, args: tuple[object, ...], kwargs: Mapping[str, object], seconds: float, **how: Any
    ) -> Future:
        future, call = stream.call(args, kwargs, **how)
        if how["id"] is None or not self._decided(future):
            hold(self._session, future, call, stream.socket, seconds)
        return future

    def call(self, socket: str, *args: object, timeout: float | None = None, **kwargs: object) -> Any:
        """The value of one call, waited for `timeout` seconds at most. Raises what `submit` and `Future.result` do.

        Where it is not accepted within that time (or a tenth of a second) it is given up, and the error says why. A
        parameter of the task's that is called `timeout` is given by its position.
        """
        left = times.countdown(timeout)
        future, stream = self.begin(socket, args, kwargs, patience=timeout, options={"timeout": timeout})
        try:
            # an outcome proves that the call was accepted: it may come before the broker's own word
            return future.result(left())
        except PyfiError:
            if not isinstance(future.answer, Answer):
                raise_refused(stream)
            if not future.done():
                raise future.late(timeout) from None
            raise

    def submit_many(self, socket: str, inputs: Iterable[object], *, priority: str = Priority.NORMAL) -> list[Future]:
        """One call for each input (a tuple is several arguments); returns once all are accepted.

        Calls are handed over as inputs are read, without waiting for those before them; reading ends with the first
        that is known not to be accepted.

        Raises:
            PyfiError: E_NOT_ACCEPTED; `facts["ids"]` are those not accepted, `facts["futures"]` one for each input that
                was read, in their order: all that are not named are accepted. What is wrong with an input, as `submit`
                says: reading ends with it; `facts["input"]` is its number, from 0, and `facts["futures"]` are those of
                the inputs before it, all of which are accepted.
        """
        stream = Stream(self._session, socket, priority)
        futures: list[Future] = []
        try:
            for given in inputs:
                try:
                    futures.append(stream.send(arguments(given)))
                except PyfiError as error:
                    unsent_after(error, futures)
                    raise
                if stream.ticket.refused:
                    break
        except Exception:
            _all_accepted(stream, futures)
            raise
        _all_accepted(stream, futures)
        return futures

    def publish(
        self,
        queue: str,
        *args: object,
        key: str = "",
        id: str | uuid.UUID | None = None,
        timeout: float | None = None,
        deadline: float | datetime.datetime | None = None,
        priority: str = Priority.NORMAL,
        **kwargs: object,
    ) -> Broadcast:
        """Call every task that is bound to a logical queue; returns once each of these calls is accepted.

        Each distinct task is called once, however many processors have it, under an id derived from `id` (a new one
        where none is given) and the task. A topic queue reaches those whose binding `key` fits. The rest is as in
        `submit`. The broadcast's `result` is the values by their sockets' names.

        Raises:
            BadInput: E_NOT_FOUND; E_UNKNOWN_SOCKET, no task is bound; what `submit` raises, and then nothing is sent.
            PyfiError: E_NOT_ACCEPTED, not accepted everywhere; it may be repeated with `facts["id"]`.
        """
        how: dict[str, Any] = {"key": key, "id": id, "timeout": timeout, "deadline": deadline, "priority": priority}
        return broadcast.accepted(*self.begin_publish(queue, args, kwargs, **how))

    def begin_publish(
        self,
        queue: str,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        *,
        key: str = "",
        id: str | uuid.UUID | None = None,
        timeout: float | None = None,
        deadline: float | datetime.datetime | None = None,
        priority: str = Priority.NORMAL,
    ) -> tuple[Broadcast, list[Stream]]:
        """Hand one message over, as `publish` does, and do not wait until it is accepted: the streams' tickets tell."""
        identity = new_id() if id is None else parse_id(id)
        limits = {"timeout": times.timeout_of(timeout), "deadline": times.deadline_of(deadline)}
        decided = (lambda _: False) if id is None else self._decided
        return broadcast.begin(self._session, queue, key, args, kwargs, identity, priority, decided, **limits)

    def map(
        self,
        socket: str,
        *iterables: Iterable[object],
        max_in_flight: int = 500,
        return_exceptions: bool = False,
        ordered: bool = True,
        timeout: float | None = None,
        priority: str = Priority.NORMAL,
    ) -> Iterator[Any]:
        """Yield the value of each call, in the order of the inputs or, not `ordered`, as they come.

        Inputs are read as there is room for them, `max_in_flight` calls at a time, so they may be without end. What is
        wrong with an input, or became of its call, is raised at its place and ends the map, unless
        `return_exceptions` yields it there. An input that cannot be sent is the last that is read, and is named by its
        number, from 0, in `facts["input"]`; `facts["ids"]` are the calls that go on. Leaving early, by
        `close` or by an error, reads no more; calls that were sent go on, and may be asked for by id.

        Raises:
            PyfiError: E_NOT_ACCEPTED, with exactly the ids that are not accepted.
            WaitTimeout: `timeout` seconds after this call the next value is not there; `facts["ids"]` go on.
        """
        check_most(max_in_flight)
        outcomes = Outcomes(timeout, return_exceptions=return_exceptions)
        stream = Stream(self._session, socket, priority, until=outcomes.until)
        run = Map(stream, zip(*iterables, strict=False), max_in_flight, outcomes)
        return run.in_order() if ordered else run.as_they_come()

    def future(self, id: str | uuid.UUID) -> Future:
        """The future of an invocation that was submitted anywhere, by its id or its last digits.

        An id without a row is queued, or unknown: its future waits.

        Raises:
            BadInput: E_ID, E_NOT_FOUND for digits that nothing on record ends in.
        """
        session, owner, text = self._session, self._session.owner, str(id)
        short = len(text) < 2 * ID_BYTES
        identity = session.link.run(lambda cursor: rows.full_id(cursor, owner, text)) if short else parse_id(id)
        future = Future(session, identity)
        if not self._decided(future):
            session.watched(future)
        return future

    def cancel(self, *ids: Which, tree: bool = False) -> list[dict[str, Any]]:
        """Commit that these (futures or ids) are cancelled, where nothing is decided; running ones are asked to stop.

        With `tree` also what follows from them along plugs, where that has not begun.

        Raises:
            BadInput: E_ID, one is neither; E_NOT_FOUND for digits that nothing on record ends in.
        """
        return self.operations.cancel(list(map(id_of, ids)), tree=tree)

    def forget(self, *ids: Which) -> list[dict[str, Any]]:
        """Clear the values of these (futures or ids) for good; asking for one then raises E_FORGOTTEN. Their ids stay
        used. Raises as `cancel` does."""
        return self.operations.forget(list(map(id_of, ids)))

    # other ways in

    @property
    def network(self) -> Network:
        """The network's objects: add, change, list, delete."""
        return self._session.network

    @property
    def operations(self) -> Operations:
        """Dead invocations, attempts, logs, purging."""
        return self._session.operations

    @property
    def session(self) -> Session:
        """What is open."""
        return self._session

    def _decided(self, future: Future) -> bool:
        """Settle the future where the record has its outcome already.

        Raises:
            BadInput: E_ID_CONFLICT, the outcome, or the call that is held under the id or waited for here, is another.
        """
        session, chosen = self._session, future.digest is not None
        if chosen:
            session.waiter.choose(future)
        try:
            owner = session.owner
            row, held = session.link.run(lambda cursor: _known(cursor, owner, future.identity, chosen), patience=0.0)
        except DatabaseUnavailable:
            # accepting goes on without the database; the record decides later
            return False
        if error := conflict(future, row.digest if row else held):
            raise error
        return row is not None and future.settle(row.answer)

    def __repr__(self) -> str:
        return f"<Client network {self._session.network_name}>"


def _known(cursor: Cursor, owner: str, identity: bytes, chosen: bool) -> tuple[rows.Row | None, bytes | None]:
    """The outcome of an id; where it has none, and a caller has `chosen` it, the digest of the call that is held."""
    row = rows.final(cursor, owner, [identity]).get(identity)
    return row, record.held_digest(cursor, (owner, identity)) if row is None and chosen else None


def raise_refused(stream: Stream) -> None:
    """Wait until the stream's only call is accepted; raise why it is not."""
    for refused, error in stream.refused():
        error.facts["id"] = refused.id
        if error.cure == REPEAT:
            error.cure = f"repeat it with its id, {refused.id}: however often, it has one outcome"
        raise error


def _all_accepted(stream: Stream, futures: list[Future]) -> None:
    """Wait, then return if every call was accepted.

    Raises:
        PyfiError: E_NOT_ACCEPTED.
    """
    stream.flush()
    if refused := stream.refused():
        raise not_accepted(refused, futures)


def id_of(which: Which) -> str:
    """The id of a call that is named by its future or its id.

    Raises:
        BadInput: E_ID, it is neither.
    """
    if isinstance(which, Future):
        return which.id
    if isinstance(which, str | uuid.UUID):
        return str(which)
    cure = "give them one by one: forget(*ids), cancel(*ids)"
    raise BadInput.of("E_ID", "id", which, "a future or an id is wanted", cure=cure)


def arguments(given: object) -> tuple[object, ...]:
    """What one input is to a task: a tuple is several arguments."""
    return given if isinstance(given, tuple) else (given,)
