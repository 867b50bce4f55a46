"""The agent's main thread: one loop over workers' sockets and what other threads post.

It waits for its sockets, does what was posted, and hands out what there is to workers that have room. Every tick it
does what has become due: it watches limits, looks into the record for what is wanted of it, and follows that.
Deliveries come in by `inbox`; what finished goes out by the committer, which is the other thread.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyfi_hpc.agent import ending, keeper
from pyfi_hpc.agent.builder import Builder, Built
from pyfi_hpc.agent.cancelling import Cancelling
from pyfi_hpc.agent.commit.committer import Committer
from pyfi_hpc.agent.commit.jobs import Within
from pyfi_hpc.agent.commit.mending import Mender
from pyfi_hpc.agent.commit.spool import Spool
from pyfi_hpc.agent.crew import Crew
from pyfi_hpc.agent.devices import Sampler
from pyfi_hpc.agent.dispatch import Dispatcher
from pyfi_hpc.agent.ending import Course, Ending
from pyfi_hpc.agent.handing import Handing
from pyfi_hpc.agent.hearing import Hearing
from pyfi_hpc.agent.housekeeping import Housekeeping
from pyfi_hpc.agent.inbox import Inbox
from pyfi_hpc.agent.intake import Intake
from pyfi_hpc.agent.keeper import View
from pyfi_hpc.agent.lots import Announced, Looked
from pyfi_hpc.agent.pilot import superseded
from pyfi_hpc.agent.pipes.piping import Piping
from pyfi_hpc.agent.registering import Application, Identity
from pyfi_hpc.agent.resuming import Resuming
from pyfi_hpc.agent.sockets import BELL, READ, SIBLINGS, WRITE, Sockets
from pyfi_hpc.agent.streams import Streams
from pyfi_hpc.agent.times import Every, Looks, Once
from pyfi_hpc.brokers.base import Broker
from pyfi_hpc.control import reconcile
from pyfi_hpc.control.retention import Keep
from pyfi_hpc.db import sessions
from pyfi_hpc.envs.build import EnvironmentCache
from pyfi_hpc.envs.repository import Allow
from pyfi_hpc.gpu.sampling import Sample
from pyfi_hpc.logs import logger
from pyfi_hpc.model.status import Cause
from pyfi_hpc.wire.frames import first_token

if TYPE_CHECKING:
    from pyfi_hpc.agent.pipes.siblings import Siblings

log = logger("pyfi.agent")

TICK_SECONDS = 0.05
SWEEP_SECONDS = 1.0
NOTE_SECONDS = 0.5
#: What no call waits for begins so long after the first workers were started: it would hold these up.
_LATER_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True)
class Means:
    """What an agent is given to serve with.

    Attributes:
        session: the first of those that the database sees of this agent.
        state: its own folder, for its spool and its workers' scratch.
        blobs: large values, shared with clients.
        pipes_address: the node's own, where its pipes may lead to other nodes of the job.
    """

    database_uri: str
    session: Any
    broker: Broker
    application: Application
    state: Path
    cache: Path
    blobs: Path
    rules: Allow
    poll_seconds: float = 2.0
    kill_wait_seconds: float = 30.0
    max_value_bytes: int = 2**30
    blob_quota_bytes: int = 0
    keep: Keep = field(default_factory=Keep)
    pipes_address: str | None = None


class Service:
    """One agent, from start to stop."""

    def __init__(self, means: Means) -> None:
        self.id = means.application.agent
        self._network = means.application.post.network
        self._broker, self._kill_wait_seconds = means.broker, means.kill_wait_seconds
        self._inbox = Inbox(lambda processor, delivery: self._intake.take(processor, delivery), self._hand_out)
        self._sockets = Sockets(self._inbox.bell)
        self._siblings = self._open_to(means.pipes_address) if means.pipes_address else None
        self._application = _reachable(means.application, self._siblings)
        self._connect = partial(sessions.opened, means.database_uri, "pyfi-agent")
        self._assemble(means)
        self._looks, self._course = Looks(means.poll_seconds), Course()
        self._ticks, self._sweeps, self._notes = Every(TICK_SECONDS), Every(SWEEP_SECONDS), Every(NOTE_SECONDS)
        self._later = Once()
        self._view: View | None = None
        #: newest samples of the GPUs, written with the next look
        self._samples: tuple[Sample, ...] = ()
        #: the job was started again elsewhere; the lease is gone, or the committer
        self._superseded = self._failed = False
        self._healthy = True

    def _assemble(self, means: Means) -> None:
        """Make the parts, and tell each of those that it needs."""
        scratch, spool = means.state / "scratch", Spool(means.state / "spool", self.id)
        scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        means.blobs.mkdir(parents=True, exist_ok=True)
        self._mender, self._dispatcher = Mender(means.broker), Dispatcher()
        self._committer = Committer(
            _first(means.session, self._connect), means.broker, self._mender, self._network, self.id, spool,
            self._from_committer, self._due_in,
        )  # fmt: skip
        put, post = self._committer.put, self._inbox.post
        self._intake = Intake(
            means.broker, self._dispatcher, put, self._inbox.deliver, post,
            lambda token: self._pipes.hurry(token), self._inbox.all_here,
            first_token(self._siblings.number if self._siblings else 0),
        )  # fmt: skip
        self._builder = Builder(
            EnvironmentCache(means.cache), means.rules, lambda built: post(partial(self._built, built))
        )
        self._pipes = Piping(self._dispatcher, put, self._sockets.write_to, means.state, self._siblings)
        self._crew = Crew(
            self._dispatcher, self._builder, put, Streams(put, post), self._intake.lots.get,
            self._sockets.watch, self._sockets.forget, self._subscribe, self.look_soon, scratch, means.blobs,
            means.max_value_bytes, self._pipes, means.blob_quota_bytes,
        )  # fmt: skip
        self._handing = Handing(self._dispatcher, self._intake.lots, self._crew, put, self._sockets.write_to)
        self._cancelling = Cancelling(self._intake, self._dispatcher, self._crew.watching, self._pipes, put, post)
        self._hearing = Hearing(means.broker, self._network, post, put, self._hinted)
        self._resuming = Resuming(self._mender, spool, put)
        # it holds a lock while it walks through a folder
        patient = partial(self._connect, patient=True)
        self._housekeeping = Housekeeping(means.keep, means.blobs, patient, put, post, self._builder.spare)
        self._sampler = Sampler([each.uuid for each in self._application.devices], self._sampled)

    def _open_to(self, address: str) -> Siblings | None:
        """Listen to other agents of the job; where that cannot be, pipes stay on the node."""
        from pyfi_hpc.agent.pipes.siblings import Siblings, Unreachable

        try:
            return Siblings(self.id, address, self._sockets.watch_siblings, self._sockets.forget_siblings)
        except Unreachable as error:
            log.warning("pipes lead to no other node", address=address, reason=str(error))
            return None

    # from any thread

    def post(self, do: Callable[[], None]) -> None:
        """Have `do` run on the main thread."""
        self._inbox.post(do)

    def stop(self) -> None:
        """Drain and end, as a person asked."""
        self.post(partial(self._stop, ending.ASKED))

    def _sampled(self, samples: tuple[Sample, ...]) -> None:
        self._samples = samples

    def _from_committer(self, news: Looked | Announced) -> None:
        if isinstance(news, Looked):
            self.post(partial(self._intake.looked, news))
        else:
            self.post(partial(self._handing.announced, news))

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
        with self._inbox.baton:
            return self._serve()

    def _serve(self) -> int:
        self._register()
        while not self._finished():
            for key, events in self._inbox.while_waiting(self._sockets.select, TICK_SECONDS):
                self._hear(key.data, events)
            self._inbox.do_posted()
            self._hand_out()
            now = time.monotonic()
            if self._ticks.due(now):
                self._tick(now)
            if self._sweeps.due(now):
                self._intake.sweep(now)
        return self._end()

    def _hear(self, who: Any, events: int) -> None:
        """Something is ready: the bell, what other agents sent, or a worker's socket."""
        if who is SIBLINGS:
            self._pipes.hear()
        elif who is BELL:
            self._inbox.heard()
        else:
            if events & WRITE:
                who.flush()
                self._sockets.written(who)
            if events & READ:
                self._crew.hear(who)

    def _hand_out(self) -> None:
        self._handing.hand_out()

    def _tick(self, now: float) -> None:
        """What has become due, or must not wait for longer."""
        self._pipes.turn(now)
        self._crew.put_on_record()
        if self._pipes.unknown:
            self._looks.for_a_stranger(now)
        self._crew.watching.look(now)
        self._crew.stop_drained()
        self._look_if_due(now)
        self._later.turn(now)
        self._note_long_calls(now)
        self._watch_time_limit(now)
        self._follow_health()
        self._committer.look(now)
        self._intake.step()
        self._housekeeping.turn(now)

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
        if self._course.serves:
            self._broker.prepare()

    def _open(self, identity: Identity, view: View, wished: float) -> None:
        if not self._course.serves:
            return
        self._looks.arrived(time.monotonic())
        # first of all: no other start takes as long as a worker's
        self._follow(view, wished)
        self._later.plan(time.monotonic() + _LATER_SECONDS, partial(self._open_the_rest, identity))

    def _open_the_rest(self, identity: Identity) -> None:
        self._builder.spare(partial(self._say_ready, identity))
        self._hearing.open(self._builder.spare)
        if self._application.devices:
            self._sampler.start()

    def _say_ready(self, identity: Identity) -> None:
        """On another thread: it is the first line, and loads what writes them."""
        log.info("agent ready", node=identity.node_name, cores=len(self._application.cores),
                 slots=len(self._application.slots or ()), broker=self._broker.kind)  # fmt: skip

    def _hinted(self, text: str) -> None:
        word, _, rest = text.partition(" ")
        if word == "cancel":
            self._cancelling.hinted(rest.split())
        elif word == "due":
            self._looks.at_once()
        else:
            self.look_soon()

    def look_soon(self) -> None:
        """Something changed: have it reconciled, and read what is wanted, soon and not only at the next poll."""
        self._looks.wish(time.monotonic())

    def _due_in(self, seconds: float) -> None:
        self.post(lambda: self._looks.within(seconds, time.monotonic()))

    def _look_if_due(self, now: float) -> None:
        if self._looks.due(now):
            wished = self._looks.begin(now)
            samples, self._samples = self._samples, ()
            work = partial(
                keeper.look, network=self._network, agent=self.id, calls=self._crew.counted(), samples=samples,
                wished=wished, ways=self._committer.ways.news(), between=self._siblings is not None,
            )  # fmt: skip
            self._committer.put(Within(work, lambda view: self.post(partial(self._follow, view, wished))))

    def _note_long_calls(self, now: float) -> None:
        if self._committer.healthy and self._notes.due(now) and (calls := self._crew.watching.long_calls(now)):
            self._committer.put(Within(partial(keeper.note_long_calls, calls=calls), lambda _: None))

    def _follow(self, view: View, wished: float | None) -> None:
        """Do as the record says, which was looked into for that wish."""
        first, self._view = self._view is None, view
        self._looks.end(wished, view.again_seconds, time.monotonic())
        if view.outdated:
            self._be_superseded()
        if view.superseded:
            self._lose_lease()
            return
        if first:
            self._resuming.recover(view)
        if view.stop_requested and self._course.serves:
            # while it drains the row says so too, for reasons that may leave it more time
            self._stop(ending.ASKED)
        now = time.monotonic()
        self._course.know_limit(view.seconds_left, now)
        self._looks.expect(view.next_due_seconds, view.next_start_seconds, now)
        self._mender.know(view.queues)
        if self._course.serves:
            self._crew.follow(view)
        self._pipes.follow(view, open_for_work=self._course.serves)
        self._resuming.publish(view.due)
        self._subscribe()

    def _lose_lease(self) -> None:
        """Another agent serves the node: at once the end, but where it is the end already."""
        if not self._superseded:
            log.error("this agent's lease is gone: another one serves the node, or the lease lapsed")
            self._failed = True
            self._crew.kill_all(Cause.DRAINED)

    def _subscribe(self) -> None:
        if self._view is None:
            return
        ready = self._crew.ready()
        for processor in self._crew.replacing():
            # its last worker died and another is on its way: what waits here may go on waiting
            if self._intake.consumes(processor):
                ready.setdefault(processor, 1)
        self._intake.follow(self._view, ready, open_for_work=self._committer.healthy and self._course.serves)
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
        if self._course.serves:
            log.info("the job's time limit is near", seconds=self._seconds_left)
        self._stop(ending.near_time_limit(self._seconds_left))

    def _watch_time_limit(self, now: float) -> None:
        """Slurm may have been asked for no warning."""
        if self._course.near_limit(now, reconcile.ENDING_SECONDS):
            self._warned()

    def _be_superseded(self) -> None:
        """Take nothing new; what runs goes on as attempts that may lose."""
        if not self._superseded:
            log.error("the job was started again elsewhere: this incarnation of it is over")
            self._superseded = True
            self._stop(ending.SUPERSEDED)

    @property
    def _seconds_left(self) -> float | None:
        return self._course.seconds_left(time.monotonic())

    def _stop(self, why: Ending) -> None:
        if self._course.end(why, time.monotonic()):
            log.info("stopping: finishing what runs, giving back what waits", seconds=why.seconds)
            self._committer.put(Within(partial(keeper.stopping, agent=self.id), lambda _: None))
            self._later.cancel()
            self._housekeeping.close()
            self._sampler.close()
            self._subscribe()
            self._intake.close()
            self._hearing.close()
            self._intake.give_back(self._dispatcher.processors())
            self._pipes.close()
            self._crew.drain_all()

    def _finished(self) -> bool:
        if not self._failed and not self._committer.is_alive():
            self._failed = True
            self._crew.kill_all(Cause.DRAINED)
        if self._failed:
            return True
        if (why := self._course.why) is None:
            return False
        if self._course.out_of_time(time.monotonic()):
            self._crew.kill_all(why.cause)
            self._pipes.give_up()
        return not (any(hand.process for hand in self._crew.hands.values()) or self._pipes.waits)

    def _end(self) -> int:
        self._housekeeping.close()
        self._sampler.close()
        self._builder.close()
        if not self._failed:
            # what a killed worker had not begun
            self._intake.give_back(self._dispatcher.processors())
            work = partial(keeper.deregister, agent=self.id)
            self._committer.put(Within(work, lambda _: None))
        self._committer.stop(10.0)
        self._pipes.remove()
        self._broker.close()
        self._sockets.close()
        if self._superseded:
            post = self._application.post
            raise superseded(post.token or "", post.incarnation)
        return 1 if self._failed else 0


def _first(session: Any, connect: Callable[[], Any]) -> Callable[[], Any]:
    """Gives `session`, and afterwards what `connect` does."""
    ready = [session]
    return lambda: ready.pop() if ready else connect()


def _reachable(application: Application, siblings: Siblings | None) -> Application:
    """What the agent says of itself, with where others of the job reach it."""
    if siblings is None:
        return application
    return replace(application, pipe_address=siblings.endpoint, pipe_key=siblings.keys.public.decode())


def host_name() -> str:
    """This node, as the cluster calls it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()
