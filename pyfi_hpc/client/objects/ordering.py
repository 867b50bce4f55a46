"""Sockets whose calls keep their order: what they ask for (RELIABILITY 1.13)."""

from __future__ import annotations

from pyfi_hpc.client.objects.common import Tools
from pyfi_hpc.db import tables
from pyfi_hpc.errors import BadInput, BrokerUnavailable
from pyfi_hpc.model.names import checked_choice
from pyfi_hpc.model.ordering import Ordering
from pyfi_hpc.model.priority import MOST


def checked(value: str, priorities: int | None) -> tuple[Ordering, int]:
    """The ordering and how many priorities go with it; `priorities` None: as many as may be.

    Raises:
        BadInput: E_CHOICE; E_RANGE, calls that keep their order have no priorities.
    """
    found = Ordering(checked_choice(value, list(Ordering), "ordering"))
    most = 1 if found is Ordering.FIFO else MOST
    wanted = most if priorities is None else priorities
    if not 1 <= wanted <= most:
        what = "calls of a fifo socket have no priorities" if most == 1 else f"priorities is from 1 to {MOST}"
        raise BadInput.of("E_RANGE", "priorities", wanted, what)
    return found, wanted


def check_time_limit(tools: Tools, socket: tables.Socket, processor: tables.Processor) -> None:
    """Raise E_RANGE where a call of a fifo socket might run for so long that the broker takes it back.

    It stays unacked as long as it runs: there are no leases, by which others could overtake it.
    """
    if socket.ordering != Ordering.FIFO:
        return
    if tools.broker is None:
        raise BrokerUnavailable("E_BROKER", "a fifo socket needs to know the broker's time limit for acks")
    timeout = processor.timeout_seconds if socket.timeout_seconds is None else socket.timeout_seconds
    limit = tools.broker.ack_timeout_seconds
    if limit is not None and (timeout is None or timeout >= limit / 2):
        what = f"a fifo socket needs a time limit below {limit / 2:g} s, half of the broker's time limit for acks"
        raise BadInput.of("E_RANGE", "timeout_seconds", timeout, what, cure=f"--timeout {limit / 4:g}s")
