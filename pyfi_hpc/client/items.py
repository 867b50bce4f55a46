"""The items of a call that yields, one by one, as they come; from any process that knows the id."""

from __future__ import annotations

import concurrent.futures
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pyfi_hpc.client import rows
from pyfi_hpc.client.futures import Future
from pyfi_hpc.errors import BadInput, WaitTimeout
from pyfi_hpc.wire.ids import item_id, short
from pyfi_hpc.wire.messages import Answer, Kind
from pyfi_hpc.wire.values import Items, decode

if TYPE_CHECKING:
    from pyfi_hpc.client.session import Session

#: So many items are waited for at once.
_AHEAD = 64


def items_of(session: Session, call: Future, timeout: float | None = None) -> Iterator[Any]:
    """Yield the items of `call` in their order; each is waited for `timeout` seconds at most.

    Raises:
        WaitTimeout: the work goes on. Exception: what ended the call, after the items that it yielded before.
        BadInput: E_TYPE, its task does not yield.
    """
    ahead: deque[Future] = deque()
    number = 0
    try:
        while (total := _total(call)) is None or number < total:
            while len(ahead) < (_AHEAD if total is None else min(_AHEAD, total - number)):
                ahead.append(Future(session, item_id(call.identity, number + len(ahead)), call.socket))
                session.watched(ahead[-1])
            if call.done() and not ahead[0].done():
                _look(session, ahead)
                if total is None and not ahead[0].done():
                    call.result()
            if not ahead[0].done():
                _wait(call, ahead[0], timeout)
            if ahead[0].done():
                yield ahead.popleft().result()
                number += 1
    finally:
        session.waiter.forget(ahead)


def _total(call: Future) -> int | None:
    """How many items there are; None while that is not known, or where the call has failed."""
    if not isinstance(answer := call.answer, Answer) or answer.kind is not Kind.VALUE:
        return None
    found = decode(answer.value) if answer.value is not None else None
    if not isinstance(found, Items):
        what = f"{short(call.identity)} gave one value: its task does not yield"
        raise BadInput("E_TYPE", what, at=call.socket or None, cure="ask for its result(), without --items")
    return found.total


def _look(session: Session, ahead: deque[Future]) -> None:
    """Settle what is on record: replies are hints, and what has been told before we asked is not told again."""
    owner, ids = session.owner, [future.identity for future in ahead]
    found = session.link.run(lambda cursor: rows.final(cursor, owner, ids))
    for future in ahead:
        if future.identity in found:
            future.settle(found[future.identity].answer)
            session.waiter.forget([future])


def _wait(call: Future, item: Future, timeout: float | None) -> None:
    """Until the item is there, or the call is over before it."""
    waited = [item] if call.done() else [item, call]
    done, _ = concurrent.futures.wait(waited, timeout, concurrent.futures.FIRST_COMPLETED)
    if not done:
        raise late(call, timeout)


def late(call: Future, timeout: float | None) -> WaitTimeout:
    """What is raised where no item came for `timeout` seconds."""
    what = f"no item of {short(call.identity)} came for {timeout or 0.0:g} s; the work goes on"
    return WaitTimeout("E_TIMEOUT", what, cure=f"pyfi wait {call.id}", id=call.id)
