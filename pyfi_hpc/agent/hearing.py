"""What the broker tells an agent besides its calls: hints that something changed, and dead letters."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from pyfi_hpc.agent.commit.jobs import DeadLetter
from pyfi_hpc.brokers.base import Broker, Subscription, dead_queue
from pyfi_hpc.logs import logger

log = logger("pyfi.agent")

_PREFETCH = 20


class Hearing:
    """Opened once, when nothing more urgent is to be done; closed when the agent drains."""

    def __init__(
        self,
        broker: Broker,
        network: str,
        post: Callable[[Callable[[], None]], None],
        put: Callable[[DeadLetter], None],
        hinted: Callable[[str], None],
    ) -> None:
        """`post` brings what is to be done to the agent's thread, where all of this lives; `put` has a letter given
        its verdict; `hinted` is told of each hint, and of an empty one for what was missed before the first."""
        self._broker, self._network = broker, network
        self._post, self._put, self._hinted = post, put, hinted
        self._letters: Subscription | None = None
        self._closed = False

    def open(self, elsewhere: Callable[[Callable[[], None]], Future[None]]) -> None:
        """Hear of everything from soon on; `elsewhere` does what has to wait for the broker."""
        declared = elsewhere(self._listen)
        declared.add_done_callback(lambda done: self._post(partial(self._consume, done)))

    def close(self) -> None:
        """Take no more letters."""
        self._closed = True
        if self._letters is not None:
            self._letters.cancel()

    def _listen(self) -> None:
        self._broker.on_hint(self._network, self._hint)
        # what changed until now was told to nobody here
        self._hint("")
        # a new queue takes RabbitMQ two seconds
        self._broker.declare_dead_letters(self._network)

    def _hint(self, text: str) -> None:
        self._post(partial(self._hinted, text))

    def _consume(self, declared: Future[None]) -> None:
        if self._closed:
            return
        if error := declared.exception():
            log.warning("the dead letters' queue cannot be declared: waiting for it", reason=str(error))
        self._letters = self._broker.consume(
            dead_queue(self._network), prefetch=_PREFETCH, deliver=lambda letter: self._put(DeadLetter(letter))
        )
