"""The verdict on every dead letter: nothing that was accepted ends without an outcome (RELIABILITY 1.7, 1.10).

what it is                                      what becomes of it
cannot be read, or belongs to somebody else     kept whole in `quarantine`
id used before for another call                 kept in `quarantine`; the first call's outcome stands
already decided                                 nothing is left to do
came back too often, never announced            a hold row each, from which it is published alone
came back too often, announced; unknown socket  outcome DEAD with the reason, payload kept for `pyfi dead`
"""

from __future__ import annotations

import msgspec

from pyfi_hpc.agent.commit import verdicts
from pyfi_hpc.brokers.base import Delivery, Reason
from pyfi_hpc.brokers.letters import DETAIL, EXCHANGE, KEY, REASON
from pyfi_hpc.db import record, topology
from pyfi_hpc.db.record import Cursor, Decided, Held, Key, NewHold, NewOutcome
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.names import is_fifo
from pyfi_hpc.model.status import Cause, HoldState, OutcomeStatus
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.messages import Call, ErrorRecord, Message

#: Reasons under which even a readable message gets no outcome: it would be written into somebody else's record.
_NO_OUTCOME = frozenset({Reason.OWNER, Reason.ID_CONFLICT, Reason.DECODE})
_CODES = {
    Reason.OWNER: "E_OWNER",
    Reason.ID_CONFLICT: "E_ID_CONFLICT",
    Reason.DECODE: "E_DECODE",
    Reason.UNKNOWN_SOCKET: "E_UNKNOWN_SOCKET",
    Reason.DELIVERY_LIMIT: "E_DEAD",
}


def judge(cursor: Cursor, network: str, delivery: Delivery) -> None:
    """Give a dead letter its verdict in this transaction; once that is in, the letter may be acked."""
    reason, told = _reason(delivery), str(delivery.headers.get(DETAIL, ""))
    try:
        message = messages.decode_message(delivery.body, delivery.content_type, delivery.content_encoding)
    except BadInput as error:
        # who set it aside may have known better: a letter has lost its encoding
        _quarantine(cursor, network, delivery, reason, told or f"{error.code}: {error.what}")
        return
    if reason in _NO_OUTCOME:
        _quarantine(cursor, network, delivery, reason, told)
    else:
        _outcomes(cursor, network, delivery, message, reason)


def _reason(delivery: Delivery) -> Reason:
    told = delivery.headers.get(REASON)
    # the broker itself sets aside only what came back too often
    return Reason(told) if isinstance(told, str) and told in set(Reason) else Reason.DELIVERY_LIMIT


def _quarantine(cursor: Cursor, network: str, delivery: Delivery, reason: Reason, detail: str) -> None:
    headers = delivery.headers
    cursor.execute(
        "INSERT INTO pyfi.quarantine (network, reason, detail, exchange, key, body) VALUES (%s, %s, %s, %s, %s, %s)",
        (
            network,
            _CODES[reason],
            _text(detail),
            _text(headers.get(EXCHANGE, "")),
            _text(headers.get(KEY, "")),
            delivery.body,
        ),
    )


def _outcomes(cursor: Cursor, network: str, delivery: Delivery, message: Message, reason: Reason) -> None:
    where = _where(cursor, network, delivery, message)
    keys: dict[Key, Call] = {(message.owner, call.id): call for call in message.calls}
    decided = record.outcomes(cursor, keys)
    held = record.holds(cursor, keys, lock=True)
    keys = {key: _renumbered(call, held.get(key), is_fifo(where[1])) for key, call in keys.items()}
    undecided = {
        key: call
        for key, call in keys.items()
        if not _final(decided.get(key)) and not verdicts.stands_back(held.get(key), call.serial)
    }
    started = record.announced_elsewhere(cursor, {key: call.serial for key, call in undecided.items()}, b"\0" * 16)
    again = [call for key, call in undecided.items() if reason is Reason.DELIVERY_LIMIT and key not in started]
    dead = [call for key, call in undecided.items() if call not in again]
    _kill(cursor, message, dead, reason, where)
    record.park_holds(cursor, [NewHold(_alone(message, call, 1), *where, HoldState.DUE) for call in again])


def _renumbered(call: Call, held: Held | None, ordered: bool) -> Call:
    """The call as the attempt that its letter stands for."""
    return msgspec.structs.replace(call, serial=verdicts.attempt_of(call.serial, held, ordered))


def _where(cursor: Cursor, network: str, delivery: Delivery, message: Message) -> tuple[str, str]:
    """Exchange and key of the message's socket; where it was going, if there is no such socket."""
    for socket in topology.sockets(cursor, network):
        if socket.id == message.socket:
            return socket.exchange, socket.key
    return _text(delivery.headers.get(EXCHANGE, "")), _text(delivery.headers.get(KEY, ""))


def _text(value: object) -> str:
    """Somebody's text as Postgres takes it."""
    return str(value).replace("\0", "\N{REPLACEMENT CHARACTER}")[:1000]


def _final(outcome: Decided | None) -> bool:
    return outcome is not None and outcome.status is not OutcomeStatus.REOPENED


def _kill(cursor: Cursor, message: Message, calls: list[Call], reason: Reason, where: tuple[str, str]) -> None:
    what = "it was set aside: " + ("no such socket" if reason is Reason.UNKNOWN_SOCKET else "it came back too often")
    error = messages.encode(ErrorRecord("pyfi_hpc.errors.Dead", what, "", _CODES[reason], Cause.ENVIRONMENT))
    won = record.insert_outcomes(
        cursor,
        [
            NewOutcome(
                message.owner, call.id, OutcomeStatus.DEAD, None, error, call.digest, message.socket, call.serial
            )
            for call in calls
        ],
    )
    kept = [call for call in calls if (message.owner, call.id) in won]
    record.put_holds(cursor, [NewHold(_alone(message, call, 1), *where, HoldState.DEAD) for call in kept])


def _alone(message: Message, call: Call, more: int) -> Message:
    later = msgspec.structs.replace(call, serial=call.serial + more)
    return msgspec.structs.replace(message, calls=(later,))
