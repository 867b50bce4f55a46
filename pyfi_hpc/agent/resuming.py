"""Back on its way: held calls whose time has come, and values that an earlier incarnation could not commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from pyfi_hpc.agent.commit.jobs import Job, Then, Within
from pyfi_hpc.agent.commit.mending import Mender
from pyfi_hpc.agent.commit.spool import Spool, Spooled
from pyfi_hpc.agent.keeper import View
from pyfi_hpc.agent.lots import Finished, Lot, Undelivered
from pyfi_hpc.brokers.base import Publication
from pyfi_hpc.db import record
from pyfi_hpc.db.record import Due
from pyfi_hpc.failpoints import reach
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.frames import Item
from pyfi_hpc.wire.ids import new_id


class Resuming:
    """Belongs to the service's thread; `put` hands a job to the committer."""

    def __init__(self, mender: Mender, spool: Spool, put: Callable[[Job], None]) -> None:
        self._mender, self._spool, self._put = mender, spool, put

    def publish(self, due: Iterable[Due]) -> None:
        """Publish held messages whose time has come; once confirmed they are the broker's again."""
        for held in due:
            reach("hold_before_publish")
            publication = Publication(held.exchange, held.key, messages.encode(held.message), new_id().hex())
            confirm = self._mender.publish(publication)
            confirm.add_done_callback(partial(self._published, held))

    def _published(self, held: Due, confirm: Any) -> None:
        reach("hold_after_publish")
        # not confirmed: the row is due again in a while
        if not confirm.cancelled() and confirm.exception() is None:
            self._put(Within(lambda cursor: record.mark_out(cursor, [held.message]), lambda _: None))

    def recover(self, view: View) -> None:
        """Commit what an earlier incarnation finished while the database was away."""
        for path, entries in self._spool.left_over():
            for entry in entries:
                self._commit(entry, view)
            # the entries are in the committer's hands; were they lost now, their deliveries would still be unacked
            self._put(Then(partial(path.unlink, missing_ok=True)))

    def _commit(self, entry: Spooled, view: View) -> None:
        served = view.sockets.get(entry.message.socket)
        if served is not None:
            lot = Lot(0, Undelivered(), entry.message, served, served.processor, careful=True)
            item = Item(0, entry.item.value, None, entry.item.started, entry.item.ended)
            self._put(Finished(lot, 0, item, entry.worker))
