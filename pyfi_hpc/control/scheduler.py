"""The leader's loop: read what is wanted and what is, ask Slurm once, let `pilots.plan` decide, do what it says.

No transaction lasts while Slurm is asked. Every write begins with the lease, so that of two processes that both think
they lead only one changes anything. The loop may die anywhere: the next pass, of whichever process, begins with what
is on record.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pyfi_hpc.brokers.base import Broker
from pyfi_hpc.control import acting, credentials, losses, pilots
from pyfi_hpc.control.acting import Hands, Prepare
from pyfi_hpc.control.leading import Database, Leader
from pyfi_hpc.control.pilots import Action, Patience, PilotJob, Seen
from pyfi_hpc.control.reconcile import reconcile
from pyfi_hpc.db import jobs as rows
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.errors import PyfiError, Unavailable
from pyfi_hpc.logs import logger
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.model.status import JobStatus
from pyfi_hpc.slurm.launcher import Launcher

T = TypeVar("T")
log = logger("pyfi.scheduler")

#: A leader renews its lease, and one that waits looks at it, at least this often.
TICK_SECONDS = 4.0
#: Hints that come together make one pass.
_GATHER_SECONDS = 0.05
#: Hints that are nothing to a scheduler.
_OTHERS = frozenset({"cancel", "due"})


class Scheduler:
    """One process that leads a scheduler of a network, or waits to."""

    def __init__(
        self,
        database: Database,
        broker: Broker,
        launcher: Launcher,
        prepare: Prepare,
        slots: Callable[[ResourceRequest], int],
        *,
        network: str,
        name: str,
        folder: Path,
        patience: Patience | None = None,
    ) -> None:
        """`slots`: how many workers a pilot brings. `folder` has the jobs' files (`credentials`).

        Raises:
            BadInput: E_NOT_FOUND, no such scheduler.
        """
        self._broker, self._launcher, self._slots = broker, launcher, slots
        self._network, self._folder, self._patience = network, folder, patience or Patience()
        self.leader = Leader(database, network, name)
        self._hands = Hands(self.leader, launcher, prepare)
        self._silence: str | None = None
        self._cluster: str | None = None
        self._troubled, self._wants = False, True
        self._wake, self._over = threading.Event(), threading.Event()

    # the loop

    def run(self) -> None:
        """Serve until stopped: lead when nobody else does."""
        self._broker.on_hint(self._network, self._hear)
        look_at = time.monotonic()
        while not self._over.is_set():
            self._wake.clear()
            look = time.monotonic() >= look_at
            if look:
                look_at = time.monotonic() + self._patience.poll
            if not self._turned(look):
                self._wait(look_at)
        self.leader.step_down()

    def _turned(self, look: bool) -> bool:
        """One pass if we lead, whatever comes of it; whether another is to follow at once."""
        try:
            more = self.leader.lead() and self.turn(look=look)
        except PyfiError as error:
            self._trouble(error)
            return False
        except Exception:
            # a fault of ours must not keep the jobs of everybody waiting: what is on record decides the next pass
            log.exception("a pass failed")
            return False
        self._troubled = False
        return more

    def _trouble(self, error: PyfiError) -> None:
        if not self._troubled:
            log.warning("a pass failed", scheduler=self.leader.name, code=error.code, reason=error.what)
        self._troubled = True

    def _wait(self, look_at: float) -> None:
        seconds = min(TICK_SECONDS, look_at - time.monotonic()) if self.leader.leads else TICK_SECONDS
        if self._wake.wait(max(_GATHER_SECONDS, seconds)):
            self._over.wait(_GATHER_SECONDS)

    def _hear(self, text: str) -> None:
        if text.partition(" ")[0] not in _OTHERS:
            self._wake.set()

    def stop(self) -> None:
        """End after what is being done. From any thread."""
        self._over.set()
        self._wake.set()

    # one pass

    def once(self, *, want: bool = True) -> bool:
        """Lead if nobody does, and make passes until nothing is left to do; False where another process leads.

        Without `want` no pilot is put on record that is not there.
        """
        if not self.leader.lead():
            return False
        self._wants = want
        try:
            look = True
            while self.turn(look=look):
                look = False
        finally:
            self.leader.step_down()
        return True

    def turn(self, *, look: bool) -> bool:
        """One pass of a leader; with `look` Slurm is asked. Whether another one is to follow at once.

        Raises:
            Fault: E_FENCED, another process leads. DatabaseUnavailable.
        """
        known = self.leader.write(self._begin)
        seen, silent = self._ask(known) if look else (None, False)
        actions, jobs = self.leader.write(lambda cursor: self._decide(cursor, seen, silent))
        for action in actions:
            self._hands.act(action, jobs.get(getattr(action, "job", b"")))
        self._count_queries()
        if look:
            credentials.sweep(self._folder, lambda tokens: self.leader.write(lambda cursor: rows.over(cursor, tokens)))
        return self._more(actions)

    def _begin(self, cursor: Cursor) -> list[PilotJob]:
        reconcile(cursor, self._network)
        return rows.jobs(cursor, self.leader.scheduler)

    def _decide(self, cursor: Cursor, seen: Seen | None, silent: bool) -> tuple[list[Action], dict[bytes, PilotJob]]:
        """Plan with the rows as they are now, and write what needs no Slurm, all in one transaction."""
        scheduler = self.leader.scheduler
        now, jobs = rows.clock(cursor), rows.jobs(cursor, scheduler)
        processors = rows.processors(cursor, self._network, scheduler) if self._wants else []
        wanted = [
            replace(processor, slots=self._slots(processor.shape) if processor.shape else 1) for processor in processors
        ]
        actions = pilots.plan(wanted, jobs, seen, now, self._patience, silent=silent)
        by_id = {job.id: job for job in jobs}
        for action in actions:
            acting.note(cursor, scheduler, action, by_id)
        if seen is not None:
            rows.observed(cursor, [job.id for job in jobs if pilots.was_seen(job, seen)])
        losses.judge(cursor, scheduler)
        self._report(cursor, actions, seen)
        return actions, by_id

    def _more(self, actions: Sequence[Action]) -> bool:
        """What was put on record in this pass is acted on in the next, and so is what was left over for its number."""
        starts = sum(isinstance(action, pilots.Submit) for action in actions)
        return starts >= pilots.MAX_STARTS or any(map(_calls_for_more, actions))

    # asking Slurm

    def _ask(self, known: Sequence[PilotJob]) -> tuple[Seen | None, bool]:
        """What Slurm says of all jobs, in one query (two where tokens are looked for); None, True: it says nothing."""
        ids, tokens = pilots.asked(known), pilots.sought(known)
        try:
            if self._cluster is None:
                self._cluster = self._asked(self._launcher.cluster)
            found = self._asked(lambda: self._launcher.find(tokens)) if tokens else {}
            jobs = self._asked(lambda: self._launcher.observe(ids)) if ids else {}
            if self._silence is not None and not ids and not tokens:
                self._asked(self._launcher.cluster)
        except Unavailable as error:
            if self._silence is None:
                log.warning("Slurm does not answer: its jobs are taken to be as they were", reason=error.what)
            self._silence = f"{error.what} ({error.code})"
            return None, True
        if self._silence is not None:
            log.info("Slurm answers again")
            self._silence = None
        return Seen(jobs, tokens, found), False

    def _asked(self, ask: Callable[[], T]) -> T:
        self._hands.queries += 1
        return ask()

    def _report(self, cursor: Cursor, actions: Sequence[Action], seen: Seen | None) -> None:
        """Show with the scheduler how it stands with Slurm."""
        problem = self._silence
        for action in actions:
            if isinstance(action, pilots.Suspect):
                problem = (
                    f"{action.gone} of {action.live} jobs seem to have gone at once:"
                    " nothing is stopped before they were looked for again (E_SUSPECT_OBSERVATION)"
                )
                log.error("too many jobs seem to have gone at once", gone=action.gone, live=action.live)
        scheduler = self.leader.scheduler
        if seen is not None or self._silence is not None:
            rows.note_poll(cursor, scheduler, answered=seen is not None, problem=problem)
        if self._cluster is not None:
            rows.name_cluster(cursor, scheduler, self._cluster)

    def _count_queries(self) -> None:
        queries, self._hands.queries = self._hands.queries, 0
        if queries:
            self.leader.write(lambda cursor: rows.count_queries(cursor, self.leader.scheduler, queries))


def _calls_for_more(action: Action) -> bool:
    match action:
        case pilots.Want() | pilots.Forget() | pilots.End():
            return True
        case pilots.Update(observation=seen):
            return seen.status is JobStatus.ENDED
    return False
