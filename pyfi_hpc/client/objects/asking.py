"""What processors are asked to do: start, stop, move, pause, resume, restart, remove."""

from __future__ import annotations

import sqlalchemy as sa

from pyfi_hpc.brokers.base import TaskQueue
from pyfi_hpc.client.objects import declaring, nodes, processors
from pyfi_hpc.client.objects.common import Record, Tools, Which, claim, event, find, in_use
from pyfi_hpc.db import tables
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.status import ProcessorStatus, Requested, request


def ask(tools: Tools, which: Which, to: Requested, generation: int | None = None) -> Record:
    """Ask a processor to be RUNNING, STOPPED or PAUSED from now on. Raises E_BAD_TRANSITION, E_STALE."""
    row = _claimed(tools, which, generation)
    row.requested_status = request(row.requested_status, to, row.name)
    if to is Requested.RUNNING:
        _asked_again(row)
    event(tools, "processor", row, f"asked to be {to.value}")
    return processors.record(tools, row)


def move(tools: Tools, which: Which, node: str, generation: int | None = None) -> Record:
    """Pin a processor to a node that serves: workers start there first, then those elsewhere end.

    Raises:
        BadInput: E_NODE, the node is not known, drains, or has no agent; E_STALE.
    """
    row = _claimed(tools, which, generation)
    row.host = nodes.serving(tools, node).host
    event(tools, "processor", row, f"asked to move to {node}")
    return processors.record(tools, row)


def _asked_again(row: tables.Processor) -> None:
    """A person asks for it anew: what kept its pilots from being sent is over."""
    row.wanted_since = sa.func.now()


def _claimed(tools: Tools, which: Which, generation: int | None = None) -> tables.Processor:
    row = find(tools, tables.Processor, which, removed=True)
    claim(tools, row, generation)
    return row


def resume(tools: Tools, which: Which, generation: int | None = None) -> Record:
    """A paused processor goes on. Raises E_BAD_TRANSITION when it is not paused."""
    row = _claimed(tools, which, generation)
    if row.requested_status is not Requested.PAUSED:
        request(row.requested_status, Requested.RUNNING, row.name)
        what = f"processor {row.name!r} is {row.requested_status.value}: only a paused one is resumed"
        raise BadInput.of("E_BAD_TRANSITION", "requested_status", "RUNNING", what, cure=f"pyfi proc start {row.name}")
    return ask(tools, row.id, Requested.RUNNING)


def restart(tools: Tools, which: Which, generation: int | None = None) -> Record:
    """Its workers are replaced, one first and then the others, and it is wanted running."""
    row = _claimed(tools, which, generation)
    row.requested_status = request(row.requested_status, Requested.RUNNING, row.name)
    row.restarts += 1
    _asked_again(row)
    event(tools, "processor", row, "asked to restart")
    return processors.record(tools, row)


def close(tools: Tools, which: Which) -> list[TaskQueue]:
    """The first half of a removal that discards: it takes no more calls; the queues that are its alone."""
    row = _claimed(tools, which)
    if row.requested_status is not Requested.REMOVED:
        row.requested_status = request(row.requested_status, Requested.REMOVED, row.name)
        event(tools, "processor", row, "asked to be REMOVED, its calls discarded")
    alone = [socket for socket in processors.sockets(tools, row) if not declaring.shared(tools, socket)]
    return [
        declaring.name_of(tools, socket.queue, found)
        for socket in alone
        for found in declaring.rows(tools, socket.queue, socket.task_key)
    ]


def remove(tools: Tools, which: Which, discarded: int = 0) -> Record:
    """Stop it for good, once nothing waits for it; its sockets and plugs go, its row is kept for the record."""
    row = _claimed(tools, which)
    ends = processors.sockets(tools, row)
    waiting = sum(declaring.queued(tools, socket.queue, socket.task_key) for socket in ends)
    if waiting:
        cure = f"let them be worked off, or pyfi proc remove {row.name} --discard"
        raise in_use("processor", row.name, {"queued message": waiting}, cure)
    row.requested_status = request(row.requested_status, Requested.REMOVED, row.name)
    processors.delete_ends(tools, row)
    event(tools, "processor", row, "asked to be REMOVED", {"discarded": discarded})
    if not processors.living(tools, row):
        _end(tools, row)
    return processors.record(tools, row)


def _end(tools: Tools, row: tables.Processor) -> None:
    """Without a worker there is nothing that an agent would have to end first."""
    ways = {ProcessorStatus.FAILED: [ProcessorStatus.STOPPED, ProcessorStatus.REMOVED]}
    ways[ProcessorStatus.STOPPED] = [ProcessorStatus.REMOVED]
    for following in ways.get(row.status, []):
        row.status = following
        tools.session.flush()
