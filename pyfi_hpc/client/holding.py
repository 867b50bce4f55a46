"""Calls that are to start later: accepted once their hold row is committed, published by whoever comes first then."""

from __future__ import annotations

import msgspec

from pyfi_hpc.client.futures import Future
from pyfi_hpc.client.session import Session
from pyfi_hpc.client.waiter import id_conflict
from pyfi_hpc.db import record
from pyfi_hpc.db.record import Cursor, NewHold
from pyfi_hpc.db.topology import SocketInfo
from pyfi_hpc.model.status import HoldState
from pyfi_hpc.wire.ids import new_id
from pyfi_hpc.wire.messages import WIRE_VERSION, Call, Message

#: Agents look up a call of a serial above 1 before they run it, and remove its hold row after.
_SERIAL = 2


def hold(session: Session, future: Future, call: Call, socket: SocketInfo, seconds: float) -> None:
    """Commit that the call is to be published in so many seconds; nothing happens where it is held already.

    Raises:
        BadInput: E_ID_CONFLICT, another call is held under its id. DatabaseUnavailable: E_DB_UNAVAILABLE.
    """
    session.waiter.watch([future])
    message = Message(
        version=WIRE_VERSION,
        batch=new_id(),
        owner=session.owner,
        socket=socket.id,
        generation=socket.generation,
        calls=(msgspec.structs.replace(call, serial=_SERIAL),),
        reply=session.sender.reply,
    )
    new = NewHold(message, socket.exchange, socket.key, HoldState.DUE, delay_seconds=seconds)
    try:
        session.link.run(lambda cursor: _put(cursor, new))
    except BaseException:
        session.waiter.forget([future])
        raise
    session.accepted([future])
    # an agent looks now when it has to look again
    session.broker.hint(session.network_name, "due")


def _put(cursor: Cursor, new: NewHold) -> None:
    if record.add_hold(cursor, new):
        return
    (call,) = new.message.calls
    # gone meanwhile: it is decided, by that very call or another, and its future will tell
    if record.held_digest(cursor, (new.message.owner, call.id)) not in (None, call.digest):
        raise id_conflict(call.id)
