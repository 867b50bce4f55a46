"""Calls of one caller to one socket, gathered into messages while earlier ones are unconfirmed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from pyfi_hpc.client.futures import Future
from pyfi_hpc.client.link import within
from pyfi_hpc.client.newids import NewIds
from pyfi_hpc.client.notices import NEVER
from pyfi_hpc.client.parcels import Item
from pyfi_hpc.client.sender import refuse
from pyfi_hpc.client.session import Session
from pyfi_hpc.client.tickets import Ticket, not_accepted
from pyfi_hpc.db.topology import SocketInfo
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.model.priority import Priority
from pyfi_hpc.wire.blobs import Content
from pyfi_hpc.wire.ids import call_digest
from pyfi_hpc.wire.messages import Call

_NONE: Mapping[str, object] = {}
#: Whoever waits for less gives a call so long to be accepted, as it is where nothing is wrong.
LEAST_SECONDS = 0.1


class Stream:
    """Not for several threads at once. What is gathered goes out by itself when a message is full or none is under
    way; `flush` before waiting for anything."""

    def __init__(
        self,
        session: Session,
        socket: str,
        priority: str = Priority.NORMAL,
        patience: float | None = None,
        until: float = NEVER,
    ) -> None:
        """A call is refused where it is not accepted within `patience` seconds, those of the settings at most; nobody
        waits for room after `until` (on the monotonic clock)."""
        began = time.monotonic()
        self._session, self._name, self._until = session, socket, until
        self._patience = session.settings.client.connect_seconds
        if patience is not None:
            self._patience = min(self._patience, max(patience, LEAST_SECONDS))
        hurried = patience is not None or until != NEVER
        with within(min(self._patience, max(until - began, LEAST_SECONDS))) if hurried else nullcontext():
            self._way, self._sender = session.way(socket, priority), session.sender
        #: what was spent on the way to the first call is not spent again, but for half of it
        self._spent = min(time.monotonic() - began, self._patience / 2)
        self._gathered: list[Item] = []
        self._ids = NewIds()
        self.ticket = Ticket()

    def send(self, args: tuple[object, ...]) -> Future:
        """Have one call sent, soon; raises as `made` does, but for a full disk: a call whose arguments cannot be stored
        is not accepted, as if the broker had refused it."""
        future, store = self.begun(args)
        if store is not None:
            store()
        if self.hungry:
            self.flush()
        return future

    def begun(self, args: tuple[object, ...]) -> tuple[Future, Callable[[], None] | None]:
        """One more call, to be sent by the next `flush`; or by what comes with it, which waits while there is too much
        to be stored already. Raises as `made` does, but for a full disk."""
        item, contents = self._item(args)
        if contents:
            return item.future, partial(self._store, item, contents)
        self._gathered.append(item)
        return item.future, None

    def _store(self, item: Item, contents: Sequence[Content]) -> None:
        """Have it sent once these are stored, whatever others are sent meanwhile; where order is kept, in its turn."""
        if self._way.socket.ordered:
            self._gather(item, contents)
            return
        self.ticket.add(1)
        self._session.waiter.watch([item.future])

        def stored(error: PyfiError | None) -> None:
            if error is None:
                self._sender.put(self._way, [item], known=True, until=self._until)
            else:
                refuse([item], error)

        self._session.storing.put(contents, stored)

    @property
    def hungry(self) -> bool:
        """Whether what has gathered should be handed over now."""
        return self._sender.hungry(self._way, len(self._gathered))

    def made(
        self,
        args: tuple[object, ...],
        kwargs: Mapping[str, object] = _NONE,
        *,
        id: bytes | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> Future:
        """One more call, to be sent by the next `flush`.

        Raises:
            BadInput: E_TYPE, E_RANGE, E_DTYPE, E_LIMIT. Unavailable: E_STORAGE_FULL.
        """
        item, contents = self._item(args, kwargs, id=id, timeout=timeout, deadline=deadline)
        self._gather(item, contents)
        return item.future

    def _gather(self, item: Item, contents: Sequence[Content]) -> None:
        for content in contents:
            self._session.packer.keep(content)
        self._gathered.append(item)

    def _item(
        self, args: tuple[object, ...], kwargs: Mapping[str, object] = _NONE, **limits: Any
    ) -> tuple[Item, Sequence[Content]]:
        future, call, contents = self._called(args, kwargs, **limits)
        until = future.made + self._patience - self._spent
        self._spent = 0.0
        return Item(future, call, self.ticket, until), contents

    def call(
        self,
        args: tuple[object, ...],
        kwargs: Mapping[str, object] = _NONE,
        *,
        id: bytes | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> tuple[Future, Call]:
        """One call that is not to be sent by this stream; raises as `made` does."""
        future, call, contents = self._called(args, kwargs, id=id, timeout=timeout, deadline=deadline)
        for content in contents:
            self._session.packer.keep(content)
        return future, call

    def _called(
        self,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        *,
        id: bytes | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> tuple[Future, Call, Sequence[Content]]:
        """A call, and what is to be stored before it is sent."""
        way = self._way
        way.check(args, kwargs)
        way.check_timeout(timeout)
        data, contents = self._session.packer.packed(args, kwargs)
        call = Call(id or self._ids.next(), data, call_digest(way.socket.id, data), 1, deadline, timeout)
        return Future(self._session, call.id, self._name, call.digest if id else None), call, contents

    def apart(self, args: tuple[object, ...], options: Mapping[str, object]) -> None:
        """See `ArgumentCheck.apart`."""
        self._way.check.apart(len(args), options)

    @property
    def socket(self) -> SocketInfo:
        """Where its calls go."""
        return self._way.socket

    def flush(self) -> None:
        """Hand over what has gathered; waits while there is no room for it."""
        if items := self._gathered:
            self._gathered = []
            # watched first: a reply may be here before the confirm is
            self._session.waiter.watch([item.future for item in items])
            self._sender.put(self._way, items, until=self._until)

    def offer(self) -> None:
        """Hand over what has gathered if it would go at once, alone or with more; else it may as well wait here."""
        if self._gathered and self._sender.eager(self._way):
            self.flush()

    def let_go(self, given: Iterable[Future | Exception]) -> None:
        """Nobody here will ask for the outcomes of these any more; the calls go on."""
        self._session.let_go([each for each in given if isinstance(each, Future) and not each.done()])

    def refused(self) -> list[tuple[Future, PyfiError]]:
        """Wait until each call is accepted or refused; those that were not accepted."""
        self.ticket.wait()
        self._session.waiter.forget(future for future, _ in self.ticket.refused)
        return self.ticket.refused

    def check(self) -> None:
        """Wait, then return if every call was accepted.

        Raises:
            PyfiError: E_NOT_ACCEPTED, with exactly the ids that are not.
        """
        if refused := self.refused():
            raise not_accepted(refused)
