"""Processors: add, change, delete, show, and what they are asked to do."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from pyfi_hpc.client.objects import declaring
from pyfi_hpc.client.objects.common import (
    Record,
    Tools,
    Which,
    check_generation,
    check_range,
    columns,
    event,
    find,
    in_use,
    refuse_taken,
)
from pyfi_hpc.db import tables
from pyfi_hpc.envs import mirror, repository
from pyfi_hpc.envs import tasks as modules
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.names import checked_choice, checked_name, task_key
from pyfi_hpc.model.status import ProcessorStatus, Requested, request

_LIMITS: dict[str, tuple[float, float]] = {
    "cpus": (1, 4096),
    "gpus": (0, 64),
    "workers": (1, 100_000),
    "mem_mib": (1, 1 << 30),
    "timeout_seconds": (0.001, 31_536_000),
    "retries": (0, 1000),
    "retry_delay_seconds": (0, 86_400),
}
_SHAPE = ("host", "workers", "requirements", "cpus", "gpus", "mem_mib", "timeout_seconds", "python", "default_task")


def add(
    tools: Tools,
    *,
    name: str,
    gitrepo: str | None = None,
    module: str | None = None,
    branch: str | None = None,
    commit: str | None = None,
    requested_status: str = "RUNNING",
    retries: int = 2,
    retry_delay_seconds: float = 1.0,
    id: uuid.UUID | None = None,
    **shape: Any,
) -> Record:
    """Add a processor: its repository is judged, its commit pinned and its module's tasks read before it is stored."""
    if not gitrepo:
        raise BadInput("E_MISSING", "a processor needs its git repository", at="gitrepo", cure="-g REPOSITORY")
    if not module:
        raise BadInput("E_MISSING", "a processor needs its module", at="module", cure="-m MODULE")
    checked_name(name)
    checked_choice(requested_status, [word.value for word in Requested], "requested_status")
    _check_shape({**shape, "retries": retries, "retry_delay_seconds": retry_delay_seconds})
    refuse_taken(tools, tables.Processor, name)
    url = repository.check(gitrepo, tools.rules)
    pinned = mirror.pinned(commit) if commit else mirror.resolve(url, branch)
    tasks = tools.mirror.tasks(url, pinned, module)
    if shape.get("default_task"):
        modules.find(tasks, shape["default_task"], module)
    row = tables.Processor(
        network_id=tools.network.id,
        name=name,
        repository=url,
        branch=branch,
        commit=pinned,
        module=module,
        max_attempts=retries + 1,
        retry_delay_seconds=retry_delay_seconds,
        requested_status=Requested(requested_status),
        **{key: value for key, value in shape.items() if value is not None},
    )
    if id is not None:
        row.id = id
    tools.session.add(row)
    event(tools, "processor", row, "added", {"commit": pinned})
    return record(tools, row)


def _check_shape(shape: dict[str, Any]) -> None:
    for key, value in shape.items():
        if key in _LIMITS:
            check_range(key, value, *_LIMITS[key])
        elif key not in _SHAPE:
            raise BadInput.of("E_USAGE", "processor", key, f"a processor has no {key!r}")


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
    retries: int | None = None,
    retry_delay_seconds: float | None = None,
    **shape: Any,
) -> Record:
    """Change a processor; a branch is resolved anew, and workers of the old commit are replaced one after another."""
    row = find(tools, tables.Processor, which)
    check_generation(row, generation)
    _check_shape({**shape, "retries": retries, "retry_delay_seconds": retry_delay_seconds})
    if gitrepo or module or branch or commit:
        _move(tools, row, gitrepo, module, branch, commit)
    if requested_status is not None:
        checked_choice(requested_status, [word.value for word in Requested], "requested_status")
        row.requested_status = request(row.requested_status, Requested(requested_status), row.name)
    if retries is not None:
        row.max_attempts = retries + 1
    if retry_delay_seconds is not None:
        row.retry_delay_seconds = retry_delay_seconds
    for key, value in shape.items():
        if value is not None:
            setattr(row, key, value)
    event(tools, "processor", row, "updated")
    return record(tools, row)


def _move(
    tools: Tools, row: tables.Processor, gitrepo: str | None, module: str | None, branch: str | None, commit: str | None
) -> None:
    """To another repository, module or commit: every socket's task must be there too."""
    url = repository.check(gitrepo, tools.rules) if gitrepo else row.repository
    pinned = mirror.pinned(commit) if commit else mirror.resolve(url, branch or row.branch)
    wanted = module or row.module
    tasks = tools.mirror.tasks(url, pinned, wanted)
    sockets = _sockets(tools, row)
    for socket in sockets:
        found = modules.find(tasks, socket.task, wanted)
        key = task_key(url, wanted, socket.task)
        if key != socket.task_key:
            declaring.unbind(tools, socket)
            socket.task_key = key
            declaring.bind(tools, socket.queue, key)
        socket.source, socket.signature = found.source, signature(found)
    row.repository, row.commit, row.module, row.branch = url, pinned, wanted, branch or row.branch


def signature(task: modules.Task) -> dict[str, Any]:
    """A task's parameters as they are stored with a socket."""
    return {"parameters": [vars(parameter) for parameter in task.parameters], "async": task.is_async, "doc": task.doc}


def _sockets(tools: Tools, row: tables.Processor) -> Sequence[tables.Socket]:
    return tools.session.scalars(sa.select(tables.Socket).where(tables.Socket.processor_id == row.id)).all()


def ask(tools: Tools, which: Which, to: Requested, *, generation: int | None = None) -> Record:
    """Ask a processor to be RUNNING, STOPPED or PAUSED from now on. Raises E_BAD_TRANSITION."""
    row = find(tools, tables.Processor, which)
    check_generation(row, generation)
    row.requested_status = request(row.requested_status, to, row.name)
    event(tools, "processor", row, f"asked to be {to.value}")
    return record(tools, row)


def resume(tools: Tools, which: Which) -> Record:
    """A paused processor goes on. Raises E_BAD_TRANSITION when it is not paused."""
    row = find(tools, tables.Processor, which)
    if row.requested_status is not Requested.PAUSED:
        what = f"processor {row.name!r} is {row.requested_status.value}: only a paused one is resumed"
        raise BadInput.of("E_BAD_TRANSITION", "requested_status", "RUNNING", what, cure=f"pyfi proc start {row.name}")
    return ask(tools, row.id, Requested.RUNNING)


def restart(tools: Tools, which: Which) -> Record:
    """Its workers are replaced one after another, and it is wanted running."""
    row = find(tools, tables.Processor, which)
    row.requested_status = request(row.requested_status, Requested.RUNNING, row.name)
    row.restarts += 1
    event(tools, "processor", row, "restart asked")
    return record(tools, row)


def remove(tools: Tools, which: Which, *, discard: bool = False) -> Record:
    """Stop it for good, once nothing waits for it; its sockets and plugs go, its row is kept for the record."""
    row = find(tools, tables.Processor, which)
    waiting = sum(declaring.queued(tools, socket.queue, socket.task_key) for socket in _sockets(tools, row))
    if waiting and not discard:
        cure = f"let them be worked off, or pyfi proc remove {row.name} --discard"
        raise in_use("processor", row.name, {"queued call": waiting}, cure)
    row.requested_status = request(row.requested_status, Requested.REMOVED, row.name)
    plugs = tools.session.scalars(sa.select(tables.Plug).where(tables.Plug.processor_id == row.id)).all()
    _delete_ends(tools, _sockets(tools, row), plugs)
    event(tools, "processor", row, "asked to be REMOVED", {"discarded": waiting})
    return record(tools, row)


def delete(tools: Tools, which: Which, *, generation: int | None = None, cascade: bool = False) -> None:
    """Delete a processor without sockets and plugs, `cascade`: with them. Its ended workers' rows go too."""
    row = find(tools, tables.Processor, which)
    check_generation(row, generation)
    sockets = _sockets(tools, row)
    plugs = tools.session.scalars(sa.select(tables.Plug).where(tables.Plug.processor_id == row.id)).all()
    queued = sum(declaring.queued(tools, socket.queue, socket.task_key) for socket in sockets)
    live = tools.session.scalar(
        sa.select(sa.func.count()).where(
            tables.Worker.processor_id == row.id, tables.Worker.status.not_in(["EXITED", "LOST"])
        )
    )
    running = live if row.status is not ProcessorStatus.STOPPED else 0
    counts = {"queued call": queued, "running worker": running or 0}
    if not cascade:
        counts |= {"socket": len(sockets), "plug": len(plugs)}
    if any(counts.values()):
        cure = f"pyfi proc stop {row.name}; pyfi delete processor {row.name} --cascade"
        raise in_use("processor", row.name, counts, cure)
    _delete_ends(tools, sockets, plugs)
    tools.session.execute(sa.delete(tables.Worker).where(tables.Worker.processor_id == row.id))
    event(tools, "processor", row, "deleted")
    tools.session.delete(row)


def _delete_ends(tools: Tools, sockets: Sequence[tables.Socket], plugs: Sequence[tables.Plug]) -> None:
    for plug in plugs:
        tools.session.delete(plug)
    tools.session.flush()
    for socket in sockets:
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
