"""What other threads bring to an agent's loop: who does it, in which order, and when the loop is woken for it."""

from __future__ import annotations

import select
import threading
from typing import Any

import pytest

from pyfi_hpc.agent.inbox import Inbox


def rings(inbox: Inbox, seconds: float = 0.0) -> bool:
    return bool(select.select([inbox.bell], [], [], seconds)[0])


class Loop:
    """Notes what is taken in and handed out, and by whom."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.handed: list[int] = []
        self.inbox = Inbox(lambda processor, delivery: self.taken.append((processor, delivery)), self.hand_out)

    def hand_out(self) -> None:
        self.handed.append(threading.get_ident())

    def deliver(self, *names: str) -> None:
        for name in names:
            self.inbox.deliver(b"p", name)  # type: ignore[arg-type]
        self.inbox.all_here()

    def turn(self) -> None:
        self.inbox.heard()
        self.inbox.do_posted()


def test_all_that_is_posted_rings_once_and_is_done_in_order() -> None:
    loop, done = Loop(), list[int]()

    for number in range(3):
        loop.inbox.post(lambda number=number: done.append(number))  # type: ignore[misc]

    assert rings(loop.inbox)
    loop.turn()
    assert done == [0, 1, 2]
    assert not rings(loop.inbox)


def test_what_is_posted_after_the_bell_was_heard_rings_again() -> None:
    loop, done = Loop(), list[int]()
    loop.inbox.post(lambda: done.append(1))

    loop.inbox.heard()
    loop.inbox.post(lambda: done.append(2))

    assert rings(loop.inbox)
    loop.turn()
    assert done == [1, 2]


def test_what_posts_more_has_it_done_in_the_same_turn() -> None:
    loop, done = Loop(), list[int]()
    loop.inbox.post(lambda: loop.inbox.post(lambda: done.append(1)))

    loop.turn()

    assert done == [1]


def test_deliveries_are_handed_out_by_who_brings_them_while_the_loop_only_waits() -> None:
    loop = Loop()

    def bring(_: float) -> None:
        thread = threading.Thread(target=loop.deliver, args=("one", "two"))
        thread.start()
        thread.join(60)

    with loop.inbox.baton:
        loop.inbox.while_waiting(bring, 1.0)

    assert loop.taken == [(b"p", "one"), (b"p", "two")]
    assert len(loop.handed) == 1 and loop.handed[0] != threading.get_ident()
    assert not rings(loop.inbox)


def test_deliveries_wait_for_the_loop_while_it_works() -> None:
    loop = Loop()

    with loop.inbox.baton:
        thread = threading.Thread(target=loop.deliver, args=("one", "two"))
        thread.start()
        thread.join(60)

        assert loop.taken == []
        assert rings(loop.inbox)
        loop.turn()

    assert loop.taken == [(b"p", "one"), (b"p", "two")]
    assert loop.handed == []  # the loop hands out after each turn


def test_deliveries_do_not_overtake_what_was_posted_before_them() -> None:
    loop, done = Loop(), list[str]()
    loop.inbox.post(lambda: done.append(f"posted before {len(loop.taken)} were taken"))

    loop.deliver("one")
    loop.turn()

    assert done == ["posted before 0 were taken"]
    assert loop.taken == [(b"p", "one")]


def test_a_fault_in_handing_out_is_raised_on_the_loop_s_own_thread() -> None:
    loop = Loop()

    def fail() -> None:
        raise ZeroDivisionError

    loop.inbox = Inbox(lambda *_: None, fail)
    loop.deliver("one")

    with pytest.raises(ZeroDivisionError):
        loop.turn()
