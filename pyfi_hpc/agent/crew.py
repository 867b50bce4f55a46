"""The agent's workers: planned rows become processes, processes are fed, watched and buried. Main thread only."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from pyfi_hpc.agent import keeper
from pyfi_hpc.agent.builder import Builder, Built
from pyfi_hpc.agent.commit.jobs import Within
from pyfi_hpc.agent.dispatch import Dispatcher
from pyfi_hpc.agent.hands import HELLO_SECONDS, Hand
from pyfi_hpc.agent.keeper import OwnWorker, Program, View
from pyfi_hpc.agent.lots import Finished, Lot
from pyfi_hpc.agent.pipes.piping import Piping
from pyfi_hpc.agent.process import Launch, WorkerProcess, describe_end
from pyfi_hpc.agent.streams import Streams
from pyfi_hpc.agent.watching import Watching
from pyfi_hpc.control import reconcile
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.envs import requirements
from pyfi_hpc.errors import BadInput, PyfiError, shown
from pyfi_hpc.gpu.visible import worker_environment
from pyfi_hpc.logs import logger
from pyfi_hpc.model.status import Cause, WorkerStatus
from pyfi_hpc.wire.frames import (
    NO_LINK,
    Done,
    Hello,
    Item,
    Link,
    Listening,
    Reached,
    Refused,
    Run,
    Stop,
    Taken,
    ToAgent,
    Untaken,
    Yielded,
)
from pyfi_hpc.wire.messages import ErrorRecord

log = logger("pyfi.agent")

CRASHES, CRASH_MINUTES = 5, 5.0
#: How long a processor's second crash holds its next worker back; doubled with each further one.
RESTART_SECONDS = 0.25
#: Of calls that came by pipes and are told together, about so many say how long such a call takes.
_SAMPLE = 16
_CODE = {Cause.TIMEOUT: "E_TIMEOUT"}
#: The agent ends, and with it a worker that had not finished.
_ENDINGS = frozenset({Cause.DRAINED, Cause.WALLTIME, Cause.PREEMPTED})


class Crew:
    """Every worker of this agent."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        builder: Builder,
        put: Callable[..., None],
        streams: Streams,
        lots: Callable[[int], Lot | None],
        watch: Callable[[WorkerProcess], None],
        forget: Callable[[WorkerProcess], None],
        joined: Callable[[], None],
        changed: Callable[[], None],
        scratch: Path,
        blobs: Path,
        max_value_bytes: int,
        pipes: Piping,
        blob_quota_bytes: int = 0,
    ) -> None:
        """`put` hands jobs to the committer; `lots` finds a lot by token; `watch` and `forget` (un)register a process's
        socket with the main loop; `joined` is told of a worker that takes calls from now on; `changed` asks for a fresh
        view of the database."""
        self._dispatcher, self._builder, self._put, self._lots = dispatcher, builder, put, lots
        self._streams = streams
        streams.taken, streams.overtaken = self._taken, self._overtaken
        self._watch, self._forget, self._joined, self._changed = watch, forget, joined, changed
        #: workers that said hello, which is not on record yet
        self._greeted: list[Callable[[Cursor], None]] = []
        self._scratch, self._blobs = scratch, blobs
        self._max_value_bytes, self._blob_quota_bytes = max_value_bytes, blob_quota_bytes
        self.pipes = pipes
        self._programs: dict[bytes, Program] = {}
        self.hands: dict[bytes, Hand] = {}
        self._by_number: dict[int, Hand] = {}
        #: workers that something was handed to, and is not sent yet
        self._fed: dict[int, WorkerProcess] = {}
        self._next = 1
        self.watching = Watching(self.hands, lots, pipes.served)

    # following the database

    def follow(self, view: View) -> None:
        """Take up planned workers, drain those that are not wanted, end those that somebody else buried."""
        self._programs = view.programs
        self.watching.follow(view.programs)
        rows = {worker.id: worker for worker in view.workers}
        for worker in view.workers:
            if worker.id not in self.hands and worker.status is WorkerStatus.PLANNED:
                self._take_up(worker)
            elif worker.id in self.hands and worker.status is WorkerStatus.DRAINING:
                self.drain(self.hands[worker.id])
        for identity in self.hands.keys() - rows.keys():
            hand = self.hands[identity]
            if hand.process is not None:
                self.drain(hand)
            elif hand.unwanted:
                del self.hands[identity]

    def _take_up(self, worker: OwnWorker) -> None:
        program = self._programs.get(worker.processor)
        if program is None:
            return
        hand = Hand(worker.id, worker.processor, worker.cores, worker.devices)
        self.hands[worker.id] = hand

        def launching(wanted: bool) -> None:
            if wanted:
                self._builder.build(worker.id, program)
            else:
                # on the committer's thread: the main one buries it
                hand.draining = hand.unwanted = True

        self._put(Within(partial(keeper.worker_launching, worker=worker.id), launching))

    def built(self, built: Built) -> None:
        """The environment of a planned worker is there, or cannot be."""
        hand = self.hands.get(built.worker)
        if hand is None:
            return
        if hand.draining:
            # also where the build failed: what ended this agent may have ended it too
            self._buried(hand, "not wanted any more")
        elif built.error is not None or built.environment is None:
            self._cannot_start(hand, built.error)
        else:
            hand.environment = built.environment.key
            hand.program = built.program
            hand.deadline = time.monotonic() + HELLO_SECONDS
            launch = Launch(
                built.environment.python, built.program.module, hand.cores, self._blobs, self._scratch,
                self._max_value_bytes, worker_environment(hand.devices), self._blob_quota_bytes,
            )  # fmt: skip
            hand.process = WorkerProcess(self._next, launch)
            self._by_number[self._next] = hand
            self._next += 1
            self._watch(hand.process)

    def _cannot_start(self, hand: Hand, error: PyfiError | None) -> None:
        if hand.draining:
            # another version is wanted by now: of that this says nothing
            self._buried(hand, "not wanted any more")
            return
        reason = {"code": error.code, "what": error.what, "at": error.at, "try": error.cure} if error else {}
        reason |= _log_of(error) if error else {}
        log.warning("a worker cannot start", processor=self._name(hand), **{k: v for k, v in reason.items() if v})
        self._buried(hand, f"cannot start: {error.what if error else 'no environment'}", failed=json.dumps(reason))

    def _name(self, hand: Hand) -> str:
        program = self._programs.get(hand.processor)
        return program.name if program else hand.processor.hex()

    # feeding

    def run(
        self, number: int, lot: Lot, task: str, indexes: tuple[int, ...], body: bytes, *, passing: bool = True
    ) -> None:
        """Hand members to a worker that has them by the dispatcher's books; `passing`: results may go into pipes.
        They are on their way with the next `send`."""
        hand = self._by_number.get(number)
        kept = self._dispatcher.held_of(number, lot.token, indexes)
        if kept and hand is not None and hand.process is not None:
            hand.process.queue(Run(lot.token, task, body, kept, passing))
            self._fed[number] = hand.process

    def send(self) -> list[WorkerProcess]:
        """Send what workers were handed, to each in one go; those whose sockets do not take all of it now."""
        fed, self._fed = self._fed, {}
        for process in fed.values():
            process.flush()
        return [process for process in fed.values() if process.wants_to_write]

    def row_of(self, number: int) -> bytes:
        """The row of a worker by its number."""
        return self._by_number[number].row

    def ready(self) -> dict[bytes, int]:
        """How many workers of each processor take calls."""
        counts: dict[bytes, int] = {}
        for hand in self.hands.values():
            if hand.process is not None and hand.process.hello is not None and not hand.draining:
                counts[hand.processor] = counts.get(hand.processor, 0) + 1
        return counts

    def counted(self) -> dict[bytes, int]:
        """Worker row -> calls run, for those that ran some since this was last asked."""
        news = {hand.row: hand.calls for hand in self.hands.values() if hand.calls != hand.counted}
        for row, count in news.items():
            self.hands[row].counted = count
        return news

    def replacing(self) -> set[bytes]:
        """Processors with a worker on its way."""
        return {
            hand.processor
            for hand in self.hands.values()
            if not hand.draining and (hand.process is None or hand.process.hello is None)
        }

    # hearing

    def hear(self, process: WorkerProcess) -> None:
        """The worker's socket has something to read."""
        ended = False
        try:
            frames, ended = process.read()
        except BadInput as error:
            log.warning("a worker broke the protocol", error=error.what)
            process.kill(Cause.WORKER_LOST)
            frames, ended = [], True
        hand = self._by_number[process.number]
        for finished, group in groupby(frames, lambda frame: isinstance(frame, Done)):
            if finished:
                self._done(hand, process, list(group))  # type: ignore[arg-type]  # groupby() tells no types apart
            else:
                for frame in group:
                    self._told(hand, process, frame)
        if ended:
            self._died(hand, process)

    def _told(self, hand: Hand, process: WorkerProcess, frame: ToAgent) -> None:
        if isinstance(frame, Hello):
            self._hello(hand, process, frame)
        elif isinstance(frame, Reached):
            self._reached(hand, process, frame)
        elif isinstance(frame, Untaken):
            self.pipes.untaken(frame)
        elif isinstance(frame, Listening):
            self.pipes.listening(process.number, frame)
        elif isinstance(frame, Refused):
            log.warning("a stranger was not let in", peer=shown(frame.peer), why=shown(frame.why), pid=process.pid)
        elif isinstance(frame, Yielded):
            self._yielded(hand, process, frame)

    def _hello(self, hand: Hand, process: WorkerProcess, hello: Hello) -> None:
        if hello.error is not None:
            process.kill(Cause.ENVIRONMENT)
            name = self._name(hand)
            told = BadInput(hello.error.code, hello.error.message, at=f"processor {name}",
                            cure=requirements.cure(name, hello.error.message), log=hello.error.traceback)  # fmt: skip
            self._forget(process)
            process.reap()
            process.close()
            self._by_number.pop(process.number)
            self._cannot_start(hand, told)
            return
        process.hello = hello
        self._dispatcher.add_worker(process.number, hand.processor)
        self.pipes.join(process, hand.processor, hand.row)
        if hand.draining:
            self.pipes.leave(process.number)
            self._dispatcher.drain_worker(process.number)
        work = partial(
            keeper.worker_ready,
            worker=hand.row,
            processor=hand.processor,
            pid=process.pid,
            environment=hand.environment,
        )
        # not here: it would hold up the worker's first outcomes
        self._greeted.append(work)
        self._joined()

    def put_on_record(self) -> None:
        """Say of workers that have greeted since this was last called that they are ready."""
        if greeted := self._greeted:
            self._greeted = []
            self._put(Within(partial(_each, greeted), lambda _: self._changed()))

    def _done(self, hand: Hand, process: WorkerProcess, frames: Sequence[Done]) -> None:
        """Members of several lots are finished."""
        # nobody keeps count of what a second run has passed on
        passing = [self._dispatcher.passing_of(process.number, done.token) for done in frames]
        accepted = self._dispatcher.all_done(process.number, [(done.token, _timings(done)) for done in frames])
        hand.calls += sum(map(len, accepted))
        finished: list[Finished] = []
        heads: list[Finished] = []
        for done, mine, counts in zip(frames, accepted, passing, strict=True):
            if mine and (lot := self._lots(done.token)) is not None:
                known = set(mine)
                for item in done.items:
                    if item.index in known:
                        known_cause = self.watching.ended((lot.token, item.index), item.error)
                        cause = self._outdated(hand, item.error) or known_cause
                        each = Finished(lot, item.index, item, hand.row, cause)
                        (heads if item.passed and counts else finished).append(each)
        if heads:
            self.pipes.heads(heads)
        if finished:
            self._streams.finish(*finished)

    def _reached(self, hand: Hand, process: WorkerProcess, reached: Reached) -> None:
        """Calls that came by pipes are finished."""
        hand.calls += len(reached.links)
        took: dict[tuple[bytes, str], list[float]] = {}
        for link in reached.links[:: 1 + len(reached.links) // _SAMPLE]:
            socket = self.pipes.socket_of(link.token, link.index, link.id)
            if socket is not None:
                seconds = max(0.0, link.item.ended - link.item.started)
                took.setdefault((socket.processor, socket.task), []).append(seconds)
        for each, times in took.items():
            self._dispatcher.learn(*each, times)
        ended = [(link, self.watching.link_ended(link.id, link.item.error)) for link in reached.links]
        self.pipes.links(
            process.number, [(link, self._outdated(hand, link.item.error) or cause) for link, cause in ended]
        )

    def _outdated(self, hand: Hand, error: ErrorRecord | None) -> Cause | None:
        """What a worker of an older commit does not have is a task of the one that is to come: it is given back."""
        if error is None or error.code != "E_TASK_NOT_FOUND" or hand.program is None:
            return None
        now = self._programs.get(hand.processor)
        same = now and (now.commit, now.module) == (hand.program.commit, hand.program.module)
        return None if same else Cause.RETURNED

    def _yielded(self, hand: Hand, process: WorkerProcess, frame: Yielded) -> None:
        lot = self._lots(frame.token)
        if lot is None or not self._dispatcher.holding(process.number, frame.token, frame.index):
            return
        try:
            self.pipes.yields(lot.socket.id)
            self._streams.yielded(lot, frame, hand.row)
        except BadInput as error:
            log.warning("a worker broke the protocol", error=error.what)
            process.kill(Cause.WORKER_LOST)

    def _taken(self, at: tuple[int, int], count: int) -> None:
        """Whoever runs that call may yield as many more."""
        for process in self.watching.who_runs(at):
            process.send(Taken(*at, count))

    def _overtaken(self, at: tuple[int, int]) -> None:
        """Another attempt yields now: this one is given back."""
        for process in self.watching.who_runs(at):
            process.kill(Cause.RETURNED)

    # ending

    def drain(self, hand: Hand) -> None:
        """Let the worker finish what it has, then end."""
        hand.draining = True
        if hand.process is None:
            return
        self._dispatcher.drain_worker(hand.process.number)
        self.pipes.leave(hand.process.number)
        self.stop_drained()

    def drain_all(self) -> None:
        """Drain every worker."""
        for hand in list(self.hands.values()):
            self.drain(hand)

    def stop_drained(self) -> None:
        """Tell drained workers that have nothing left to end."""
        for hand in self.hands.values():
            process = hand.process
            if process is None or process.hello is None or hand.stopping or not hand.draining:
                continue
            if self._dispatcher.idle(process.number) and not self.pipes.has(process.number):
                hand.stopping = True
                process.send(Stop())

    def kill_all(self, cause: Cause) -> None:
        """End every worker at once; what they ran is handled as they die."""
        for hand in self.hands.values():
            if hand.process is not None:
                hand.process.kill(cause)

    def _died(self, hand: Hand, process: WorkerProcess) -> None:
        self.put_on_record()
        self._forget(process)
        status = process.reap()
        token, index, started, link = process.progress.running()
        out, err = process.tails()
        killed = process.killed
        member = (token, index) if index >= 0 and link == NO_LINK else None
        blamed = self._dispatcher.remove_worker(process.number, member)
        cause, words = describe_end(status, killed)
        if killed is Cause.RETURNED:
            cause = killed
        now = time.time()
        began = now - max(0.0, time.monotonic() - started)
        error = ErrorRecord("pyfi_hpc.errors.WorkerLost", words, "", _CODE.get(cause, "E_WORKER_LOST"), cause)
        item = Item(max(index, 0), None, error, began, now, out, err)
        lot = self._lots(token) if blamed else None
        if blamed and lot is not None:
            self.watching.ended(blamed, error)
            self._streams.finish(Finished(lot, index, item, hand.row, cause))
        if index >= 0 and link != NO_LINK:
            self.watching.link_ended(link, error)
            self.pipes.links(process.number, [(Link(token, index, link, item), cause)])
        self.pipes.died(process.number)
        self._by_number.pop(process.number)
        process.close()
        self._after_death(hand, process, killed, words, err)

    def _after_death(self, hand: Hand, process: WorkerProcess, killed: Cause | None, words: str, err: bytes) -> None:
        if process.hello is None and hand.draining:
            self._buried(hand, "not wanted any more")
        elif process.hello is None:
            tail = err.decode(errors="replace")[-2000:]
            self._cannot_start(hand, BadInput("E_IMPORT", f"the worker never became ready: {words}", log=tail))
        elif hand.stopping or killed in _ENDINGS:
            self._buried(hand, "drained")
        elif killed in (Cause.TIMEOUT, Cause.HOST_OOM, Cause.RETURNED):
            # one call's fault and our doing: no sign that the processor is sick
            self._buried(hand, f"ended: {words}")
        else:
            log.warning("a worker died", processor=self._name(hand), pid=process.pid, why=words)
            self._buried(hand, f"crashed: {words}", crashed=True)

    def _buried(self, hand: Hand, reason: str, *, failed: str | None = None, crashed: bool = False) -> None:
        self.hands.pop(hand.row, None)

        def write(cursor: Cursor) -> None:
            keeper.worker_ended(cursor, hand.row, reason, hand.calls)
            if failed is not None:
                reconcile.processor_failed(cursor, hand.processor, failed)
            elif crashed:
                self._crashed(cursor, hand, reason)

        self._put(Within(write, lambda _: self._changed()))

    def _crashed(self, cursor: Cursor, hand: Hand, reason: str) -> None:
        """The first crash costs nothing; the next ones hold the processor back, and many make it FAILED."""
        count = keeper.crashes(cursor, hand.processor, CRASH_MINUTES)
        if count >= CRASHES:
            told = {"code": "E_WORKER_LOST", "what": f"{count} workers died in {CRASH_MINUTES:g} minutes: {reason}"}
            reconcile.processor_failed(cursor, hand.processor, json.dumps(told))
        elif count > 1:
            reconcile.hold_back(cursor, hand.processor, RESTART_SECONDS * 2 ** (count - 2))


def _timings(done: Done) -> list[tuple[int, float]]:
    return [(item.index, max(0.0, item.ended - item.started)) for item in done.items]


def _each(work: Sequence[Callable[[Cursor], None]], cursor: Cursor) -> None:
    for write in work:
        write(cursor)


def _log_of(error: PyfiError) -> dict[str, str]:
    """The end of the log that it brings, line by line."""
    lines = str(error.facts.get("log") or "")[-20_000:].splitlines()
    return {"log": "\n".join(shown(line, 1_000) for line in lines)} if lines else {}
