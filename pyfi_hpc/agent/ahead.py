"""What an agent begins before all else: while it waits for answers, the rest of it is loaded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pyfi_hpc.config import Settings

if TYPE_CHECKING:
    from pyfi_hpc.brokers.base import Broker

T = TypeVar("T")


class Ahead(NamedTuple):
    """Each on a thread of its own: the database's address, a psycopg2 session there, and the broker, which is not too
    old; they raise what asking for them raises."""

    uri: Future[str]
    session: Future[Any]
    broker: Future[Broker]


def begin(settings: Settings) -> Ahead:
    """Begin with all of it."""
    uri: Future[str] = Future()

    def session() -> Any:
        _tell(uri, lambda: settings.database.uri or _embedded(settings))
        from pyfi_hpc.db import sessions

        return sessions.opened(uri.result(), "pyfi-agent")

    return Ahead(uri, _begun(session), _begun(lambda: _broker(settings, uri.result())))


def _begun(work: Callable[[], T]) -> Future[T]:
    future: Future[T] = Future()
    threading.Thread(target=_tell, args=(future, work), name="pyfi-ahead", daemon=True).start()
    return future


def _tell(future: Future[T], work: Callable[[], T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)


def _embedded(settings: Settings) -> str:
    from pyfi_hpc.db.embedded import EmbeddedPostgres  # most agents have no need of it

    return EmbeddedPostgres(settings.state_dir).uri()


def _broker(settings: Settings, database_uri: str) -> Broker:
    """The broker, which is not too old; one that does not answer yet is waited for."""
    from pyfi_hpc.brokers.connect import connect
    from pyfi_hpc.errors import PyfiError, Unavailable

    ack_timeout_seconds = settings.broker.ack_timeout_seconds
    broker = connect(settings.broker.uri or None, database_uri=database_uri, ack_timeout_seconds=ack_timeout_seconds)
    try:
        broker.check()
    except Unavailable:
        pass
    except PyfiError:
        broker.close()
        raise
    return broker
