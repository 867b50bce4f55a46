"""Sockets joined by plugs: what goes in at the first and comes out of the last, read from the record."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from types import TracebackType
from typing import Any, Self

import psycopg2

from pyfi_hpc.client.client import Client
from pyfi_hpc.db.record import by_key
from pyfi_hpc.wire import values
from pyfi_hpc.wire.ids import child_id, parse_id
from pyfi_hpc.wire.messages import decode_routes

#: So many rows are asked for at once.
CHUNK = 1000
PATIENCE_SECONDS = 120.0


class Record:
    """The outcomes, read with a session of our own."""

    def __init__(self, uri: str) -> None:
        self._connection = psycopg2.connect(uri)
        self._connection.autocommit = True
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT session_user::text")
            self._owner = str((cursor.fetchone() or ("",))[0])

    def values(self, ids: Sequence[bytes]) -> Iterable[Any]:
        """The value of each, in that order, once they are all there.

        Raises:
            SystemExit: one does not come, or is an error.
        """
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            self.row(chunk[-1], "1")
            found = self._found(chunk)
            yield from (found[identity] for identity in chunk)

    def _found(self, ids: Sequence[bytes]) -> dict[bytes, Any]:
        until = time.monotonic() + PATIENCE_SECONDS
        found: dict[bytes, Any] = {}
        while missing := [identity for identity in ids if identity not in found]:
            found.update({bytes(key): values.decode(bytes(value)) for key, value in self._rows(missing, "value")})
            if len(found) < len(ids):
                if time.monotonic() > until:
                    raise SystemExit(f"{len(ids) - len(found)} of {len(ids)} outcomes of a last stage do not come")
                time.sleep(0.005)
        return found

    def row(self, identity: bytes, columns: str) -> tuple[Any, ...]:
        """Some columns of one outcome, waited for."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not (rows := self._rows([identity], columns)):
            if time.monotonic() > until:
                raise SystemExit("the outcome of a last stage does not come")
            time.sleep(0.001)
        return rows[0][1:]

    def _rows(self, ids: Sequence[bytes], columns: str) -> list[tuple[Any, ...]]:
        """The id and these columns of those that are there."""
        with self._connection.cursor() as cursor:
            cursor.execute(
                f"SELECT uuid_send(o.id), {columns} FROM {by_key('outcome')} AS o WHERE status = 'SUCCEEDED'",
                ([self._owner] * len(ids), [identity.hex() for identity in ids]),
            )
            return list(cursor.fetchall())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.close()


class Line:
    """`socket` and what its results flow through: `stages` processors, each of which doubles."""

    def __init__(self, client: Client, record: Record, socket: str, stages: int) -> None:
        self._client, self._record, self._socket, self.stages = client, record, socket, stages
        self._edges = self._learned()

    def _learned(self) -> list[bytes]:
        """The edges between the stages, by what a first call's outcomes say."""
        edges: list[bytes] = []
        identity = parse_id(self._client.submit(self._socket, 1).id)
        for _ in range(self.stages - 1):
            (routes,) = self._record.row(identity, "routes")
            (route,) = decode_routes(bytes(routes))
            edges.append(route.edge)
            identity = child_id(identity, route.edge)
        self._record.row(identity, "1")
        return edges

    def last(self, identity: bytes) -> bytes:
        """The id of what the last stage makes of that call."""
        for edge in self._edges:
            identity = child_id(identity, edge)
        return identity

    def run(self, count: int) -> Iterable[Any]:
        """The last stage's values for the inputs 0 … count-1."""
        futures = self._client.submit_many(self._socket, range(count))
        return self._record.values([self.last(parse_id(future.id)) for future in futures])

    def milliseconds(self, number: int) -> float:
        """From the submit of one call to the commit of its last outcome, by this machine's one clock."""
        began = time.time()
        identity = self.last(parse_id(self._client.submit(self._socket, number).id))
        value, committed = self._record.row(identity, "value, extract(epoch FROM committed)::float8")
        if values.decode(bytes(value)) != number * 2**self.stages:
            raise SystemExit("a result is wrong")
        return 1000 * (float(committed) - began)

    def seconds_per_item(self, count: int) -> float:
        """In bulk."""
        began = time.perf_counter()
        found = list(self.run(count))
        seconds = time.perf_counter() - began
        if found != [number * 2**self.stages for number in range(count)]:
            raise SystemExit(f"{count} items gave {len(found)} results, not all of them right")
        return seconds / count


def compared(alone: Line, ways: Mapping[str, Line], seconds: float) -> dict[str, float]:
    """What one more hop along each of `ways` costs beyond `alone`; half of the time for single items, half in bulk."""
    lines = {"alone": alone, **ways}
    single = _one_by_one(lines, seconds / 2)
    bulk = _in_bulk(lines, seconds / 2)
    figures = {}
    for name in ways:
        figures[f"{name}_p50_milliseconds"] = single[name] - single["alone"]
        figures[f"{name}_microseconds_per_item"] = 1e6 * (bulk[name] - bulk["alone"])
        figures[f"{name}_items_per_second"] = 1 / bulk[name]
    return figures


def _one_by_one(lines: Mapping[str, Line], seconds: float) -> dict[str, float]:
    took: dict[str, list[float]] = {name: [] for name in lines}
    until = time.monotonic() + seconds
    while time.monotonic() < until or not took["alone"]:
        for name, line in lines.items():
            took[name].append(line.milliseconds(len(took[name])))
    return {name: median(values) for name, values in took.items()}


def _in_bulk(lines: Mapping[str, Line], seconds: float) -> dict[str, float]:
    """Seconds per item: three turns, in each of which every line has as many items as should take its share."""
    turns, pace = 3, {name: line.seconds_per_item(1000) for name, line in lines.items()}
    took: dict[str, list[float]] = {name: [] for name in lines}
    for _ in range(turns):
        for name, line in lines.items():
            count = max(1000, int(seconds / turns / len(lines) / pace[name]))
            took[name].append(line.seconds_per_item(count))
    return {name: median(values) for name, values in took.items()}
