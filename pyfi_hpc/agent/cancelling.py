"""Calls that are cancelled on record: those that wait here are skipped, those that run are stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import partial

from pyfi_hpc.agent.commit.jobs import Job, Within
from pyfi_hpc.agent.dispatch import Dispatcher
from pyfi_hpc.agent.intake import Intake
from pyfi_hpc.agent.lots import Finished
from pyfi_hpc.agent.pipes.piping import Piping
from pyfi_hpc.agent.watching import Watching
from pyfi_hpc.db import record
from pyfi_hpc.db.record import Decided, Key
from pyfi_hpc.model.status import Cause, OutcomeStatus
from pyfi_hpc.wire.frames import Item
from pyfi_hpc.wire.ids import parse_id
from pyfi_hpc.wire.messages import ErrorRecord


class Cancelling:
    """Belongs to the service's thread."""

    def __init__(
        self,
        intake: Intake,
        dispatcher: Dispatcher,
        watching: Watching,
        pipes: Piping,
        put: Callable[[Job], None],
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        """`put` hands a job to the committer; `post`, from any thread, has something done on this one."""
        self._intake, self._dispatcher, self._watching, self._pipes = intake, dispatcher, watching, pipes
        self._put, self._post = put, post

    def hinted(self, ids: Iterable[str]) -> None:
        """These may have been cancelled; the record is asked about those that are here."""
        with contextlib.suppress(Exception):
            wanted = {parse_id(text) for text in ids}
            keys: list[Key] = [
                lot.key(index)
                for lot in self._intake.lots.values()
                for index in {*lot.open, *lot.leased}
                if lot.call(index).id in wanted
            ]
            keys += [(owner, identity) for owner, identity in self._pipes.calls() if identity in wanted]
            if keys:
                work = partial(record.outcomes, keys=keys)
                self._put(Within(work, lambda found: self._post(partial(self._cancelled, found))))

    def _cancelled(self, found: dict[Key, Decided]) -> None:
        gone = {key for key, decided in found.items() if decided.status is OutcomeStatus.CANCELLED}
        running: set[tuple[int, int]] = set()
        for lot in list(self._intake.lots.values()):
            members = [index for index in {*lot.open, *lot.leased} if lot.key(index) in gone]
            waiting = self._dispatcher.withdraw(lot.token, members) if members else []
            for index in waiting + self._intake.skip(lot, members):
                self._put(Finished(lot, index, _skipped(index), None))
            running |= {(lot.token, index) for index in members}
        self._watching.interrupt(running)
        self._watching.interrupt_links({identity for _, identity in gone})


def _skipped(index: int) -> Item:
    error = ErrorRecord("pyfi_hpc.errors.Cancelled", "cancelled before it started", "", "E_CANCELLED", Cause.REFUSED)
    return Item(index, None, error, 0.0, 0.0)
