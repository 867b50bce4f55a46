"""What workers run, looked at from time to time: what takes too long or too much is ended, what was cancelled too."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from pyfi_hpc.agent.hands import Hand, Running, runs
from pyfi_hpc.agent.keeper import LongCall, Program
from pyfi_hpc.agent.lots import Lot, Served
from pyfi_hpc.agent.process import WorkerProcess
from pyfi_hpc.model.status import Cause
from pyfi_hpc.wire.frames import NO_LINK
from pyfi_hpc.wire.messages import ErrorRecord

CANCEL_GRACE_SECONDS = 2.0
#: A call that has run for so long is said to run.
LONG_SECONDS = 1.0


class Watching:
    """The limits of what an agent's workers run. Main thread only."""

    def __init__(
        self,
        hands: Mapping[bytes, Hand],
        lots: Callable[[int], Lot | None],
        served: Callable[[bytes], Served | None],
    ) -> None:
        """`lots` finds a lot by token, `served` a socket by id."""
        self._hands, self._lots, self._served = hands, lots, served
        self._programs: Mapping[bytes, Program] = {}
        #: members that a person cancelled while they ran: (token, index) -> when to lose patience
        self._cancelled: dict[tuple[int, int], float] = {}
        #: the same of calls that came by pipes, by their ids
        self._cancelled_links: dict[bytes, float] = {}

    def follow(self, programs: Mapping[bytes, Program]) -> None:
        """These are the processors' programs from now on."""
        self._programs = programs

    # limits

    def look(self, now: float) -> None:
        """End what overran its time or memory, and workers that never said hello."""
        for hand in list(self._hands.values()):
            process = hand.process
            if process is None:
                continue
            running = self._running(process)
            if process.hello is None and now > hand.deadline:
                process.kill(Cause.ENVIRONMENT)
            elif running is not None:
                limit = self._limit_of(running)
                impatient = self._patience(running, now + 1) < now
                if impatient or (limit is not None and now - running.started > limit):
                    process.kill(Cause.RETURNED if impatient else Cause.TIMEOUT)
            self._watch_memory(hand, process)

    def _limit_of(self, running: Running) -> float | None:
        if running.lot is not None:
            return running.lot.timeout_of(running.index)
        socket = self._served(running.socket)
        return socket.timeout_seconds if socket is not None else None

    def _patience(self, running: Running, otherwise: float) -> float:
        """When a call that was cancelled is ended with its worker."""
        if running.lot is None:
            return self._cancelled_links.get(running.link, otherwise)
        return self._cancelled.get((running.token, running.index), otherwise)

    def _watch_memory(self, hand: Hand, process: WorkerProcess) -> None:
        process.trim_output()
        program = self._programs.get(hand.processor)
        if program is not None and program.mem_mib and process.resident_mib() > program.mem_mib:
            process.kill(Cause.HOST_OOM)

    def _running(self, process: WorkerProcess) -> Running | None:
        token, index, started, link = process.progress.running()
        if index < 0:
            return None
        if link != NO_LINK:
            return Running(None, token, index, link, started, process.progress.socket)
        lot = self._lots(token)
        known = lot is not None and index < len(lot.message.calls)
        return Running(lot, token, index, link, started) if known else None

    # long calls

    def long_calls(self, now: float) -> list[LongCall]:
        """Which call each worker has been running for a while, where that changed since this was last asked."""
        news = []
        for hand in self._hands.values():
            found = self._long_call(hand, now)
            if found != hand.noted:
                hand.noted = found
                news.append(LongCall(hand.row, *(found[0], now - found[1]) if found else (None, None)))
        return news

    def _long_call(self, hand: Hand, now: float) -> tuple[bytes, float] | None:
        if hand.process is None or (running := self._running(hand.process)) is None:
            return None
        return (running.id, running.started) if now - running.started >= LONG_SECONDS else None

    # what is cancelled while it runs

    def interrupt(self, wanted: set[tuple[int, int]]) -> None:
        """Stop these members (token, index) where they run; those that run later are skipped when they come up."""
        patience = time.monotonic() + CANCEL_GRACE_SECONDS
        for hand in self._hands.values():
            if hand.process is None:
                continue
            token, index, _, link = hand.process.progress.running()
            if (token, index) in wanted and link == NO_LINK:
                self._cancelled[token, index] = patience
                hand.process.interrupt()

    def interrupt_links(self, wanted: set[bytes]) -> None:
        """Stop these calls, which came by pipes, where they run; those that run later lose against the cancelling."""
        patience = time.monotonic() + CANCEL_GRACE_SECONDS
        for hand in self._hands.values():
            if hand.process is not None and (link := hand.process.progress.link) in wanted:
                self._cancelled_links[link] = patience
                hand.process.interrupt()

    def ended(self, at: tuple[int, int], error: ErrorRecord | None) -> Cause | None:
        """A member has ended, with this error; the cause where we know better why."""
        return _misled(error, self._cancelled.pop(at, None)) if self._cancelled or error is not None else None

    def link_ended(self, identity: bytes, error: ErrorRecord | None) -> Cause | None:
        """The same of a call that came by a pipe."""
        if self._cancelled_links or error is not None:
            return _misled(error, self._cancelled_links.pop(identity, None))
        return None

    # who runs a call

    def who_runs(self, at: tuple[int, int]) -> list[WorkerProcess]:
        """The worker that runs that member, if any."""
        processes = [hand.process for hand in self._hands.values() if hand.process is not None]
        return [process for process in processes if runs(process, at)]


def _misled(error: ErrorRecord | None, asked: float | None) -> Cause | None:
    """The interrupt was meant for the call before this one: no harm done, it runs again at no cost."""
    return Cause.RETURNED if error is not None and error.code == "E_CANCELLED" and asked is None else None
