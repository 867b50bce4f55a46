"""Thousands of schedules of one sender and one receiver, whose connection drops, repeats and breaks, and who restart.

What must hold, whatever happens: a call is given to a receiver's life at most once; a call of which the sender is not
told that it was not taken, was taken; no more is on its way than the window allows; and the window is whole again once
all is quiet. A schedule that fails says its seed: `run(seed)` repeats it.
"""

from __future__ import annotations

import random
from collections import deque

import pytest

from pyfi_hpc.errors import BadInput
from pyfi_hpc.pipes.protocol import Bye, Credit, Data, FromReceiver, FromSender, Hello, Passed, Prove, Welcome
from pyfi_hpc.pipes.receiving import Receiving, size_of
from pyfi_hpc.pipes.sending import Key, Sending
from pyfi_hpc.pipes.spill import Spill, roomiest

SECRET = b"s" * 32
ITEMS, BYTES = 8, 100


class World:
    """Both ends, what is between them, and what a bystander would know."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.made, self.spilled = 0, 0
        self.queue: deque[tuple[Receiving, Passed]] = deque()
        self.life = 0
        self.taken: set[tuple[int, Key]] = set()
        #: calls that may still turn out well, and those of which the sender said that nobody is known to have them
        self.passed: set[Key] = set()
        self.lost: set[Key] = set()
        self.edge = Spill()
        self.connect()

    def connect(self) -> None:
        """A fresh connection between two fresh ends."""
        self.sending = Sending(SECRET, self.chance.randbytes(32))
        self.receiving = Receiving(SECRET, self.chance.randbytes(32), ITEMS, BYTES)
        self.there: deque[FromSender] = deque([self.sending.hello(1, None)])
        self.back: deque[FromReceiver] = deque()

    # what may happen

    def pass_on(self) -> None:
        size = self.chance.randint(1, 30)
        windows = [self.sending.window] if self.sending.welcome else []
        if self.edge.look(windows) or roomiest(windows, size) is None:
            self.edge.begin()
            self.spilled += 1
            return
        self.made += 1
        call = Passed(1, self.made, 1, self.made.to_bytes(16, "big"), bytes(size))
        self.sending.add(b"o" * 16, self.chance.choice(("a", "b")), call, size)
        self.passed.add((call.token, call.index, call.id))

    def send(self) -> None:
        self.there.extend(self.sending.messages())

    def arrive(self) -> None:
        if not self.there:
            return
        frame = self.there.popleft()
        try:
            if isinstance(frame, Hello):
                self.back.append(self.receiving.greeted(frame, shares=False))
            elif isinstance(frame, Prove):
                self.receiving.proved(frame)
            elif isinstance(frame, Data):
                self.take(self.receiving.arrived(frame))
        except BadInput as error:
            assert error.code == "E_PIPE_PROTOCOL"
            # it forgets the sender; what it took it has
            self.back.append(Bye(error.code))
            self.receiving = Receiving(SECRET, self.chance.randbytes(32), ITEMS, BYTES)

    def take(self, calls: tuple[Passed, ...]) -> None:
        for call in calls:
            key = (self.life, (call.token, call.index, call.id))
            assert key not in self.taken, "given twice"
            self.taken.add(key)
        self.queue.extend((self.receiving, call) for call in calls)
        waiting = [size_of(call) for receiving, call in self.queue if receiving is self.receiving]
        assert len(waiting) <= ITEMS and sum(waiting) <= BYTES, "more than the window"

    def finish(self) -> None:
        if self.queue:
            receiving, call = self.queue.popleft()
            receiving.finished(size_of(call))

    def credit(self) -> None:
        if self.receiving.owes if self.chance.random() < 0.3 else self.receiving.owes_much:
            self.back.append(self.receiving.credit())

    def hear(self) -> None:
        if not self.back:
            return
        frame = self.back.popleft()
        try:
            if isinstance(frame, Welcome):
                self.there.append(self.sending.welcomed(frame))
            elif isinstance(frame, Credit):
                self.sending.credited(frame)
            else:
                self.broken()
        except BadInput as error:
            assert error.code == "E_PIPE_PROTOCOL"
            self.broken()

    # what goes wrong

    def repeat(self) -> None:
        """The connection says something again: never seen of ZeroMQ, and no harm if it were."""
        between = self.chance.choice((self.there, self.back))
        if between:
            between.insert(self.chance.randrange(len(between) + 1), self.chance.choice(between))  # type: ignore[arg-type]

    def drop(self) -> None:
        """Something in the middle is gone, and what follows it comes."""
        between = self.chance.choice((self.there, self.back))
        if between:
            del between[self.chance.randrange(len(between))]

    def broken(self) -> None:
        """The connection is gone with all that was on its way; both ends see it, and meet again."""
        self.lost.update(self.sending.close())
        self.connect()

    def receiver_restarts(self) -> None:
        self.life += 1
        self.queue.clear()
        self.broken()

    def sender_restarts(self) -> None:
        """Its agent sees it die: whatever it had not told is as lost as what it told."""
        self.lost.update(self.passed)
        self.broken()

    # the account

    def settle(self) -> None:
        """All is quiet: everything arrives, is run and is credited."""
        for _ in range(10 * ITEMS):
            self.send()
            while self.there or self.back:
                self.arrive()
                self.hear()
            while self.queue:
                self.finish()
            if self.receiving.owes:
                self.back.append(self.receiving.credit())
            elif not self.there and not self.back and not self.sending.gathering:
                return
        raise AssertionError("it never comes to rest")

    def account(self, *, faithful: bool) -> None:
        if not faithful:
            # where a connection loses the last thing said, that shows when it ends
            self.lost.update(self.sending.close())
        taken = {key for _, key in self.taken}
        assert self.passed - self.lost <= taken, "gone, and nobody was told"
        if faithful:
            assert not self.sending.untaken
            assert (self.sending.window.items_left, self.sending.window.size_left) == (ITEMS, BYTES), "credit is lost"


STEPS = ("pass_on",) * 8 + ("send", "arrive", "arrive", "finish", "credit", "hear", "hear") * 2
BREAKS = ("broken", "receiver_restarts", "sender_restarts")
LIES = ("repeat", "drop")


def run(seed: int, faults: tuple[str, ...] = BREAKS + LIES) -> World:
    """One schedule."""
    world = World(seed)
    for _ in range(120):
        fault = faults and world.chance.random() < 0.02
        getattr(world, world.chance.choice(faults if fault else STEPS))()
    world.settle()
    world.account(faithful=not set(faults) & set(LIES))
    return world


@pytest.mark.parametrize("faults", [(), BREAKS, BREAKS + LIES], ids=["none", "breaks", "breaks and lies"])
def test_no_call_is_given_twice_or_lost_unnoticed(faults: tuple[str, ...]) -> None:
    passed = lost = spilled = 0
    for seed in range(1_500):
        try:
            world = run(seed, faults)
        except BaseException as error:
            raise AssertionError(f"seed {seed} with {faults}: {error!r}") from error
        passed, lost, spilled = passed + len(world.passed), lost + len(world.lost), spilled + world.spilled
    # the schedules are worth something: much goes through, some spills, some is lost where something breaks
    assert passed > 10_000 and spilled > 10_000
    assert bool(lost) == bool(faults)


def _forgets_what_it_gathered(sending: Sending) -> list[Key]:
    sending._gathered.clear()
    return CLOSE(sending)


def _takes_all(receiving: Receiving, frame: Data) -> tuple[Passed, ...]:
    receiving._taken = frame.seq - 1
    return ARRIVED(receiving, frame)


def _credits_twice(receiving: Receiving, size: int) -> None:
    receiving._items += 1
    FINISHED(receiving, size)


CLOSE, ARRIVED, FINISHED = Sending.close, Receiving.arrived, Receiving.finished


@pytest.mark.parametrize(
    "owner, name, bug",
    [
        (Sending, "close", _forgets_what_it_gathered),
        (Receiving, "arrived", _takes_all),
        (Receiving, "finished", _credits_twice),
    ],
)
def test_the_schedules_find_a_planted_bug(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, bug: object) -> None:
    monkeypatch.setattr(owner, name, bug)
    with pytest.raises((AssertionError, BadInput)):
        for seed in range(300):
            run(seed)
