"""The hot path's cores under thousands of schedules: lanes and window of the client, intake, dispatch and acks.

One thread and one source of chance: client, broker, agents and workers take turns in any order, and anything may die
between two turns. What is simulated is what lies between the cores: the broker's queue and the database's outcomes.
A failing schedule names its seed.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from pyfi_hpc.agent.commit.jobs import Adopt, Announce, GiveBack, Job, Look, Split
from pyfi_hpc.agent.dispatch import Dispatcher
from pyfi_hpc.agent.intake import Intake
from pyfi_hpc.agent.keeper import Program, View
from pyfi_hpc.agent.lots import Looked, Lot, Served
from pyfi_hpc.brokers.base import Broker, Delivery, Publication, TaskQueue
from pyfi_hpc.brokers.rabbitmq.acks import Ack, AckLedger
from pyfi_hpc.brokers.rabbitmq.window import Entry, Window
from pyfi_hpc.client.directory import Way
from pyfi_hpc.client.parcels import Item, Lane
from pyfi_hpc.model.status import Requested
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.messages import CONTENT_TYPE, WIRE_VERSION, Call, Message

SCHEDULES = 1_500
TURNS = 160
PREFETCH = 6
P, S = b"p" * 16, b"s" * 16
QUEUE = TaskQueue("default", "q", "task")
SOCKET = Served(S, "p.task", "me", P, "task", QUEUE.name, QUEUE.exchange, QUEUE.key, 1, None, 3, 1.0)
VIEW = View(
    superseded=False,
    stop_requested=False,
    workers=(),
    programs={P: Program(P, "p", "file:///r", "c", "m", None, None, None, None, Requested.RUNNING)},
    sockets={S: SOCKET},
    due=(),
)


@dataclass(eq=False)
class Stored:
    """A message that the broker holds."""

    body: bytes
    count: int = 0


@dataclass(eq=False)
class Delivered:
    """A message in an agent's hands, on one incarnation of its channel."""

    agent: SimulatedAgent
    incarnation: int
    tag: int
    stored: Stored
    content_type: str | None = CONTENT_TYPE
    content_encoding: str | None = None
    headers: Mapping[str, object] = field(default_factory=dict)
    received: float = 0.0
    queue: str = QUEUE.name

    @property
    def body(self) -> bytes:
        return self.stored.body

    @property
    def redelivered(self) -> bool:
        return self.stored.count > 0

    @property
    def delivery_count(self) -> int:
        return self.stored.count

    def ack(self) -> None:
        if self.incarnation == self.agent.incarnation:
            self.agent.ledger.settle(self.tag)


class SimulatedAgent:
    """Intake, dispatcher and ledger as they are; its committer and its workers' processes are the world's turns."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.incarnation = 0
        self.start()

    def start(self) -> None:
        """A fresh process on a fresh channel."""
        self.jobs: deque[Job] = deque()
        self.finished: deque[tuple[Lot, int]] = deque()
        self.dispatcher = Dispatcher()
        self.intake = Intake(cast(Broker, self), self.dispatcher, self.jobs.append, lambda *_: None)
        self.intake.follow(VIEW, {P: 2}, open_for_work=True)
        self.workers: dict[int, deque[tuple[int, int]]] = {}
        self.next_worker = 1
        self.reopen()
        for _ in range(2):
            self.hire()

    def hire(self) -> None:
        self.workers[self.next_worker] = deque()
        self.dispatcher.add_worker(self.next_worker, P)
        self.next_worker += 1

    # as the broker sees it

    ack_timeout_seconds = None

    def consume(self, *_: object, **__: object) -> SimulatedAgent:
        return self

    def resize(self, prefetch: int) -> None:
        """The simulated channel keeps its own."""

    def reopen(self) -> None:
        """The channel is new: what was unacked is the broker's again."""
        self.world.take_back(self)
        self.incarnation += 1
        self.ledger = AckLedger()
        self.tags: dict[int, Stored] = {}
        self.last_tag = 0

    # turns

    def receive(self) -> None:
        queue = self.world.queue
        if queue and len(self.tags) < PREFETCH:
            stored = queue.popleft()
            self.last_tag += 1
            self.tags[self.last_tag] = stored
            self.ledger.delivered(self.last_tag)
            delivery = Delivered(self, self.incarnation, self.last_tag, stored)
            self.intake.take(P, cast(Delivery, delivery))

    def hand_out(self) -> None:
        for hand in self.dispatcher.hand_out():
            lot = self.intake.lots[hand.token]
            if hand.announce:
                self.jobs.append(Announce(lot, hand.worker, b"", hand.indexes))
            else:
                self.workers[hand.worker].extend((hand.token, index) for index in hand.indexes)

    def work(self) -> None:
        """A worker runs some of what it has, and tells."""
        number = self.world.chance.choice(list(self.workers))
        mine = self.workers[number]
        for _ in range(self.world.chance.randint(1, 4)):
            if mine:
                token, index = mine.popleft()
                lot = self.intake.lots[token]
                self.world.runs[lot.call(index).id] += 1
                if self.dispatcher.done(number, token, [(index, 1e-5)]):
                    self.finished.append((lot, index))

    def lose_worker(self) -> None:
        """It dies with what it ran: that member alone is to blame, and here it runs again at once."""
        number = self.world.chance.choice(list(self.workers))
        mine = self.workers.pop(number)
        blamed = self.dispatcher.remove_worker(number, mine[0] if mine else None)
        if blamed:
            lot = self.intake.lots[blamed[0]]
            self.dispatcher.offer(lot.token, P, "task", [blamed[1]], careful=True)
        self.hire()

    def commit(self) -> None:
        """Outcomes first, then what follows from them; it may die in between."""
        chance = self.world.chance
        settled = [self.finished.popleft() for _ in range(len(self.finished))]
        for lot, index in settled:
            self.world.outcomes.setdefault(lot.call(index).id, lot.call(index).serial)
        if self.world.faults and chance.random() < 0.02:
            return self.crash()
        for lot, index in settled:
            lot.settle(index)
        for _ in range(len(self.jobs)):
            self.do(self.jobs.popleft())
        return None

    def do(self, job: Job) -> None:
        match job:
            case Look(lot):
                decided = [index for index in sorted(lot.open) if lot.call(index).id in self.world.outcomes]
                runnable = tuple(index for index in sorted(lot.open) if index not in decided)
                for index in decided:
                    lot.settle(index)
                self.intake.looked(Looked(lot, runnable))
            case Announce(lot, worker, _, indexes):
                kept = [(lot.token, index) for index in indexes if self.dispatcher.holding(worker, lot.token, index)]
                if worker in self.workers:
                    self.workers[worker].extend(kept)
            case Split(lot, indexes):
                for index in indexes:
                    self.world.publish_again(lot, index)
                    lot.settle(index)
            case GiveBack(lot, indexes):
                for index in indexes:
                    self.world.publish_again(lot, index)
                    lot.settle(index)
            case Adopt(lot, delivery):
                lot.adopt(delivery)
            case _:
                raise AssertionError(job)

    def ack(self) -> None:
        """What may be acked goes out; the broker forgets it."""
        for ack in self.ledger.due():
            gone = [tag for tag in self.tags if tag == ack.tag or (ack.multiple and tag < ack.tag)]
            assert gone, "a tag was acked twice"
            for tag in gone:
                self.world.forget(self.tags.pop(tag))

    def sweep(self) -> None:
        self.intake.sweep(0.0)

    def crash(self) -> None:
        """kill -9"""
        self.world.in_hands_of_the_dead += sum(len(_calls(stored)) for stored in self.tags.values())
        self.start()

    def lose_channel(self) -> None:
        """The broker closes the channel: the agent goes on with what it has."""
        self.world.in_hands_of_the_dead += sum(len(_calls(stored)) for stored in self.tags.values())
        self.reopen()


class World:
    """A client, a queue, two agents, and the outcomes."""

    def __init__(self, seed: int) -> None:
        self.chance, self.faults = random.Random(seed), True
        self.queue: deque[Stored] = deque()
        self.outcomes: dict[bytes, int] = {}
        self.runs: Counter[bytes] = Counter()
        self.in_hands_of_the_dead = self.sent_twice = 0
        self.accepted: set[bytes] = set()
        self.lane = Lane(Way(cast(Any, _Info)))
        self.window = Window(messages=4)
        self.on_the_wire: deque[tuple[int, Entry]] = deque()
        self.unsent: deque[Entry] = deque()
        self.entries: dict[Entry, list[bytes]] = {}
        self.agents: list[SimulatedAgent] = []
        self.agents += [SimulatedAgent(self) for _ in range(2)]

    # the client

    def submit(self) -> None:
        for _ in range(self.chance.randint(1, 30)):
            call = Call(self.chance.randbytes(16), b"", b"d" * 16)
            self.lane.waiting.append(Item(cast(Any, None), call, cast(Any, None), float("inf")))

    def send(self) -> None:
        """As the sender and its channel do: a message of what has gathered, where the window has room."""
        if not self.unsent and self.lane.ready:
            items = self.lane.take()
            self.lane.unconfirmed += 1
            calls = tuple(item.call for item in items)
            message = Message(WIRE_VERSION, self.chance.randbytes(16), "me", S, 1, calls)
            entry = Entry(Publication(QUEUE.exchange, QUEUE.key, messages.encode(message), message.batch.hex()))
            self.entries[entry] = [call.id for call in calls]
            self.unsent.append(entry)
        if self.unsent and self.window.has_room() and self.unsent[0].may_be_sent():
            self.on_the_wire.append((self.window.next_tag(), self.unsent[0]))
            self.window.add(self.unsent.popleft())

    def arrive(self) -> None:
        """The broker stores a message, and confirms all up to it, or later."""
        if self.on_the_wire:
            tag, entry = self.on_the_wire.popleft()
            self.queue.append(Stored(entry.publication.body))
            self.unconfirmed_tag = tag
            if self.chance.random() < 0.7:
                self.confirm(tag)

    def confirm(self, tag: int) -> None:
        for entry in self.window.take(tag, multiple=True):
            entry.resolve(None)
            self.accepted.update(self.entries.pop(entry))
            self.lane.unconfirmed -= 1

    def cut(self) -> None:
        """The client's connection breaks: what is not confirmed goes again, though the broker may have it."""
        self.on_the_wire.clear()
        again = self.window.restart()
        self.sent_twice += sum(len(self.entries[entry]) for entry in again)
        self.unsent.extendleft(reversed(again))

    # the broker

    def take_back(self, agent: SimulatedAgent) -> None:
        for stored in reversed(getattr(agent, "tags", {}).values()):
            stored.count += 1
            self.queue.appendleft(stored)

    def forget(self, stored: Stored) -> None:
        undecided = [call for call in _calls(stored) if call.id not in self.outcomes and call.id not in self.passed_on]
        assert not undecided, "a delivery was acked before its members were settled"

    @property
    def passed_on(self) -> set[bytes]:
        return {call.id for stored in self.held for call in _calls(stored)}

    @property
    def held(self) -> list[Stored]:
        return [*self.queue, *(stored for agent in self.agents for stored in agent.tags.values())]

    def publish_again(self, lot: Lot, index: int) -> None:
        call = lot.call(index)
        fresh = Message(WIRE_VERSION, self.chance.randbytes(16), "me", S, 1, (_next(call),))
        self.queue.append(Stored(messages.encode(fresh)))

    # all together

    def turn(self) -> None:
        agent = self.chance.choice(self.agents)
        turns: list[tuple[Callable[[], None], int]] = [
            (self.submit, 6), (self.send, 20), (self.arrive, 16), (self.cut, 1),
            (agent.receive, 20), (agent.hand_out, 20), (agent.work, 20), (agent.commit, 12), (agent.ack, 12),
            (agent.sweep, 3), (agent.lose_worker, 1), (agent.lose_channel, 1), (agent.crash, 1),
        ]  # fmt: skip
        self.chance.choices([do for do, _ in turns], [weight for _, weight in turns])[0]()

    def drain(self) -> None:
        """No more faults: everything comes to rest."""
        self.faults = False
        for _ in range(3_000):
            self.send()
            self.arrive()
            if self.window and not self.on_the_wire:
                self.confirm(self.unconfirmed_tag)
            for agent in self.agents:
                for do in (agent.receive, agent.hand_out, agent.work, agent.commit, agent.ack, agent.sweep):
                    do()
            lots = [lot for agent in self.agents for lot in agent.intake.lots.values()]
            if not (self.lane.waiting or self.unsent or self.window or self.held or lots):
                return
        raise AssertionError(f"stuck: {len(self.window)} unconfirmed, {len(self.held)} held, {len(lots)} in hand")


class _Info:
    """As much of a socket as a lane looks at."""

    signature = None
    name = "p.task"
    processor, commit, task = "p", "0" * 40, "task"
    ordered = False


def _calls(stored: Stored) -> tuple[Call, ...]:
    return messages.decode_message(stored.body).calls


def _next(call: Call) -> Call:
    return Call(call.id, call.args, call.digest, call.serial + 1)


def run(seed: int) -> None:
    world = World(seed)
    for _ in range(TURNS):
        world.turn()
    world.drain()
    assert world.accepted == world.outcomes.keys() == world.runs.keys()
    repeats = sum(world.runs.values()) - len(world.runs)
    assert repeats <= world.in_hands_of_the_dead + world.sent_twice, "more was repeated than was in hands"


def test_every_accepted_call_is_decided_once_and_nothing_is_stuck() -> None:
    for seed in range(SCHEDULES):
        try:
            run(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error


def across_a_gap(patch: pytest.MonkeyPatch) -> None:
    def due(self: AckLedger) -> list[Ack]:
        settled, self._settled = self._settled, []
        return [Ack(max(settled), True)] if settled else []

    patch.setattr(AckLedger, "due", due)


def on_another_channel(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Delivered, "ack", lambda self: self.agent.ledger.settle(self.tag))


def window_forgotten(patch: pytest.MonkeyPatch) -> None:
    right = Window.restart
    patch.setattr(Window, "restart", lambda self: right(self)[1:])


def dead_workers_unit_lost(patch: pytest.MonkeyPatch) -> None:
    right = Dispatcher.remove_worker

    def remove(self: Dispatcher, worker: int, running: tuple[int, int] | None) -> tuple[int, int] | None:
        units = self._workers[worker].units
        self._workers[worker].units = dict(list(units.items())[:1])
        return right(self, worker, running)

    patch.setattr(Dispatcher, "remove_worker", remove)


def copy_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lot, "adopt", lambda self, delivery: setattr(self, "delivery", delivery))


@pytest.mark.parametrize(
    "bug", [across_a_gap, on_another_channel, window_forgotten, dead_workers_unit_lost, copy_forgotten]
)
def test_a_planted_bug_is_found(bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)

    with pytest.raises((AssertionError, KeyError)):
        for seed in range(SCHEDULES):
            run(seed)
