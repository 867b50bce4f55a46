"""Who kills: at random times, by a seed. What is killed is really killed, and what is a server is started again."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from benchmarks.soak.stage import MORTAL, Stage

#: Kind -> how often, relative to the others.
WEIGHTS = {"worker": 3, "agent": 2, "stalled agent": 1, "broker": 2, "postgres": 2}
#: The longest stall: of half of them an agent's sessions and leases have been given up when it goes on.
STALL_SECONDS = 40.0
#: How long a server may stay away, and how often something else is killed meanwhile.
AWAY_SECONDS, MEANWHILE = 5.0, 0.3


class Harm:
    """A thread that kills until it is stopped; a kill under way is brought to its end first."""

    def __init__(self, stage: Stage, seed: int, every_seconds: float, tell: Callable[[str], None]) -> None:
        self._stage, self._random, self._every, self._tell = stage, random.Random(seed), every_seconds, tell
        self._weights = {kind: weight for kind, weight in WEIGHTS.items() if kind != "broker" or stage.rabbitmq}
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name="harm")
        self.done: Counter[str] = Counter()
        #: what went wrong here: a server that does not start again, say
        self.failed: BaseException | None = None

    def start(self) -> None:
        """Kill from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Kill no more; every server runs."""
        self._enough.set()
        self._thread.join()
        self._stage.mend()

    def _run(self) -> None:
        try:
            while not self._enough.wait(min(self._random.expovariate(1 / self._every), 4 * self._every)):
                self.one(self._random.choices(list(self._weights), list(self._weights.values()))[0])
        except BaseException as error:
            self.failed = error

    def one(self, kind: str) -> None:
        """One kill."""
        # every choice is made before anything depends on how the processes do
        away, meanwhile = self._random.uniform(0, AWAY_SECONDS), self._random.random() < MEANWHILE
        other = self._random.choice(("worker", "agent"))
        getattr(self, f"_{kind.replace(' ', '_')}")(lambda: self._away(away, other if meanwhile else ""))

    def _away(self, seconds: float, other: str) -> None:
        time.sleep(seconds / 2)
        if other:
            getattr(self, f"_{other}")(lambda: None)
        time.sleep(seconds / 2)

    def _worker(self, then: Callable[[], None]) -> None:
        workers = list(self._stage.workers())
        if workers:
            self._kill("worker", self._random.choice(workers))

    def _agent(self, then: Callable[[], None]) -> None:
        if (pid := self._stage.agent(MORTAL)) is not None:
            self._kill("agent", pid)

    def _stalled_agent(self, then: Callable[[], None]) -> None:
        if (pid := self._stage.agent(MORTAL)) is None:
            return
        seconds = self._random.uniform(0, STALL_SECONDS)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._said("stalled agent", f"agent {pid} for {seconds:.0f} s, without ending it")
            self._enough.wait(seconds)
            os.kill(pid, signal.SIGCONT)

    def _kill(self, kind: str, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self._said(kind, f"{kind} {pid}")

    def _broker(self, then: Callable[[], None]) -> None:
        assert self._stage.rabbitmq is not None
        self._stage.rabbitmq.kill()
        self._said("broker", "RabbitMQ")
        then()
        self._stage.rabbitmq.start()

    def _postgres(self, then: Callable[[], None]) -> None:
        self._stage.postgres.stop("immediate")
        self._said("postgres", "Postgres")
        then()
        self._stage.postgres.start()

    def _said(self, kind: str, what: str) -> None:
        self.done[kind] += 1
        self._tell(f"killed {what}")
