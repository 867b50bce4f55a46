"""Operations on the objects of one network: the one home behind the command line and the Python API.

Each operation is one transaction: all of it, or nothing. Afterwards a hint tells the agents to look.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pyfi_hpc.brokers.base import Broker, TaskQueue
from pyfi_hpc.client.objects import (
    asking,
    declaring,
    discarding,
    ensuring,
    jobs,
    nodes,
    plugs,
    processors,
    queues,
    schedulers,
    sockets,
)
from pyfi_hpc.client.objects.common import KINDS, Record, Tools, Which, find
from pyfi_hpc.db import job_listing, tables
from pyfi_hpc.db.engine import database_errors
from pyfi_hpc.envs.mirror import Mirror
from pyfi_hpc.envs.repository import Allow
from pyfi_hpc.errors import BadInput, BrokerUnavailable
from pyfi_hpc.model.priority import Priority, level_key
from pyfi_hpc.model.status import Requested

_MODULES: dict[str, Any] = {
    "queue": queues,
    "processor": processors,
    "socket": sockets,
    "plug": plugs,
    "node": nodes,
    "scheduler": schedulers,
}
_LISTED: dict[str, Callable[[Tools], list[Record]]] = {
    "agent": nodes.agents,
    "worker": nodes.workers,
    "device": nodes.devices,
    "event": nodes.events,
    "job": jobs.every,
}
#: Kinds whose lists hold less of each object than it shows by itself.
_SEVERAL: dict[str, Callable[[Tools], list[Record]]] = {"node": nodes.several}


class Network:
    """The objects of one network. Names stand for objects of that kind; ids are UUIDs."""

    def __init__(
        self,
        engine: sa.Engine,
        broker: Callable[[], Broker],
        *,
        rules: Allow,
        mirror: Mirror,
        name: str = "default",
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`broker` connects when it is first needed; `note` shows a line that a person should read."""
        self._engine, self._connect, self.name, self._note = engine, broker, name, note
        self._rules, self._mirror = rules, mirror

    @contextmanager
    def _tools(self, *, with_broker: bool) -> Iterator[Tools]:
        broker = self._broker() if with_broker else None
        with database_errors(self._engine), Session(self._engine, expire_on_commit=False) as session, session.begin():
            network = session.scalars(sa.select(tables.Network).where(tables.Network.name == self.name)).one_or_none()
            if network is None:
                raise BadInput.of("E_NOT_FOUND", "network", self.name, f"no network {self.name!r}")
            tools = Tools(session, network, broker, self._rules, self._mirror)
            yield tools
        for line in tools.notes:
            self._note(line)

    def _broker(self) -> Broker | None:
        try:
            return self._connect()
        except BrokerUnavailable as error:
            self._note(f"the broker is away: {error.what}")
            return None

    def _change(self, work: Callable[[Tools], Any], *, with_broker: bool = True) -> Any:
        with self._tools(with_broker=with_broker) as tools:
            result = work(tools)
        broker = tools.broker or self._broker()
        if broker is not None:
            broker.hint(self.name, "topology")
            self._close(broker, tools.gone)
        return result

    def _close(self, broker: Broker, gone: Sequence[TaskQueue]) -> None:
        """The broker's queues go whose rows went; what a client sent there meanwhile is cancelled on record."""
        for queue in gone:
            try:
                discarding.close(self._engine, broker, queue, f"queue {queue.queue} has no such task any more")
            except BrokerUnavailable as error:
                self._note(f"the broker still has the queue {queue.name}: {error.what}")

    # every kind

    def list(self, kind: str) -> list[Record]:
        """Every object of a kind, by name; agents, workers and events newest first, devices by node."""
        with self._tools(with_broker=False) as tools:
            if several := _LISTED.get(kind) or _SEVERAL.get(kind):
                return several(tools)
            table = KINDS[kind]
            rows = tools.session.scalars(
                sa.select(table).where(table.network_id == tools.network.id).order_by(table.name)
            ).all()
            return [_MODULES[kind].record(tools, row) for row in rows if getattr(row, "status", "") != "REMOVED"]

    def show(self, kind: str, which: Which) -> Record:
        """One object. Raises E_NOT_FOUND."""
        if kind == "job":
            return self._job(str(which))
        with self._tools(with_broker=False) as tools:
            if kind in _LISTED:
                return _among(kind, _LISTED[kind](tools), which)
            record: Record = _MODULES[kind].record(tools, find(tools, KINDS[kind], which))
            return record

    def delete(self, kind: str, which: Which, *, generation: int | None = None, cascade: bool = False) -> None:
        """Delete one object. Raises E_NOT_FOUND, E_IN_USE, E_STALE."""
        self._change(lambda tools: _MODULES[kind].delete(tools, which, generation=generation, cascade=cascade))

    def check_delete(self, kind: str, which: Which, *, generation: int | None = None, cascade: bool = False) -> None:
        """Raise what `delete` would raise; nothing is changed."""
        with self._tools(with_broker=True) as tools:
            _MODULES[kind].delete(tools, which, generation=generation, cascade=cascade)
            tools.session.flush()
            tools.session.rollback()

    def add_queue(self, **values: Any) -> Record:
        """`name`, `type`, `max_length`, `id`: see `objects.queues.add`."""
        return self._added(queues.add, values)

    def add_processor(self, **values: Any) -> Record:
        """`name`, `gitrepo`, `module` and its shape: see `objects.processors.add`."""
        return self._added(processors.add, values)

    def add_socket(self, **values: Any) -> Record:
        """`name`, `queue`, `processor`, `task`: see `objects.sockets.add`."""
        return self._added(sockets.add, values)

    def add_plug(self, **values: Any) -> Record:
        """`name`, `queue`, `processor`, `source`, `target`, `key`, `route`: see `objects.plugs.add`."""
        return self._added(plugs.add, values)

    def add_node(self, **values: Any) -> Record:
        """`name`, `host`: see `objects.nodes.add`."""
        return self._added(nodes.add, values)

    def add_scheduler(self, **values: Any) -> Record:
        """`name`: see `objects.schedulers.add`."""
        return self._added(schedulers.add, values)

    def _added(self, add: Callable[..., Record], values: dict[str, Any]) -> Record:
        made: Record = self._change(lambda tools: add(tools, **values))
        return made

    def update_queue(self, which: Which, **values: Any) -> Record:
        """See `objects.queues.update`."""
        return self._updated(queues.update, which, values)

    def update_processor(self, which: Which, **values: Any) -> Record:
        """See `objects.processors.update`."""
        return self._updated(processors.update, which, values)

    def update_socket(self, which: Which, **values: Any) -> Record:
        """See `objects.sockets.update`."""
        return self._updated(sockets.update, which, values)

    def update_plug(self, which: Which, **values: Any) -> Record:
        """See `objects.plugs.update`."""
        return self._updated(plugs.update, which, values)

    def update_node(self, which: Which, **values: Any) -> Record:
        """See `objects.nodes.update`."""
        return self._updated(nodes.update, which, values)

    def _updated(self, update: Callable[..., Record], which: Which, values: dict[str, Any]) -> Record:
        changed: Record = self._change(lambda tools: update(tools, which, **values))
        return changed

    def stop_agent(self, which: Which) -> Record:
        """The node's agent drains and ends. Raises E_NOT_FOUND, E_NODE."""
        row: Record = self._change(lambda tools: nodes.stop_agent(tools, which))
        return row

    def drain_node(self, which: Which) -> Record:
        """Its workers finish what they have and end, and no others start. Raises E_NODE."""
        row: Record = self._change(lambda tools: nodes.drain(tools, which))
        return row

    def resume_node(self, which: Which) -> Record:
        """It takes work again. Raises E_NODE."""
        row: Record = self._change(lambda tools: nodes.resume(tools, which))
        return row

    # schedulers and jobs

    def add_to_scheduler(self, which: Which, node: Which) -> Record:
        """The node is under this scheduler. Raises E_NOT_FOUND, E_IN_USE."""
        row: Record = self._change(lambda tools: schedulers.add_node(tools, which, node))
        return row

    def remove_from_scheduler(self, which: Which, node: Which) -> Record:
        """The node is under no scheduler. Raises E_NOT_FOUND, E_NODE."""
        row: Record = self._change(lambda tools: schedulers.remove_node(tools, which, node))
        return row

    def find_job(self, which: str) -> Record | None:
        """The job that Slurm's id, ours or its token means; None for none."""
        with self._tools(with_broker=False) as tools:
            return jobs.find(tools, which)

    def _job(self, which: str) -> Record:
        found = self.find_job(which)
        if found is None:
            raise job_listing.unknown(which)
        return found

    def job_script(self, which: str) -> str:
        """The job script as Slurm got it. Raises E_NOT_FOUND."""
        with self._tools(with_broker=False) as tools:
            return jobs.script(tools, which)

    def cancel_job(self, which: str) -> Record:
        """The job is to end: its agents drain first. Raises E_NOT_FOUND, E_USAGE."""
        row: Record = self._change(lambda tools: jobs.cancel(tools, which))
        return row

    # processors

    def start(self, which: Which, *, generation: int | None = None) -> Record:
        """It is wanted running. Raises E_BAD_TRANSITION, E_STALE."""
        return self._asked(asking.ask, which, Requested.RUNNING, generation)

    def stop(self, which: Which, *, generation: int | None = None) -> Record:
        """It is wanted stopped: what runs ends first, what waits stays queued."""
        return self._asked(asking.ask, which, Requested.STOPPED, generation)

    def move(self, which: Which, node: str, *, generation: int | None = None) -> Record:
        """It is wanted on that node alone: workers there are ready before those elsewhere end. Raises E_NODE."""
        return self._asked(asking.move, which, node, generation)

    def pause(self, which: Which, *, generation: int | None = None) -> Record:
        """Its workers stay but take nothing more."""
        return self._asked(asking.ask, which, Requested.PAUSED, generation)

    def resume(self, which: Which, *, generation: int | None = None) -> Record:
        """A paused one goes on."""
        return self._asked(asking.resume, which, generation)

    def restart(self, which: Which, *, generation: int | None = None) -> Record:
        """Its workers are replaced."""
        return self._asked(asking.restart, which, generation)

    def remove(self, which: Which, *, discard: bool = False) -> Record:
        """It goes for good, once nothing waits for it; with `discard` what waits is cancelled, each call on record.

        Raises:
            BadInput: E_IN_USE, with how many calls there are.
        """
        return self._asked(asking.remove, which, self._discarded(which) if discard else 0)

    def _discarded(self, which: Which) -> int:
        queues: Sequence[TaskQueue] = self._change(lambda tools: asking.close(tools, which))
        return sum(
            discarding.empty(self._engine, self._connect(), queue, f"processor {which} was removed") for queue in queues
        )

    def _asked(self, ask: Callable[..., Record], which: Which, *rest: Any) -> Record:
        row: Record = self._change(lambda tools: ask(tools, which, *rest))
        return row

    # find or make

    def ensure_queue(self, **values: Any) -> Record:
        """The queue of that name: made as `add_queue` says, or found. Raises E_EXISTS where it differs."""
        return self._ensured("queue", self.add_queue, values)

    def ensure_processor(self, **values: Any) -> Record:
        """The processor of that name: made as `add_processor` says, or found. Raises E_EXISTS where it differs."""
        return self._ensured("processor", self.add_processor, values)

    def ensure_socket(self, **values: Any) -> Record:
        """The socket of that name: made as `add_socket` says, or found. Raises E_EXISTS where it differs."""
        return self._ensured("socket", self.add_socket, values)

    def ensure_plug(self, **values: Any) -> Record:
        """The plug of that name: made as `add_plug` says, or found. Raises E_EXISTS where it differs."""
        return self._ensured("plug", self.add_plug, values)

    def ensure_node(self, **values: Any) -> Record:
        """The node of that name: made as `add_node` says, or found. Raises E_EXISTS where it differs."""
        return self._ensured("node", self.add_node, values)

    def _ensured(self, kind: str, add: Callable[..., Record], values: dict[str, Any]) -> Record:
        found = self._found(kind, values["name"])
        if found is None:
            try:
                return add(**values)
            except BadInput as error:
                # somebody else was faster
                if error.code != "E_EXISTS" or (found := self._found(kind, values["name"])) is None:
                    raise
        ensuring.refuse_other(kind, found, self._named(values), self._rules)
        return found

    def _found(self, kind: str, name: str) -> Record | None:
        try:
            return self.show(kind, name)
        except BadInput as error:
            if error.code != "E_NOT_FOUND" or error.facts.get("field") != kind:
                raise
            return None

    def _named(self, values: dict[str, Any]) -> dict[str, Any]:
        """What is asked for, with the names of objects that were given by their ids."""
        kinds = {"queue": "queue", "processor": "processor", "source": "socket", "target": "socket"}
        ids = {field: value for field, value in values.items() if field in kinds and isinstance(value, uuid.UUID)}
        return values | {field: self.show(kinds[field], value)["name"] for field, value in ids.items()}

    # the broker's queues

    def ensure_declared(self, socket: Which, priority: Priority = Priority.NORMAL) -> None:
        """Have the socket's durable queue for calls of that priority declared now. Raises BrokerUnavailable."""

        def work(tools: Tools) -> None:
            row = find(tools, tables.Socket, socket)
            if not declaring.ensure(tools, row.queue, level_key(row.task_key, priority)):
                raise BrokerUnavailable("E_BROKER", "the queue cannot be declared: the broker is away")

        self._change(work)


def _among(kind: str, records: list[Record], which: Which) -> Record:
    for record in records:
        if str(which) in (record.get("name"), record.get("uuid"), str(record["id"])):
            return record
    raise BadInput.of("E_NOT_FOUND", kind, str(which), f"no {kind} {str(which)!r}", cure=f"pyfi ls {kind}s")
