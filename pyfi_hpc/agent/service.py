"""The agent's main thread: one loop over workers' sockets and what other threads post."""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyfi_hpc.agent import ending, keeper
from pyfi_hpc.agent.builder import Builder, Built
from pyfi_hpc.agent.cancelling import Cancelling
from pyfi_hpc.agent.commit.committer import Committer
from pyfi_hpc.agent.commit.jobs import Announce, DeadLetter, Within
from pyfi_hpc.agent.commit.mending import Mender
from pyfi_hpc.agent.commit.spool import Spool
from pyfi_hpc.agent.crew import Crew
from pyfi_hpc.agent.devices import Sampler
from pyfi_hpc.agent.dispatch import Dispatcher
from pyfi_hpc.agent.ending import Ending
from pyfi_hpc.agent.housekeeping import Housekeeping
from pyfi_hpc.agent.intake import Intake
from pyfi_hpc.agent.keeper import View
from pyfi_hpc.agent.lots import Announced, Looked, Lot
from pyfi_hpc.agent.pilot import superseded
from pyfi_hpc.agent.pipes.piping import Piping
from pyfi_hpc.agent.process import WorkerProcess
from pyfi_hpc.agent.registering import Application, Identity
from pyfi_hpc.agent.resuming import Resuming
from pyfi_hpc.agent.streams import Streams
from pyfi_hpc.baton import Baton
from pyfi_hpc.brokers.base import Broker, Delivery, dead_queue
from pyfi_hpc.control import reconcile
from pyfi_hpc.control.retention import Keep
from pyfi_hpc.db import sessions
from pyfi_hpc.envs.build import EnvironmentCache
from pyfi_hpc.envs.repository import Allow
from pyfi_hpc.gpu.sampling import Sample
from pyfi_hpc.logs import logger
from pyfi_hpc.model.status import Cause
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.frames import first_token

if TYPE_CHECKING:
    from pyfi_hpc.agent.pipes.siblings import Siblings

log = logger("pyfi.agent")

TICK_SECONDS = 0.05
SWEEP_SECONDS = 1.0
NOTE_SECONDS = 0.5
#: An agent that nobody here knows may be on record by now: how often that is looked up for it.
STRANGER_SECONDS = 0.5
#: What a descriptor of theirs is registered with.
SIBLINGS = "siblings"
_DEAD_PREFETCH = 20
#: What no call waits for begins so long after the first workers were started: it would hold these up.
_LATER_SECONDS = 0.25


class Service:
    """One agent, from start to stop."""

    def __init__(
        self,
        *,
        database_uri: str,
        session: Any,
        broker: Broker,
        application: Application,
        state: Path,
        cache: Path,
        blobs: Path,
        rules: Allow,
        poll_seconds: float = 2.0,
        kill_wait_seconds: float = 30.0,
        max_value_bytes: int = 2**30,
        blob_quota_bytes: int = 0,
        keep: Keep | None = None,
        pipes_address: str | None = None,
    ) -> None:
        """`session` is the first of those that the database sees of this agent; `pipes_address`: the node's own, where
        its pipes may lead to other nodes of the job."""
        self._network = application.post.network
        self._broker, self._poll_seconds, self._kill_wait_seconds = broker, poll_seconds, kill_wait_seconds
        self.id = application.agent
        self._posted: deque[Callable[[], None]] = deque()
        #: deliveries on their way in, by their processors
        self._arrived: deque[tuple[bytes, Delivery]] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._rung, self._baton = False, Baton()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._bell, selectors.EVENT_READ, None)
        self._siblings = self._open_to(pipes_address) if pipes_address else None
        if self._siblings is not None:
            endpoint, key = self._siblings.endpoint, self._siblings.keys.public.decode()
            application = replace(application, pipe_address=endpoint, pipe_key=key)
        self._application = application
        spool = Spool(state / "spool", self.id)
        connect = partial(sessions.opened, database_uri, "pyfi-agent")
        self._mender = Mender(broker)
        self._committer = Committer(
            _first(session, connect), broker, self._mender, self._network, self.id, spool,
            self._from_committer, self._due_in,
        )  # fmt: skip
        self._dispatcher = Dispatcher()
        self._intake = Intake(
            broker, self._dispatcher, self._committer.put, self._delivered, self.post,
            lambda token: self._pipes.hurry(token), self._all_here,
            first_token(self._siblings.number if self._siblings else 0),
        )  # fmt: skip
        builder = Builder(EnvironmentCache(cache), rules, lambda built: self.post(partial(self._built, built)))
        self._builder = builder
        scratch = state / "scratch"
        scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        blobs.mkdir(parents=True, exist_ok=True)
        self._pipes = Piping(self._dispatcher, self._committer.put, self._write_to, state, self._siblings)
        self._crew = Crew(
            self._dispatcher, builder, self._committer.put, Streams(self._committer.put, self.post),
            self._intake.lots.get, self._watch, self._forget, self._subscribe, self.look_soon, scratch, blobs,
            max_value_bytes, self._pipes, blob_quota_bytes,
        )  # fmt: skip
        self._cancelling = Cancelling(
            self._intake, self._dispatcher, self._crew.watching, self._pipes, self._committer.put, self.post
        )
        self._resuming = Resuming(self._mender, spool, self._committer.put)
        # it holds a lock while it walks through a folder
        patient = partial(connect, patient=True)
        self._housekeeping = Housekeeping(keep or Keep(), blobs, patient, self._committer.put, self.post, builder.spare)
        self._sampler = Sampler([each.uuid for each in application.devices], self._sampled)
        #: newest samples of the GPUs, written with the next look
        self._samples: tuple[Sample, ...] = ()
        self._view: View | None = None
        self._looking = False
        self._look_at = self._looked = 0.0
        #: when something last changed that asks for a reconcile pass, and when a processor may start again
        self._wished: float | None = None
        self._start_at = math.inf
        self._note_at = 0.0
        #: why and until when it drains
        self._ending: Ending | None = None
        self._drained_by = math.inf
        #: when Slurm ends the job, on the monotonic clock
        self._job_ends: float | None = None
        self._superseded = False
        self._opened = False
        #: when, and what
        self._later: tuple[float, Callable[[], None]] = (math.inf, lambda: None)
        #: the subscription to the dead letters
        self._letters: Any = None
        self._failed: BaseException | None = None
        self._healthy = True

    def _open_to(self, address: str) -> Siblings | None:
        """Listen to other agents of the job; where that cannot be, pipes stay on the node."""
        from pyfi_hpc.agent.pipes.siblings import Siblings, Unreachable

        def watch(descriptor: int) -> None:
            self._selector.register(descriptor, selectors.EVENT_READ, SIBLINGS)

        def forget(descriptor: int) -> None:
            self._selector.unregister(descriptor)

        try:
            return Siblings(self.id, address, watch, forget)
        except Unreachable as error:
            log.warning("pipes lead to no other node", address=address, reason=str(error))
            return None

    # from any thread

    def post(self, do: Callable[[], None]) -> None:
        """Have `do` run on the main thread."""
        self._posted.append(do)
        # one ring for all that is posted before it is heard
        if not self._rung:
            self._rung = True
            os.eventfd_write(self._bell, 1)

    def stop(self) -> None:
        """Drain and end, as a person asked."""
        self.post(partial(self._stop, ending.ASKED))

    def _sampled(self, samples: tuple[Sample, ...]) -> None:
        self._samples = samples

    def _delivered(self, processor: bytes, delivery: Delivery) -> None:
        self._arrived.append((processor, delivery))

    def _all_here(self) -> None:
        """Deliveries that came together have arrived."""
        # workers are fed from here where the main thread only waits: it would have to wake up for it
        if self._posted or not self._baton.borrow(self._feed):
            self.post(self._take_in)

    def _feed(self) -> None:
        try:
            self._take_in()
            self._hand_out()
        except Exception as error:
            # a fault of ours must end the agent, as it does on its own thread
            self.post(partial(_raise, error))

    def _take_in(self) -> None:
        while self._arrived:
            self._intake.take(*self._arrived.popleft())

    def _from_committer(self, news: Looked | Announced) -> None:
        if isinstance(news, Looked):
            self.post(partial(self._intake.looked, news))
        else:
            self.post(partial(self._announced, news))

    # the main thread

    def run(self) -> int:
        """Serve until stopped; returns the exit status: 0 stopped, 1 the lease is lost.

        Raises:
            BadInput: E_SUPERSEDED, the job was started again and this was its earlier incarnation.
        """
        signal.signal(signal.SIGTERM, lambda *_: self.post(self._told_to_end))
        signal.signal(signal.SIGINT, lambda *_: self.post(self._told_to_end))
        signal.signal(signal.SIGUSR2, lambda *_: self.post(self._warned))
        self._committer.start()
        with self._baton:
            return self._serve()

    def _serve(self) -> int:
        self._register()
        tick = sweep = 0.0
        while not self._finished():
            for key, mask in self._baton.laid_down(self._selector.select, TICK_SECONDS):
                self._event(key, mask)
            self._drain_posts()
            self._hand_out()
            now = time.monotonic()
            if now - tick >= TICK_SECONDS:
                tick = now
                self._pipes.turn(now)
                self._crew.put_on_record()
                if self._pipes.unknown and now - self._looked > STRANGER_SECONDS:
                    self._look_at = 0.0
                self._crew.watching.look(now, self._timeout_of)
                self._crew.stop_drained()
                self._look_if_due(now)
                self._do_later(now)
                self._note_long_calls(now)
                self._watch_time_limit(now)
                self._follow_health()
                self._intake.step()
                self._housekeeping.turn(now)
            if now - sweep >= SWEEP_SECONDS:
                sweep = now
                self._intake.sweep(now)
        return self._end()

    def _event(self, key: selectors.SelectorKey, mask: int) -> None:
        process = key.data
        if process is SIBLINGS:
            self._pipes.hear()
            return
        if process is None:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._bell)
            # before what was posted is looked at: what comes after rings again
            self._rung = False
            return
        if mask & selectors.EVENT_WRITE:
            process.flush()
            self._selector.modify(process.socket, _interest(process), process)
        if mask & selectors.EVENT_READ:
            self._crew.hear(process)

    def _drain_posts(self) -> None:
        while self._posted:
            self._posted.popleft()()

    def _watch(self, process: WorkerProcess) -> None:
        self._selector.register(process.socket, selectors.EVENT_READ, process)

    def _write_to(self, process: WorkerProcess) -> None:
        """Frames may wait for this process: write them when its socket takes them."""
        if process.wants_to_write:
            with contextlib.suppress(KeyError):
                self._selector.modify(process.socket, _interest(process), process)

    def _forget(self, process: WorkerProcess) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(process.socket)

    # handing out

    def _hand_out(self) -> None:
        hands = self._dispatcher.hand_out()
        for hand in hands:
            lot = self._intake.lots[hand.token]
            if hand.announce:
                self._committer.put(Announce(lot, hand.worker, self._crew.row_of(hand.worker), hand.indexes))
            else:
                self._give(lot, hand.worker, hand.task, hand.indexes, passing=hand.passing)
        if hands:
            self._send()

    def _announced(self, news: Announced) -> None:
        self._give(news.lot, news.worker, news.lot.socket.task, news.indexes, passing=False)
        self._send()

    def _give(self, lot: Lot, worker: int, task: str, indexes: tuple[int, ...], *, passing: bool) -> None:
        as_sent = not (lot.delivery.content_encoding or lot.renumbered)
        body = lot.delivery.body if as_sent else messages.encode(lot.message)
        self._crew.run(worker, lot, task, indexes, body, passing=passing)

    def _send(self) -> None:
        for process in self._crew.send():
            self._selector.modify(process.socket, _interest(process), process)

    def _timeout_of(self, lot: Lot, index: int) -> float | None:
        own, usual = lot.call(index).timeout, lot.socket.timeout_seconds
        if own is None or (lot.socket.ordered and usual is not None and usual < own):
            return usual
        return own

    # the database's wishes

    def _register(self) -> None:
        wished = time.monotonic()

        def arrived(found: tuple[Identity, View] | None) -> None:
            if found is None:
                self.post(self._be_superseded)
            else:
                self.post(partial(self._open, *found, wished))

        self._committer.put(Within(partial(keeper.arrive, application=self._application, wished=wished), arrived))

    def _built(self, built: Built) -> None:
        self._crew.built(built)
        # while the worker starts
        if self._ending is None:
            self._broker.prepare()

    def _open(self, identity: Identity, view: View, wished: float) -> None:
        if self._ending is not None:
            return
        self._look_at = time.monotonic() + self._poll_seconds
        # first of all: no other start takes as long as a worker's
        self._follow(view, wished)
        self._later = (time.monotonic() + _LATER_SECONDS, partial(self._open_the_rest, identity))
        self._opened = True

    def _do_later(self, now: float) -> None:
        if now >= self._later[0] and self._ending is None:
            _, do = self._later
            self._later = math.inf, lambda: None
            do()

    def _open_the_rest(self, identity: Identity) -> None:
        declared = self._builder.spare(partial(self._listen, identity))
        declared.add_done_callback(lambda done: self.post(partial(self._consume_letters, done)))
        if self._application.devices:
            self._sampler.start()

    def _listen(self, identity: Identity) -> None:
        """Hear hints, and have a queue for dead letters; on a thread that may wait."""
        log.info("agent ready", node=identity.node_name, cores=len(self._application.cores),
                 slots=len(self._application.slots or ()), broker=self._broker.kind)  # fmt: skip
        self._broker.on_hint(self._network, self._hint)
        # what changed until now was told to nobody here
        self.post(self.look_soon)
        # a new queue takes RabbitMQ two seconds
        self._broker.declare_dead_letters(self._network)

    def _consume_letters(self, declared: Future[None]) -> None:
        if self._ending is not None:
            return
        if error := declared.exception():
            log.warning("the dead letters' queue cannot be declared: waiting for it", reason=str(error))
        self._letters = self._broker.consume(
            dead_queue(self._network),
            prefetch=_DEAD_PREFETCH,
            deliver=lambda delivery: self._committer.put(DeadLetter(delivery)),
        )

    def _hint(self, text: str) -> None:
        self.post(partial(self._hinted, text))

    def _hinted(self, text: str) -> None:
        word, _, rest = text.partition(" ")
        if word == "cancel":
            self._cancelling.hinted(rest.split())
        elif word == "due":
            self._look_at = 0.0
        else:
            self.look_soon()

    def look_soon(self) -> None:
        """Something changed: have it reconciled, and read what is wanted, soon and not only at the next poll."""
        self._look_at, self._wished = 0.0, time.monotonic()

    def _due_in(self, seconds: float) -> None:
        self.post(partial(self._look_in, seconds))

    def _look_in(self, seconds: float) -> None:
        self._look_at = min(self._look_at, time.monotonic() + max(seconds, TICK_SECONDS))

    def _look_if_due(self, now: float) -> None:
        if not self._looking and now >= self._look_at and self._opened:
            self._looking, self._looked = True, now
            self._look_at = now + self._poll_seconds
            samples, self._samples = self._samples, ()
            wished = self._wish(now)
            work = partial(
                keeper.look, network=self._network, agent=self.id, calls=self._crew.counted(), samples=samples,
                wished=wished, ways=self._committer.ways.news(), between=self._siblings is not None,
            )  # fmt: skip
            self._committer.put(Within(work, lambda view: self.post(partial(self._follow, view, wished))))

    def _wish(self, now: float) -> float | None:
        """When something changed that no pass is known to have seen; it is the next look's affair."""
        wished, self._wished = self._wished, None
        if now >= self._start_at:
            wished, self._start_at = now, math.inf
        return wished

    def _wish_again(self, wished: float | None, seconds: float) -> None:
        if wished is not None and (self._wished is None or self._wished < wished):
            self._wished = wished
        self._look_in(seconds)

    def _note_long_calls(self, now: float) -> None:
        if now >= self._note_at and self._committer.healthy:
            self._note_at = now + NOTE_SECONDS
            if calls := self._crew.watching.long_calls(now):
                self._committer.put(Within(partial(keeper.note_long_calls, calls=calls), lambda _: None))

    def _follow(self, view: View, wished: float | None) -> None:
        first, self._view, self._looking = self._view is None, view, False
        if view.again_seconds is not None:
            self._wish_again(wished, view.again_seconds)
        if view.outdated:
            self._be_superseded()
        if view.superseded and self._superseded:
            return
        if view.superseded:
            log.error("this agent's lease is gone: another one serves the node, or the lease lapsed")
            self._failed = RuntimeError("superseded")
            self._crew.kill_all(Cause.DRAINED)
            return
        if first:
            self._resuming.recover(view)
        if view.stop_requested and self._ending is None:
            # while it drains the row says so too, for reasons that may leave it more time
            self._stop(ending.ASKED)
        self._job_ends = None if view.seconds_left is None else time.monotonic() + view.seconds_left
        self._mender.know(view.queues)
        if self._ending is None:
            self._crew.follow(view)
        self._pipes.follow(view, open_for_work=self._ending is None)
        self._resuming.publish(view.due)
        if view.next_due_seconds is not None:
            self._look_in(view.next_due_seconds)
        if view.next_start_seconds is not None:
            self._start_at = time.monotonic() + view.next_start_seconds
            self._look_in(view.next_start_seconds)
        self._subscribe()

    def _subscribe(self) -> None:
        if self._view is None:
            return
        ready = self._crew.ready()
        for processor in self._crew.replacing():
            # its last worker died and another is on its way: what waits here may go on waiting
            if self._intake.consumes(processor):
                ready.setdefault(processor, 1)
        self._intake.follow(self._view, ready, open_for_work=self._committer.healthy and self._ending is None)
        if self._committer.healthy:
            self._intake.give_back(each for each in self._dispatcher.processors() if not self._intake.consumes(each))

    def _follow_health(self) -> None:
        """Take nothing new while the database is away; go on when it is back."""
        if self._healthy is not self._committer.healthy:
            self._healthy = self._committer.healthy
            self._subscribe()

    # ending

    def _told_to_end(self) -> None:
        """TERM, which in a job is Slurm's."""
        in_job = self._application.pilot is not None
        self._stop(ending.told_by_slurm(self._kill_wait_seconds, self._seconds_left) if in_job else ending.ASKED)

    def _warned(self) -> None:
        """USR2, perhaps again and again: the time limit is near."""
        if self._ending is None:
            log.info("the job's time limit is near", seconds=self._seconds_left)
        self._stop(ending.near_time_limit(self._seconds_left))

    def _watch_time_limit(self, now: float) -> None:
        """Slurm may have been asked for no warning."""
        if self._ending is None and self._job_ends is not None and now > self._job_ends - reconcile.ENDING_SECONDS:
            self._warned()

    def _be_superseded(self) -> None:
        """Take nothing new; what runs goes on as attempts that may lose."""
        if not self._superseded:
            log.error("the job was started again elsewhere: this incarnation of it is over")
            self._superseded = True
            self._stop(ending.SUPERSEDED)

    @property
    def _seconds_left(self) -> float | None:
        return None if self._job_ends is None else self._job_ends - time.monotonic()

    def _stop(self, why: Ending) -> None:
        first, until = self._ending is None, time.monotonic() + why.seconds
        if until < self._drained_by:
            self._ending, self._drained_by = why, until
        if first:
            log.info("stopping: finishing what runs, giving back what waits", seconds=why.seconds)
            self._committer.put(Within(partial(keeper.stopping, agent=self.id), lambda _: None))
            self._housekeeping.close()
            self._sampler.close()
            self._subscribe()
            self._intake.close()
            if self._letters is not None:
                self._letters.cancel()
            self._intake.give_back(self._dispatcher.processors())
            self._pipes.close()
            self._crew.drain_all()

    def _finished(self) -> bool:
        if self._failed is None and not self._committer.is_alive():
            self._failed = RuntimeError("the committer died")
            self._crew.kill_all(Cause.DRAINED)
        if self._failed is not None:
            return True
        if self._ending is None:
            return False
        if time.monotonic() > self._drained_by:
            self._crew.kill_all(self._ending.cause)
            self._pipes.give_up()
        return not (any(hand.process for hand in self._crew.hands.values()) or self._pipes.waits)

    def _end(self) -> int:
        self._housekeeping.close()
        self._sampler.close()
        self._builder.close()
        if self._failed is None:
            # what a killed worker had not begun
            self._intake.give_back(self._dispatcher.processors())
            work = partial(keeper.deregister, agent=self.id)
            self._committer.put(Within(work, lambda _: None))
        self._committer.stop(10.0)
        self._pipes.remove()
        self._broker.close()
        self._selector.close()
        if self._superseded:
            post = self._application.post
            raise superseded(post.token or "", post.incarnation)
        return 0 if self._failed is None else 1


def _first(session: Any, connect: Callable[[], Any]) -> Callable[[], Any]:
    """Gives `session`, and afterwards what `connect` does."""
    ready = [session]
    return lambda: ready.pop() if ready else connect()


def _raise(error: Exception) -> None:
    raise error


def _interest(process: WorkerProcess) -> int:
    return selectors.EVENT_READ | (selectors.EVENT_WRITE if process.wants_to_write else 0)


def host_name() -> str:
    """This node, as the cluster calls it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()
