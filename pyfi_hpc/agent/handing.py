"""From the dispatcher's choice to frames on workers' sockets."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pyfi_hpc.agent.commit.jobs import Announce
from pyfi_hpc.agent.crew import Crew
from pyfi_hpc.agent.dispatch import Dispatcher
from pyfi_hpc.agent.lots import Announced, Lot
from pyfi_hpc.agent.process import WorkerProcess
from pyfi_hpc.wire import messages


class Handing:
    """Hands members of lots to workers. Those whose start is to be on record first wait for the committer's word."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        lots: Mapping[int, Lot],
        crew: Crew,
        announce: Callable[[Announce], None],
        write_to: Callable[[WorkerProcess], None],
    ) -> None:
        """`lots` are by their tokens; `announce` has a start put on record, which comes back to `announced`; `write_to`
        is told of a process whose socket did not take all of it."""
        self._dispatcher, self._lots, self._crew = dispatcher, lots, crew
        self._announce, self._write_to = announce, write_to

    def hand_out(self) -> None:
        """Give workers that have room what there is for them."""
        hands = self._dispatcher.hand_out()
        for hand in hands:
            lot = self._lots[hand.token]
            if hand.announce:
                self._announce(Announce(lot, hand.worker, self._crew.row_of(hand.worker), hand.indexes))
            else:
                self._give(lot, hand.worker, hand.task, hand.indexes, passing=hand.passing)
        if hands:
            self._send()

    def announced(self, news: Announced) -> None:
        """Their start is on record: they may begin."""
        self._give(news.lot, news.worker, news.lot.socket.task, news.indexes, passing=False)
        self._send()

    def _give(self, lot: Lot, worker: int, task: str, indexes: tuple[int, ...], *, passing: bool) -> None:
        as_sent = not (lot.delivery.content_encoding or lot.renumbered)
        body = lot.delivery.body if as_sent else messages.encode(lot.message)
        self._crew.run(worker, lot, task, indexes, body, passing=passing)

    def _send(self) -> None:
        for process in self._crew.send():
            self._write_to(process)
