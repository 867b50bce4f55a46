"""What one client has open: database, broker, sender, waiter. Nothing is opened before it is used."""

from __future__ import annotations

import atexit
import os
import queue
import threading
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

from pyfi_hpc.brokers.base import Broker
from pyfi_hpc.brokers.connect import connect
from pyfi_hpc.client import forks, remote, rows
from pyfi_hpc.client.directory import Directory, Way
from pyfi_hpc.client.futures import Future, called
from pyfi_hpc.client.items import items_of
from pyfi_hpc.client.link import Link, closed
from pyfi_hpc.client.logs import warnings_to_stderr
from pyfi_hpc.client.notices import Silence
from pyfi_hpc.client.pacing import Pacer
from pyfi_hpc.client.packing import Packer
from pyfi_hpc.client.sender import Sender
from pyfi_hpc.client.tickets import AcceptedLog
from pyfi_hpc.client.waiter import Waiter
from pyfi_hpc.config import Settings
from pyfi_hpc.db import versions
from pyfi_hpc.db.plain import place
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.logs import logger
from pyfi_hpc.model.priority import Priority
from pyfi_hpc.wire.ids import id_text
from pyfi_hpc.wire.messages import Answer, Kind
from pyfi_hpc.wire.values import Items

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from pyfi_hpc.client.network import Network
    from pyfi_hpc.client.operations import Operations
    from pyfi_hpc.client.storing import Storing

T = TypeVar("T")

log = logger()

#: Names a file: one line for each accepted id, for `pyfi verify --accepted`.
ACCEPTED_LOG = "PYFI_ACCEPTED_LOG"


#: What is opened when it is first used.
_PARTS = ("_link", "_broker", "_owner", "_directory", "_waiter", "_pacer", "_sender", "_engine", "_network",
          "_operations", "_storing")  # fmt: skip


def _warn(line: str) -> None:
    log.warning(line)


class Session:
    """The parts of a client and the ways between them; also what its futures ask (`futures.Home`)."""

    def __init__(
        self,
        settings: Settings,
        database_uri: str | None = None,
        broker_uri: str | None = None,
        make_broker: Callable[[str], Broker] | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        """`make_broker` is given the database's address; by default it connects to the broker of the settings.
        `note` shows a line that a person should read."""
        warnings_to_stderr()
        self.settings = settings
        self.network_name, self._note = settings.agent.network, note or (lambda _: None)
        #: given a line where something is waited for; without a `note`, a warning
        self.tell: Callable[[str], None] = note or _warn
        self._database_uri = database_uri or settings.database.uri
        self._broker_uri = broker_uri or settings.broker.uri or None
        self._make_broker = make_broker or self._connect_broker
        self.lock = threading.RLock()
        self._opening = threading.RLock()
        self._closed = False
        self._callbacks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._callback_thread: threading.Thread | None = None
        #: what a fork brought of it into this process
        self._left: dict[str, Any] = {}
        forks.watch(self)

    def _connect_broker(self, database_uri: str) -> Broker:
        limit = self.settings.broker.ack_timeout_seconds
        return connect(self._broker_uri, database_uri=database_uri, ack_timeout_seconds=limit)

    # what is opened when it is first used: always under `_opening`, so that two threads open one

    @cached_property
    def database_uri(self) -> str:
        """The database's address; in embedded mode its service is started where it does not run."""
        if self._database_uri:
            return self._database_uri
        from pyfi_hpc import local

        return str(local.ensure(self.settings))

    @property
    def link(self) -> Link:
        """The session for what callers ask."""
        return self._opened("_link", lambda: Link(self.database_uri, "client", self._patience, self.tell))

    @property
    def broker(self) -> Broker:
        """The broker; it connects by itself."""
        return self._opened("_broker", lambda: self._make_broker(self.database_uri))

    @property
    def owner(self) -> str:
        """The role that our calls belong to."""
        return self._opened("_owner", lambda: self.link.run(self._arrive))

    def _arrive(self, cursor: Cursor) -> str:
        """What is asked of a database first: is its schema ours, and who are we."""
        cursor.execute("SELECT version_num FROM pyfi.alembic_version")
        versions.check(str(cursor.fetchone()[0]), place(self.database_uri))
        return rows.owner(cursor)

    @property
    def directory(self) -> Directory:
        """Where sockets are."""
        return self._opened(
            "_directory",
            lambda: Directory(self.link, self.network_name, lambda *way: self.network.ensure_declared(*way)),
        )

    @property
    def waiter(self) -> Waiter:
        """Who hears of outcomes."""
        return self._opened("_waiter", self._make_waiter)

    def _make_waiter(self) -> Waiter:
        silence = Silence(place(self.database_uri), self.tell)
        return Waiter(self._own_link("waiter"), self.owner, self.pacer.settled, silence)

    @property
    def pacer(self) -> Pacer:
        """Who learns run times."""
        return self._opened("_pacer", lambda: Pacer(self._own_link("pacer"), self.owner, self.directory.ways))

    @property
    def sender(self) -> Sender:
        """The way out."""
        return self._opened("_sender", self._make_sender)

    @property
    def engine(self) -> Engine:
        """The sessions for operations on objects."""
        from pyfi_hpc.db.engine import connect as engine

        return self._opened("_engine", lambda: engine(self.database_uri, application="pyfi client objects"))

    @property
    def network(self) -> Network:
        """The objects of the network."""
        return self._opened("_network", self._make_network)

    @property
    def operations(self) -> Operations:
        """What is done to invocations."""
        from pyfi_hpc.client.operations import Operations

        return self._opened("_operations", lambda: Operations(self))

    @cached_property
    def packer(self) -> Packer:
        """Arguments to bytes and values back."""
        return Packer(self.settings.blob_dir, self.settings.client.max_value_bytes, self.settings.blob_quota_bytes)

    @property
    def storing(self) -> Storing:
        """Who stores large arguments beside their caller."""
        return self._opened("_storing", self._make_storing)

    def _make_storing(self) -> Storing:
        from pyfi_hpc.client.storing import Storing

        return Storing(self.packer)

    def _opened(self, name: str, make: Callable[[], T]) -> T:
        found: T | None = self.__dict__.get(name)
        if found is not None and not self._closed:
            return found
        with self._opening:
            # looked at in here: what is opened once `close` has begun would stay open
            if (over := self.closed_error()) is not None:
                raise over
            found = self.__dict__.get(name)
            if found is None:
                found = self.__dict__[name] = make()
        return found

    @property
    def _patience(self) -> float:
        return self.settings.client.connect_seconds

    def _own_link(self, name: str) -> Link:
        return Link(self.database_uri, f"client {name}", self._patience)

    @cached_property
    def _accepted_log(self) -> AcceptedLog:
        return AcceptedLog(os.environ.get(ACCEPTED_LOG))

    def accepted(self, futures: list[Future]) -> None:
        """Log these where that was asked for."""
        self._accepted_log.write(futures)

    def _make_sender(self) -> Sender:
        reply = self.broker.reply_address(self.waiter.hear)
        most = self.settings.client.batch_calls
        if self._accepted_log.wanted:
            # a program's last call may be answered before it is confirmed, and it need not close its client
            atexit.register(self._end_of, os.getpid())
        return Sender(self.broker, self.owner, reply, self.directory.mend, self._accepted_log, self.tell, most)

    def _make_network(self) -> Network:
        from pyfi_hpc.client.network import Network
        from pyfi_hpc.envs.mirror import Mirror
        from pyfi_hpc.envs.repository import Allow

        self.owner  # noqa: B018  the database is ours to use
        git = self.settings.git
        rules = Allow(git.allow, git.deny, own_files=self.settings.embedded and not self._database_uri)
        mirror = Mirror(git.mirror or self.settings.cache_dir)
        name, note = self.network_name, self._note
        return Network(self.engine, lambda: self.broker, rules=rules, mirror=mirror, name=name, note=note)

    # the end

    def close(self) -> None:
        """End every thread and session; what is accepted goes on without us."""
        with self._opening:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self._end_of)
        parts = self.__dict__
        for name in ("_storing", "_sender", "_pacer", "_broker"):
            if name in parts:
                parts[name].close()
        if "_waiter" in parts:
            for future in parts["_waiter"].close():
                future.release()
        if "_link" in parts:
            parts["_link"].close()
        if "_engine" in parts:
            parts["_engine"].dispose()
        self._callbacks.put(None)

    def inherit(self) -> None:
        """This process is a fork of the one that opened it: nothing of it may be used here, nor closed, for it is still
        in use there. What was not opened yet may be opened here."""
        self.lock, self._opening = threading.RLock(), threading.RLock()
        # kept, for what is let go may close what it shares with its other self
        self._left |= {name: self.__dict__.pop(name) for name in _PARTS if name in self.__dict__}
        self._closed = self._closed or bool(self._left)
        if (engine := self._left.get("_engine")) is not None:
            engine.dispose(close=False)

    def _end_of(self, process: int) -> None:
        """The program ends; what another process has inherited by a fork is not its own to close."""
        if os.getpid() == process:
            self.close()

    def closed_error(self) -> PyfiError | None:
        """What to raise where no outcome can come any more."""
        if not self._closed:
            return None
        return forks.forked() if self._left else closed()

    # what futures ask

    def value(self, future: Future) -> object:
        """The value, from the reply or from its row."""
        answer = future.answer
        assert isinstance(answer, Answer)
        data = answer.value
        if data is None:
            data = self.waiter.unread.value(self.link, self.owner, future)
        found = self.packer.unpack(data)
        return list(self.items(future, None)) if isinstance(found, Items) else found

    def items(self, future: Future, timeout: float | None) -> Iterator[Any]:
        """See `Future.items`."""
        return items_of(self, future, timeout)

    def error(self, future: Future) -> BaseException:
        """The exception; who made the outcome is told as far as the database answers."""
        answer = future.answer
        if not isinstance(answer, Answer):
            assert answer is not None
            return answer
        record = answer.error
        made_by: remote.Provenance | None = None
        try:
            owner = self.owner
            if record is None:
                found = self.link.run(lambda cursor: rows.final(cursor, owner, [future.identity]))
                record = found[future.identity].answer.error if found else None
            if answer.kind is not Kind.CANCELLED:
                made_by = self.link.run(lambda cursor: rows.provenance(cursor, owner, future.identity), patience=0.0)
        except PyfiError:
            pass  # the error itself matters more than who made it
        return remote.raised(future.identity, answer.kind, record, made_by)

    def later(self, callback: Callable[[Future], object], future: Future) -> None:
        """Have the callback called on the callbacks' own thread."""
        self._callbacks.put(partial(called, callback, future))
        if self._callback_thread is None:
            # not `_opening`: who settles a future must not wait for who opens a connection
            with self.lock:
                if self._callback_thread is None:
                    self._callback_thread = threading.Thread(target=self._call_back, name="pyfi-callbacks", daemon=True)
                    self._callback_thread.start()

    def _call_back(self) -> None:
        while (call := self._callbacks.get()) is not None:
            call()

    def cancel(self, future: Future, running: bool) -> bool:
        """See `Future.cancel`."""
        if future.done():
            return future.cancelled()
        if not self.operations.cancel_one(future.identity, running=running):
            return False
        self.waiter.forget([future])
        future.settle(Answer(future.identity, Kind.CANCELLED))
        return True

    def status(self, future: Future) -> str:
        """As the record tells."""
        return self.operations.status(future.identity)

    def attempts(self, future: Future) -> list[dict[str, Any]]:
        """As the record tells."""
        return self.operations.attempts(id_text(future.identity))

    def worker(self, future: Future) -> dict[str, Any] | None:
        """As the record tells."""
        return self.operations.worker(future.identity)

    def logs(self, future: Future) -> str:
        """As the record tells."""
        return self.operations.logs(id_text(future.identity))

    def retry(self, future: Future) -> Future:
        """Requeue, and wait anew."""
        self.operations.requeue([id_text(future.identity)])
        return self.watched(Future(self, future.identity, future.socket))

    def watched(self, future: Future) -> Future:
        """The future of a call that somebody may have been told of before, to be settled when its outcome comes."""
        self.waiter.watch_late(future)
        return future

    def at_hand(self, socket: str) -> bool:
        """Whether a call of that socket can be sent without waiting for the database, or for room."""
        sender = self.__dict__.get("_sender")
        return sender is not None and sender.roomy and self.directory.fresh(socket)

    def let_go(self, futures: list[Future]) -> None:
        """Nobody waits for these any more."""
        if (waiter := self.__dict__.get("_waiter")) is not None:
            waiter.forget(futures)

    def way(self, socket: str, priority: str = Priority.NORMAL) -> Way:
        """Where the calls of that socket with that priority go."""
        way = self.directory.way(socket)
        return way if priority == Priority.NORMAL else self.directory.level(way, priority)
