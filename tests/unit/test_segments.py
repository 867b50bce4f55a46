"""Chains of calls along pipes, joined from what workers report in any order."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from pyfi_hpc.agent.lots import Finished, Lot, Served, Undelivered
from pyfi_hpc.agent.pipes.segments import (
    MOST_CALLS,
    MOST_SECONDS,
    PATIENCE_SECONDS,
    Forgone,
    Late,
    News,
    Peer,
    Segment,
    Segments,
    Standing,
)
from pyfi_hpc.wire.frames import Item, Link
from pyfi_hpc.wire.ids import child_id
from pyfi_hpc.wire.messages import WIRE_VERSION, Call, ErrorRecord, Message, Route

Passed = tuple[tuple[bytes, int], ...]


def ident(name: str) -> bytes:
    return name.encode().ljust(16, b".")


def socket(name: str, *targets: str) -> Served:
    """The socket `name` of the processor `p-<name>`, with a plug to each of `targets`."""
    routes = tuple(
        Route(ident(f"{name}{to}"), f"{name}>{to}".encode(), ident(to), 1, f"q.net.{to}", to) for to in targets
    )
    return Served(
        ident(name), name, "ann", ident(f"p-{name}"), name, f"queue.{name}", f"q.net.{name}", name, 1, None, 3, 1.0,
        routes,
    )  # fmt: skip


#: a flows to b and to d, b to c, c back to b
FLOW = {each.id: each for each in (socket("a", "b", "d"), socket("b", "c"), socket("c", "b"), socket("d"))}
A, B = FLOW[ident("a")], FLOW[ident("b")]


def lot(token: int, count: int = 1) -> Lot:
    calls = tuple(Call(ident(f"call{token}-{index}"), b"", b"d") for index in range(count))
    return Lot(
        token, Undelivered(), Message(WIRE_VERSION, ident("batch"), "ann", A.id, 1, calls), A, A.processor, False
    )


def item(value: bytes, *passed: tuple[bytes, int], index: int = 0) -> Item:
    return Item(index, value, None, 1.0, 2.0, passed=passed)


def failed() -> Item:
    return Item(0, None, ErrorRecord("builtins.ValueError", "no"), 1.0, 2.0)


def segments(*, in_hand: bool = True) -> Segments:
    """With workers 1 of a, 2 of b, 3 of c and 4 of d."""
    core = Segments(lambda token, index: in_hand, FLOW.get)
    for number, name in enumerate("abcd", start=1):
        core.join(number, Peer(ident(f"p-{name}"), ident(f"row{number}")))
    return core


def head(core: Segments, *passed: tuple[bytes, int], now: float = 0.0, of: Lot | None = None) -> Segment | None:
    return core.head(Finished(of or lot(7), 0, item(b"a", *passed), ident("row1")), now)


def answer(of: bytes, *edges: bytes, value: bytes = b"v", passed: Passed = (), token: int = 7) -> Link:
    """What came of the call that follows from the call `of` along these edges."""
    for edge in edges:
        of = child_id(of, edge)
    return Link(token, 0, of, item(value, *passed))


HEAD = lot(7).call(0).id


def waits(number: int, identity: bytes) -> Standing:
    return Standing.WAITS


def names(closed: News | None) -> list[str]:
    assert isinstance(closed, Segment)
    return [hop.socket.name for hop in closed.hops]


def test_a_segment_is_closed_with_its_last_call() -> None:
    core = segments()

    assert head(core, (b"a>b", 2)) is None
    assert core.link(2, answer(HEAD, b"a>b", passed=((b"b>c", 3),)), 0.0) is None
    closed = core.link(3, answer(HEAD, b"a>b", b"b>c"), 0.0)

    assert names(closed) == ["b", "c"]
    assert isinstance(closed, Segment) and [hop.parent for hop in closed.hops] == [0, 1]
    assert [hop.worker for hop in closed.hops] == [ident("row2"), ident("row3")]
    assert core.empty


def test_answers_may_come_before_what_they_follow_from() -> None:
    core = segments()

    assert core.link(3, answer(HEAD, b"a>b", b"b>c"), 0.0) is None
    assert core.link(2, answer(HEAD, b"a>b", passed=((b"b>c", 3),)), 0.0) is None

    assert names(head(core, (b"a>b", 2))) == ["b", "c"]
    assert core.empty


def test_an_edge_that_used_no_pipe_is_left_to_the_broker() -> None:
    core = segments()
    head(core, (b"a>b", 2))

    assert names(core.link(2, answer(HEAD, b"a>b"), 0.0)) == ["b"]


def test_an_answer_for_a_head_that_nobody_runs_is_dropped() -> None:
    core = segments(in_hand=False)

    assert core.link(2, answer(HEAD, b"a>b"), 0.0) is None

    assert core.empty


def test_an_answer_from_another_worker_than_the_one_that_was_passed_the_call_is_not_taken() -> None:
    core = segments()
    core.join(5, Peer(ident("p-b"), ident("row5")))
    core.link(5, answer(HEAD, b"a>b", value=b"early"), 0.0)
    head(core, (b"a>b", 2))
    core.link(5, answer(HEAD, b"a>b", value=b"late"), 0.0)

    closed = core.link(2, answer(HEAD, b"a>b", value=b"right"), 0.0)

    assert isinstance(closed, Segment) and [hop.item.value for hop in closed.hops] == [b"right"]


def test_a_hop_is_far_where_it_ran_on_another_node_than_what_it_follows_from() -> None:
    core = segments()
    core.join(-1, Peer(ident("p-b"), ident("row-1"), 77))
    core.join(-2, Peer(ident("p-c"), ident("row-2"), 77))
    head(core, (b"a>b", -1))
    core.link(-1, answer(HEAD, b"a>b", passed=((b"b>c", -2),)), 0.0)

    closed = core.link(-2, answer(HEAD, b"a>b", b"b>c"), 0.0)

    assert isinstance(closed, Segment) and [hop.far for hop in closed.hops] == [True, False]


def test_what_another_node_has_when_it_is_lost_is_left_to_the_broker_and_its_late_answer_is_dropped() -> None:
    core = segments()
    core.join(-1, Peer(ident("p-b"), ident("row-1"), 77))
    head(core, (b"a>b", -1))

    (closed,) = core.died(-1, 0.0)

    assert names(closed) == []
    core.join(-2, Peer(ident("p-b"), ident("row-1"), 77))
    assert core.link(-2, answer(HEAD, b"a>b"), 0.0) is None


@pytest.mark.parametrize("to", [3, 9], ids=["of another processor", "unknown"])
def test_what_was_passed_to_a_wrong_worker_is_left_to_the_broker(to: int) -> None:
    core = segments()

    assert names(head(core, (b"a>b", to))) == []


def test_an_edge_that_is_no_plug_is_no_business_of_ours() -> None:
    core = segments()

    assert names(head(core, (b"a>x", 2))) == []


def test_an_edge_is_followed_once_however_often_it_is_named() -> None:
    core = segments()
    core.link(2, answer(HEAD, b"a>b"), 0.0)

    assert names(head(core, (b"a>b", 2), (b"a>b", 2))) == ["b"]


def test_nothing_follows_from_a_failure_whatever_its_worker_says() -> None:
    core = segments()
    error = failed().error

    assert names(core.head(Finished(lot(7), 0, Item(0, None, error, 1.0, 2.0, passed=((b"a>b", 2),)), None), 0.0)) == []


def test_a_leased_call_is_answered_by_the_worker_that_has_it() -> None:
    core = segments()
    core.join(5, Peer(ident("p-b"), ident("row5")))
    head(core, (b"a>b", 2))
    core.overdue(MOST_SECONDS, waits)

    assert core.link(5, answer(HEAD, b"a>b"), 2.0) is None
    assert isinstance(core.link(2, answer(HEAD, b"a>b"), 2.0), Late)


def test_a_failed_call_ends_its_branch() -> None:
    core = segments()
    head(core, (b"a>b", 2), (b"a>d", 4))
    core.link(2, Link(7, 0, child_id(HEAD, b"a>b"), failed()), 0.0)

    assert names(core.link(4, answer(HEAD, b"a>d"), 0.0)) == ["b", "d"]


def test_calls_of_a_dead_worker_are_cut_and_what_precedes_them_is_closed() -> None:
    core = segments()
    head(core, (b"a>b", 2))
    core.link(2, answer(HEAD, b"a>b", passed=((b"b>c", 3),)), 0.0)

    (closed,) = core.died(3, 0.0)

    assert names(closed) == ["b"] and isinstance(closed, Segment) and not closed.pending
    assert core.link(3, answer(HEAD, b"a>b", b"b>c"), 0.0) is None


def test_an_answer_counts_where_its_worker_died_after_it() -> None:
    core = segments()
    core.link(2, answer(HEAD, b"a>b"), 0.0)
    core.died(2, 0.0)

    assert names(head(core, (b"a>b", 2))) == ["b"]


def test_what_is_passed_to_a_worker_that_is_dead_already_is_left_to_the_broker() -> None:
    core = segments()
    core.died(2, 0.0)

    assert names(head(core, (b"a>b", 2))) == []


def test_an_old_segment_is_closed_and_what_a_worker_still_has_is_leased() -> None:
    core = segments()
    head(core, (b"a>b", 2), now=5.0)
    assert core.overdue(5.0 + MOST_SECONDS / 2, waits) == []

    (closed,) = core.overdue(5.0 + MOST_SECONDS, waits)

    assert isinstance(closed, Segment)
    (pending,) = closed.pending
    assert pending.lot.call(0).id == child_id(HEAD, b"a>b")
    assert core.socket_of(7, 0, child_id(HEAD, b"a>b")) is B
    late = core.link(2, answer(HEAD, b"a>b", value=b"late", passed=((b"b>c", 3),)), 6.0)
    assert isinstance(late, Late)
    assert (late.done.lot, late.done.item.value, late.done.item.passed) == (pending.lot, b"late", ())
    assert core.empty


def test_what_no_worker_took_is_cut() -> None:
    core = segments()
    head(core, (b"a>b", 2), (b"a>d", 4))

    assert core.untaken(7, 0, child_id(HEAD, b"a>b"), 0.0) is None
    assert names(core.link(4, answer(HEAD, b"a>d"), 0.0)) == ["d"]


def test_that_a_call_was_not_taken_may_be_told_before_its_parent_is_finished() -> None:
    core = segments()
    core.untaken(7, 0, child_id(HEAD, b"a>b"), 0.0)

    assert names(head(core, (b"a>b", 2))) == []
    assert core.empty


def test_a_call_that_ran_was_taken_whatever_else_is_said_of_it() -> None:
    core = segments()
    core.link(2, answer(HEAD, b"a>b"), 0.0)
    core.untaken(7, 0, child_id(HEAD, b"a>b"), 0.0)

    assert names(head(core, (b"a>b", 2))) == ["b"]


def test_a_leased_call_that_was_not_taken_goes_to_somebody_else() -> None:
    core = segments()
    head(core, (b"a>b", 2))
    core.overdue(MOST_SECONDS, waits)

    assert isinstance(core.untaken(7, 0, child_id(HEAD, b"a>b"), 2.0), Forgone)
    assert core.empty


def test_what_a_stopped_worker_has_is_cut() -> None:
    core = segments()
    head(core, (b"a>b", 2))

    (closed,) = core.overdue(MOST_SECONDS, lambda number, identity: Standing.STALLED)

    assert isinstance(closed, Segment) and not closed.pending
    assert core.empty


def test_a_leased_call_that_nobody_begins_goes_to_somebody_else() -> None:
    core = segments()
    head(core, (b"a>b", 2))
    core.overdue(MOST_SECONDS, waits)
    late = MOST_SECONDS + PATIENCE_SECONDS + 0.1
    assert core.overdue(late, lambda number, identity: Standing.RUNS) == []

    (given_up,) = core.overdue(late, waits)

    assert isinstance(given_up, Forgone)
    assert core.link(2, answer(HEAD, b"a>b"), late) is None


def test_leased_calls_of_a_dead_worker_go_to_somebody_else() -> None:
    core = segments()
    head(core, (b"a>b", 2))
    core.overdue(MOST_SECONDS, waits)

    assert [type(each) for each in core.died(2, 2.0)] == [Forgone]
    assert core.empty


def test_of_two_copies_of_a_message_one_leases_a_call() -> None:
    core, twin = segments(), lot(8)
    twin.message = lot(7).message
    head(core, (b"a>b", 2))
    head(core, (b"a>b", 2), of=twin)

    first, second = core.overdue(MOST_SECONDS, waits)

    assert isinstance(first, Segment) and isinstance(second, Segment)
    assert (len(first.pending), len(second.pending)) == (1, 0)
    assert core.link(2, answer(HEAD, b"a>b", token=8), 2.0) is None
    assert isinstance(core.link(2, answer(HEAD, b"a>b"), 2.0), Late)


def test_a_loop_of_plugs_does_not_keep_a_segment_open_for_ever() -> None:
    core, at, turns = segments(), child_id(HEAD, b"a>b"), 0
    head(core, (b"a>b", 2))
    closed: News | None = None
    while closed is None:
        number, edge, to = (2, b"b>c", 3) if turns % 2 == 0 else (3, b"c>b", 2)
        closed = core.link(number, Link(7, 0, at, item(b"v", (edge, to))), 0.0)
        at, turns = child_id(at, edge), turns + 1

    assert turns == MOST_CALLS
    assert isinstance(closed, Segment) and len(closed.pending) == 1


def test_a_delivery_that_grows_old_closes_its_segments() -> None:
    core = segments()
    head(core, (b"a>b", 2))

    assert core.hurry([6], 0.0) == []
    assert len(core.hurry([7], 0.0)) == 1


def test_a_worker_has_what_was_passed_to_it_until_it_answers() -> None:
    core = segments()
    head(core, (b"a>b", 2))
    assert (core.has(2), core.has(3)) == (True, False)
    assert list(core.calls()) == [("ann", child_id(HEAD, b"a>b"))]

    core.link(2, answer(HEAD, b"a>b"), 0.0)

    assert not core.has(2)


# thousands of schedules


@dataclass
class _Worker:
    number: int
    socket: Served
    #: calls in its hands: (token, index, id, input, whether it is a head that may be passed on)
    todo: deque[tuple[int, int, bytes, bytes, bool | None]] = field(default_factory=deque)
    #: done, but not sent yet: dies with it
    outbox: list[tuple[bool, Link]] = field(default_factory=list)
    #: sent: read even after its death
    sent: deque[tuple[bool, Link]] = field(default_factory=deque)
    stopped: bool = False
    dead: bool = False


class _World:
    """An agent and its workers, one random step at a time. A value says of which inputs it came."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now, self.runs, self.next_number = 0.0, 0, 1
        self.core = Segments(self.in_hand, FLOW.get)
        self.workers: dict[int, _Worker] = {}
        self.lots = [lot(token, self.random.randint(1, 4)) for token in range(1, self.random.randint(2, 5))]
        #: heads that a worker has, and may pass on
        self.passing: set[tuple[int, int]] = set()
        self.waiting = [(each.token, index, True) for each in self.lots for index in range(len(each.message.calls))]
        self.closed: dict[tuple[int, int], Segment] = {}
        self.leased: dict[int, str] = {}
        self.untaken: list[tuple[int, int, bytes]] = []
        for name in "aabbccdd":
            self.start(name)

    def in_hand(self, token: int, index: int) -> bool:
        return (token, index) in self.passing

    def start(self, name: str) -> None:
        worker = _Worker(self.next_number, FLOW[ident(name)])
        self.workers[worker.number] = worker
        self.core.join(worker.number, Peer(worker.socket.processor, ident(f"row{worker.number}")))
        self.next_number += 1

    def alive(self, processor: bytes | None = None) -> list[_Worker]:
        return [w for w in self.workers.values() if not w.dead and processor in (None, w.socket.processor)]

    def step(self) -> None:
        do = self.random.choices(
            [
                self.hand_out,
                self.run,
                self.flush,
                self.hear,
                self.tick,
                self.kill,
                self.stop,
                self.lie,
                self.hurry,
                self.not_taken,
            ],
            [10, 30, 15, 30, 6, 1, 1, 2, 0.3, 3],
        )[0]
        do()

    def hand_out(self) -> None:
        if self.waiting:
            token, index, may_pass = self.waiting.pop(self.random.randrange(len(self.waiting)))
            worker = self.random.choice(self.alive(A.processor))
            if may_pass:
                self.passing.add((token, index))
            call = self.lots[token - 1].call(index)
            worker.todo.append((token, index, call.id, b"in", may_pass))

    def run(self) -> None:
        worker = self.random.choice(self.alive())
        if not worker.todo or worker.stopped:
            return
        token, index, identity, given, as_head = worker.todo.popleft()
        self.runs += 1
        value = b"%d(%s)" % (self.runs, given[-200:])
        if self.random.random() < 0.1:
            worker.outbox.append((as_head is not None, Link(token, index, identity, failed())))
            return
        passed = []
        for route in worker.socket.routes:
            peers = [w for w in self.workers.values() if w.socket.id == route.socket]
            if as_head is not False and self.random.random() < 0.7:
                peer = self.random.choice(peers)
                passed.append((route.edge, peer.number))
                child = child_id(identity, route.edge)
                lost = self.random.random() < 0.05
                if lost:
                    # told before or after the parent itself, and it may run all the same
                    self.untaken.append((token, index, child))
                if not peer.dead and (not lost or self.random.random() < 0.5):
                    peer.todo.append((token, index, child, value, None))
        done = Item(index, value, None, 1.0, 2.0, passed=tuple(passed))
        worker.outbox.append((as_head is not None, Link(token, index, identity, done)))

    def flush(self) -> None:
        worker = self.random.choice(self.alive())
        worker.sent.extend(worker.outbox)
        worker.outbox.clear()

    def hear(self, worker: _Worker | None = None) -> None:
        worker = worker or self.random.choice(self.alive())
        if not worker.sent:
            return
        is_head, report = worker.sent.popleft()
        if not is_head:
            self.note(self.core.link(worker.number, report, self.now))
            return
        lot = self.lots[report.token - 1]
        key = report.token, report.index
        done = Finished(lot, report.index, report.item, ident("row"))
        if key in self.passing and report.item.passed:
            self.passing.discard(key)
            self.note(self.core.head(done, self.now))
        else:
            self.passing.discard(key)
            self.note(Segment(done, ()))

    def tick(self) -> None:
        self.now += self.random.choice([0.05, 0.3, 1.1, 4.0])
        for news in self.core.overdue(self.now, self.standing):
            self.note(news)
        self.core.sweep()

    def standing(self, number: int, identity: bytes) -> Standing:
        if self.workers[number].stopped:
            return Standing.STALLED
        return self.random.choice([Standing.WAITS, Standing.RUNS])

    def kill(self) -> None:
        worker = self.random.choice(self.alive())
        self.bury(worker)
        self.start(worker.socket.name)

    def bury(self, worker: _Worker) -> None:
        while worker.sent:
            self.hear(worker)
        worker.dead = True
        reported = [(token, index) for token, index, _, _, as_head in worker.todo if as_head is not None]
        reported += [(link.token, link.index) for is_head, link in worker.outbox if is_head]
        for key in reported:
            self.passing.discard(key)
            self.waiting.append((*key, False))
        running = worker.todo[0] if worker.todo else None
        if running is not None and running[4] is None and self.random.random() < 0.5:
            # it died of the call that it ran
            blamed = Link(running[0], running[1], running[2], failed())
            self.note(self.core.link(worker.number, blamed, self.now))
        for news in self.core.died(worker.number, self.now):
            self.note(news)

    def stop(self) -> None:
        worker = self.random.choice(self.alive())
        worker.stopped = not worker.stopped

    def lie(self) -> None:
        """A report comes twice, or from a worker that was never asked."""
        worker = self.random.choice(self.alive())
        calls = [report for is_head, report in worker.sent if not is_head]
        if calls:
            report = self.random.choice(calls)
            other = worker if self.random.random() < 0.5 else self.random.choice(self.alive())
            if other is not worker:
                report = Link(report.token, report.index, report.id, item(b"a lie"))
            self.note(self.core.link(other.number, report, self.now))

    def not_taken(self) -> None:
        if self.untaken:
            self.note(self.core.untaken(*self.untaken.pop(), self.now))

    def hurry(self) -> None:
        for closed in self.core.hurry([self.random.choice(self.lots).token], self.now):
            self.note(closed)

    # what must hold

    def note(self, news: News | None) -> None:
        if isinstance(news, Segment):
            self.note_segment(news)
        elif news is not None:
            given = news.done.lot if isinstance(news, Late) else news.lot
            assert self.leased[id(given)] == "out", "a leased call ended twice"
            self.leased[id(given)] = "ended"
            self.lots.append(given)  # so that its id() stays its own

    def note_segment(self, segment: Segment) -> None:
        key = segment.head.lot.token, segment.head.index
        assert key not in self.closed, "a head was closed twice"
        self.closed[key] = segment
        followed = set()
        values = [(segment.head.item.value, segment.head.lot.call(segment.head.index).id, segment.head.lot.socket)]
        for number, hop in enumerate(segment.hops, start=1):
            assert hop.parent < number, "a child came before its parent"
            value, parent, of = values[hop.parent]
            assert hop.route in of.routes and hop.socket.id == hop.route.socket
            assert hop.id == child_id(parent, hop.route.edge)
            assert (hop.parent, hop.route) not in followed, "a route was followed twice"
            followed.add((hop.parent, hop.route))
            assert value is not None, "something follows from a failure"
            if hop.item.value is not None:
                assert hop.item.value.endswith(b"(%s)" % value[-200:]), (
                    "a child has seen another value than its parent's"
                )
            values.append((hop.item.value, hop.id, hop.socket))
        for pending in segment.pending:
            value, parent, of = values[pending.parent]
            assert value is not None and pending.route in of.routes
            assert (pending.parent, pending.route) not in followed, "a route was followed, and leased"
            followed.add((pending.parent, pending.route))
            self.leased[id(pending.lot)] = "out"

    def settle(self) -> None:
        """Nothing fails any more: everything must come to its end."""
        for worker in self.alive():
            worker.stopped = False
        for _ in range(10_000):
            if not self.waiting and not any(w.todo or w.outbox or w.sent for w in self.alive()):
                break
            self.random.choice([self.hand_out, self.run, self.flush, self.hear])()
        for _ in range(3):
            self.now += PATIENCE_SECONDS + MOST_SECONDS
            for news in self.core.overdue(self.now, lambda number, identity: Standing.WAITS):
                self.note(news)
        self.core.sweep()
        heads = {(each.token, index) for each in self.lots if each.token for index in range(len(each.message.calls))}
        assert self.closed.keys() == heads, "a head was never closed"
        assert set(self.leased.values()) <= {"ended"}, "a leased call never ended"
        assert self.core.empty, "something is kept for ever"


@pytest.mark.parametrize("block", range(8))
def test_whatever_order_things_happen_in_each_head_is_closed_once_and_each_route_goes_one_way(block: int) -> None:
    for seed in range(block * 250, (block + 1) * 250):
        world = _World(seed)
        try:
            for _ in range(world.random.randint(50, 400)):
                world.step()
            world.settle()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
