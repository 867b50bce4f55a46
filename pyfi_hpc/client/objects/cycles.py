"""Loops among sockets: results that would come back to where they started."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from pyfi_hpc.client.objects.common import Tools
from pyfi_hpc.db import tables
from pyfi_hpc.db.topology import matches
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.status import QueueType


def refuse(tools: Tools, kind: str, name: str) -> None:
    """Raise E_CYCLE, with the way, when the object that was just written closes a loop."""
    tools.session.flush()
    edges: dict[str, set[str]] = {}
    for start, end in _edges(tools):
        edges.setdefault(start, set()).add(end)
    way = find(edges)
    if way:
        what = f"{kind} {name} closes a loop: {' → '.join(way)}"
        raise BadInput("E_CYCLE", what, at=f"{kind} {name}", cure="send the results to another queue", path=way)


def _edges(tools: Tools) -> Iterator[tuple[str, str]]:
    """(socket, socket that its results go to), by name."""
    plug, source, target = tables.Plug, aliased(tables.Socket), aliased(tables.Socket)
    leaves = sa.and_(
        source.processor_id == plug.processor_id, sa.or_(plug.source_id.is_(None), plug.source_id == source.id)
    )
    reaches = sa.or_(plug.target_id == target.id, sa.and_(plug.target_id.is_(None), plug.queue_id == target.queue_id))
    query = (
        sa.select(source.name, target.name, plug.target_id, tables.Queue.type, target.binding, plug.key)
        .select_from(plug)
        .join(source, leaves)
        .join(target, reaches)
        .join(tables.Queue, tables.Queue.id == plug.queue_id)
        .where(plug.network_id == tools.network.id)
    )
    for start, end, chosen, type_, binding, key in tools.session.execute(query):
        if chosen is not None or type_ is not QueueType.TOPIC or matches(binding, key):
            yield start, end


def find(edges: Mapping[str, Collection[str]]) -> list[str]:
    """A way along `edges` that ends where it starts; empty when there is none."""
    done: set[str] = set()
    for start in sorted(edges):
        if start not in done:
            way = _from(edges, start, done)
            if way:
                return way
    return []


def _from(edges: Mapping[str, Collection[str]], start: str, done: set[str]) -> list[str]:
    """A loop among what can be reached from `start`; what leads to none is noted in `done`."""
    path, open_ = [start], [iter(sorted(edges.get(start, ())))]
    while path:
        following = next(open_[-1], None)
        if following is None:
            done.add(path.pop())
            open_.pop()
        elif following in path:
            return [*path[path.index(following) :], following]
        elif following not in done:
            path.append(following)
            open_.append(iter(sorted(edges.get(following, ()))))
    return []
