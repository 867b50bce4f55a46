"""Processors: add, change, delete, show."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from pyfi_hpc.client.objects import code, declaring
from pyfi_hpc.client.objects.common import (
    Record,
    Tools,
    Which,
    check_range,
    claim,
    columns,
    event,
    find,
    in_use,
    refuse_taken,
)
from pyfi_hpc.client.objects.ordering import check_time_limit
from pyfi_hpc.db import tables
from pyfi_hpc.envs import requirements
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.names import checked_choice, checked_name, task_key
from pyfi_hpc.model.ordering import Ordering
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.model.status import JobStatus, Requested, WorkerStatus, request

_LIMITS: Mapping[str, tuple[float, float]] = {
    "cpus": (1, 4096),
    "gpus": (0, 64),
    "workers": (1, 100_000),
    "mem_mib": (1, 1 << 30),
    "timeout_seconds": (0.001, 31_536_000),
    "retries": (0, 1000),
    "retry_delay_seconds": (0, 86_400),
}
#: What `add` and `update` may say beside where the code is.
_SHAPE = (*_LIMITS, "host", "requirements", "python", "default_task", "shape")


def add(
    tools: Tools,
    *,
    name: str,
    gitrepo: str | None = None,
    module: str | None = None,
    branch: str | None = None,
    commit: str | None = None,
    requested_status: str = "RUNNING",
    id: uuid.UUID | None = None,
    **shape: Any,
) -> Record:
    """Add a processor: its repository is judged, its commit pinned and its module's tasks read before it is stored."""
    if not gitrepo:
        raise BadInput("E_MISSING", "gitrepo is missing", at="gitrepo", cure="-g REPOSITORY", field="gitrepo")
    if not module:
        raise BadInput("E_MISSING", "module is missing", at="module", cure="-m MODULE", field="module")
    checked_name(name)
    refuse_taken(tools, tables.Processor, name, id)
    values = _checked_shape(shape)
    wanted = _requested(requested_status)
    found = code.read(tools, gitrepo, branch, commit, module)
    if shape.get("default_task"):
        found.task(shape["default_task"])
    row = tables.Processor(network_id=tools.network.id, name=name, requested_status=wanted, **values)
    if id is not None:
        row.id = id
    _take(row, found)
    tools.session.add(row)
    event(tools, "processor", row, "added", {"commit": found.commit})
    return record(tools, row)


def _checked_shape(shape: Mapping[str, Any]) -> Record:
    """The columns that `shape` sets. Raises E_RANGE, E_NAME for the host, E_USAGE for a word nobody knows."""
    given = {key: value for key, value in shape.items() if value is not None}
    for key, value in given.items():
        if key not in _SHAPE:
            raise BadInput.of("E_USAGE", "processor", key, f"a processor has no {key!r}")
        if key in _LIMITS:
            check_range(key, value, *_LIMITS[key])
    if "requirements" in given:
        requirements.checked(given["requirements"])
    if "host" in given:
        checked_name(given["host"], "host")
    if "retries" in given:
        given["max_attempts"] = given.pop("retries") + 1
    if "shape" in given:
        ResourceRequest.from_json(given["shape"])
    return given


def _requested(text: str) -> Requested:
    return Requested(checked_choice(str(text).upper(), list(Requested), "requested_status"))


def _take(row: tables.Processor, found: code.Code) -> None:
    row.repository, row.branch, row.commit, row.module = found.repository, found.branch, found.commit, found.module


def update(
    tools: Tools,
    which: Which,
    *,
    generation: int | None = None,
    gitrepo: str | None = None,
    module: str | None = None,
    branch: str | None = None,
    commit: str | None = None,
    requested_status: str | None = None,
    **shape: Any,
) -> Record:
    """Change a processor; workers of the old code go once one of the new is ready.

    A branch is resolved anew; without one, and without a commit, another module is looked for at the same commit.
    """
    row = find(tools, tables.Processor, which)
    values = _checked_shape(shape)
    found = None
    if gitrepo or module or branch or commit or shape.get("default_task"):
        at = commit or (None if branch or gitrepo else row.commit)
        kept = branch if branch or commit or gitrepo else row.branch
        # fetching takes its time: the row is locked, and seen to be the same, after that
        found = code.read(tools, gitrepo or row.repository, kept, at, module or row.module)
    claim(tools, row, generation)
    if requested_status is not None:
        row.requested_status = request(row.requested_status, _requested(requested_status), row.name)
        if row.requested_status is Requested.RUNNING:
            row.wanted_since = sa.func.now()
    if found is not None:
        _move(tools, row, found, values.get("default_task"))
    if "shape" in values:
        # what is not said of its pilots stays
        values["shape"] = {**(row.shape or {}), **values["shape"]}
    for key, value in values.items():
        setattr(row, key, value)
    for socket in sockets(tools, row) if "timeout_seconds" in values else ():
        check_time_limit(tools, socket, row)
    event(tools, "processor", row, "updated", {"commit": row.commit})
    return record(tools, row)


def _move(tools: Tools, row: tables.Processor, found: code.Code, default_task: str | None) -> None:
    """To another repository, module or commit: every socket's task must be there too."""
    if default_task or row.default_task:
        found.task(default_task or row.default_task or "")
    for socket in sockets(tools, row):
        task = found.task(socket.task)
        socket.source, socket.signature = task.source, code.signature(task)
        key = task_key(found.repository, found.module, socket.task, fifo=socket.ordering == Ordering.FIFO)
        if key != socket.task_key:
            declaring.unbind(tools, socket)
            socket.task_key = key
            declaring.bind(tools, socket.queue, key)
    _take(row, found)


def sockets(tools: Tools, row: tables.Processor) -> Sequence[tables.Socket]:
    """The processor's sockets."""
    return tools.session.scalars(sa.select(tables.Socket).where(tables.Socket.processor_id == row.id)).all()


def delete(tools: Tools, which: Which, *, generation: int | None = None, cascade: bool = False) -> None:
    """Delete a processor without sockets and plugs, `cascade`: with them. Its ended workers' rows go too."""
    row = find(tools, tables.Processor, which)
    claim(tools, row, generation)
    own, out = sockets(tools, row), _plugs(tools, row)
    counts = {
        "queued message": sum(declaring.queued(tools, socket.queue, socket.task_key) for socket in own),
        "running worker": living(tools, row),
        "live job": _live_jobs(tools, row),
    }
    if not cascade:
        counts |= {"socket": len(own), "plug": len(out)}
    if any(counts.values()):
        cure = f"pyfi proc stop {row.name}; pyfi delete processor {row.name} --cascade"
        if counts["queued message"]:
            cure = f"let them be worked off, or pyfi proc remove {row.name} --discard"
        raise in_use("processor", row.name, counts, cure)
    delete_ends(tools, row)
    tools.session.execute(sa.delete(tables.Worker).where(tables.Worker.processor_id == row.id))
    tools.session.execute(sa.update(tables.Job).where(tables.Job.processor_id == row.id).values(processor_id=None))
    event(tools, "processor", row, "deleted")
    tools.session.delete(row)


def living(tools: Tools, row: tables.Processor) -> int:
    """How many workers of it have not ended."""
    ended = [WorkerStatus.EXITED, WorkerStatus.LOST]
    query = sa.select(sa.func.count()).where(tables.Worker.processor_id == row.id, tables.Worker.status.not_in(ended))
    return tools.session.scalar(query) or 0


def _live_jobs(tools: Tools, row: tables.Processor) -> int:
    live = sa.and_(tables.Job.processor_id == row.id, tables.Job.status != JobStatus.ENDED)
    return tools.session.scalar(sa.select(sa.func.count()).where(live)) or 0


def _plugs(tools: Tools, row: tables.Processor) -> Sequence[tables.Plug]:
    return tools.session.scalars(sa.select(tables.Plug).where(tables.Plug.processor_id == row.id)).all()


def delete_ends(tools: Tools, row: tables.Processor) -> None:
    """Its plugs go, its sockets, and the plugs of others that name one of these sockets."""
    for plug in _plugs(tools, row):
        tools.session.delete(plug)
    tools.session.flush()
    for socket in sockets(tools, row):
        tools.session.execute(sa.delete(tables.Plug).where(tables.Plug.target_id == socket.id))
        declaring.unbind(tools, socket)
        tools.session.delete(socket)
        tools.session.flush()


def record(tools: Tools, row: tables.Processor) -> Record:
    """A processor as it is shown."""
    tools.session.flush()
    tools.session.refresh(row)
    shown = columns(row, leave_out=("network_id", "max_attempts"))
    return {**shown, "retries": row.max_attempts - 1}
