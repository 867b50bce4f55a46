"""Publishes for the agent, and has queues declared again that somebody removed from the broker."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from pyfi_hpc.brokers.base import Broker, Confirm, Publication, TaskQueue
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.logs import logger

log = logger("pyfi.agent")


class Mender:
    """May be called from any thread. The message that found no queue is refused all the same: its sender repeats it."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._lock = threading.Lock()
        self._queues: dict[tuple[str, str], TaskQueue] = {}
        self._declaring: set[TaskQueue] = set()

    def know(self, queues: Iterable[TaskQueue]) -> None:
        """These are the queues that there should be."""
        self._queues = {(queue.exchange, queue.key): queue for queue in queues}

    def publish(self, publication: Publication) -> Confirm:
        """See `Broker.publish`."""
        confirm = self._broker.publish(publication)
        confirm.add_done_callback(lambda done: self._look(publication, done))
        return confirm

    def _look(self, publication: Publication, confirm: Confirm) -> None:
        error = None if confirm.cancelled() else confirm.exception()
        queue = self._queues.get((publication.exchange, publication.key))
        if queue is None or not isinstance(error, PyfiError) or error.code != "E_UNKNOWN_SOCKET":
            return
        with self._lock:
            if queue not in self._declaring:
                self._declaring.add(queue)
                # declaring waits for the broker: not on its own thread
                threading.Thread(target=self._declare, args=[queue], name="pyfi-mend", daemon=True).start()

    def _declare(self, queue: TaskQueue) -> None:
        try:
            self._broker.declare(queue)
            log.warning("a queue was gone from the broker: declared again", queue=queue.name)
        except PyfiError as error:
            log.warning("a queue is gone from the broker and cannot be declared", queue=queue.name, reason=str(error))
        finally:
            with self._lock:
                self._declaring.discard(queue)
