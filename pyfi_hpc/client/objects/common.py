"""What the operations on every kind of object share."""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pyfi_hpc.brokers.base import Broker, TaskQueue
from pyfi_hpc.db import tables
from pyfi_hpc.envs.mirror import Mirror
from pyfi_hpc.envs.repository import Allow
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.names import nearest
from pyfi_hpc.model.status import ProcessorStatus

#: An object as it is shown: plain values, names in place of references.
Record: TypeAlias = dict[str, Any]
#: A name, or an id.
Which: TypeAlias = str | uuid.UUID
Named = TypeVar("Named", tables.Queue, tables.Processor, tables.Socket, tables.Plug, tables.Node, tables.Scheduler)

KINDS: Mapping[str, type[Any]] = {
    "queue": tables.Queue,
    "processor": tables.Processor,
    "socket": tables.Socket,
    "plug": tables.Plug,
    "node": tables.Node,
    "scheduler": tables.Scheduler,
}


@dataclass(frozen=True)
class Tools:
    """What an operation works with.

    Attributes:
        broker: None where it could not be reached: declarations wait then.
        notes: filled with lines that a person should read.
        gone: filled with the broker's queues that are to go once the transaction is committed.
    """

    session: Session
    network: tables.Network
    broker: Broker | None
    rules: Allow
    mirror: Mirror
    notes: list[str] = dataclasses.field(default_factory=list)
    gone: list[TaskQueue] = dataclasses.field(default_factory=list)


def kind_of(table: type[Any]) -> str:
    """`queue` for the table of queues."""
    return str(table.__tablename__)


def find(tools: Tools, table: type[Named], which: Which, *, removed: bool = False) -> Named:
    """The object of that name or id; a processor that was removed only where `removed` ones are asked for.

    Raises:
        BadInput: E_NOT_FOUND, with the nearest name.
    """
    kind = kind_of(table)
    column = table.id if isinstance(which, uuid.UUID) else table.name
    rows = sa.select(table).where(table.network_id == tools.network.id, column == which)
    found = tools.session.scalars(rows).one_or_none()
    if found is not None and (removed or getattr(found, "status", None) != ProcessorStatus.REMOVED):
        return found
    names = tools.session.scalars(sa.select(table.name).where(table.network_id == tools.network.id)).all()
    near = nearest(str(which), [name for name in names if "~" not in name])
    cure = f"did you mean {near!r}?  pyfi ls {kind}s" if near else f"pyfi ls {kind}s"
    raise BadInput.of("E_NOT_FOUND", kind, str(which), f"no {kind} {str(which)!r}", cure=cure)


def refuse_taken(tools: Tools, table: type[Named], name: str, identity: uuid.UUID | None = None) -> None:
    """Raise E_EXISTS, with its id, when an object of that name is there, or one of that id."""
    if identity is not None and tools.session.get(table, identity) is not None:
        raise BadInput.of("E_EXISTS", "id", str(identity), f"a {kind_of(table)} of that id is there already")
    taken = tools.session.scalars(
        sa.select(table).where(table.network_id == tools.network.id, table.name == name)
    ).one_or_none()
    if taken is not None and getattr(taken, "status", None) == ProcessorStatus.REMOVED:
        # kept for the record, but its name is free again: no name that people type has a tilde
        taken.name = f"{name}~{taken.id.hex[-8:]}"
        tools.session.flush()
    elif taken is not None:
        kind = kind_of(table)
        what = f"a {kind} {name!r} is there already: {taken.id}"
        raise BadInput.of("E_EXISTS", "name", name, what, cure=f"pyfi show {kind} {name}")


def check_range(field: str, value: float | None, low: float, high: float) -> None:
    """Raise E_RANGE unless `value` is None or within."""
    if value is not None and not low <= value <= high:
        raise BadInput.of("E_RANGE", field, value, f"{field} is from {low:.15g} to {high:.15g}")


def claim(tools: Tools, row: Any, generation: int | None = None) -> None:
    """Lock the row, as it is now; raise E_STALE when it was changed since the caller read it."""
    tools.session.refresh(row, with_for_update={"of": type(row)})
    if generation is not None and row.generation != generation:
        what = f"{kind_of(type(row))} {row.name} has generation {row.generation} by now"
        raise BadInput.of("E_STALE", "generation", generation, what, cure=f"pyfi show {kind_of(type(row))} {row.name}")


def event(tools: Tools, kind: str, row: Any, what: str, detail: Record | None = None) -> None:
    """Put a change on record."""
    tools.session.flush()
    tools.session.add(tables.Event(kind=kind, object_id=row.id, name=row.name, what=what, detail=detail))


def in_use(kind: str, name: str, counts: Mapping[str, int], cure: str) -> BadInput:
    """E_IN_USE with what depends on the object."""
    told = ", ".join(f"{count} {what}{'s' if count != 1 else ''}" for what, count in counts.items() if count)
    return BadInput("E_IN_USE", f"{kind} {name} is in use: {told}", at=f"{kind} {name}", cure=cure, **counts)


def plain(value: Any) -> Any:
    """A column's value as JSON has it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value


def columns(row: Any, *, leave_out: Collection[str] = ()) -> Record:
    """Every column of a row, plain."""
    names = (column.key for column in sa.inspect(type(row)).columns)
    return {name: plain(getattr(row, name)) for name in names if name not in leave_out}
