"""Who may do a loop's work: its thread, or anybody while that waits."""

from __future__ import annotations

import threading

import pytest

from pyfi_hpc.baton import Baton


def test_work_is_done_at_once_while_the_loop_waits_and_not_while_it_works() -> None:
    baton, waits, goes_on, ended = Baton(), threading.Event(), threading.Event(), threading.Event()
    done: list[str] = []

    def wait(*_: object) -> list[tuple[int, int]]:
        waits.set()
        goes_on.wait(60)
        return [(1, 2)]

    def loop() -> None:
        with baton:
            assert baton.laid_down(wait) == [(1, 2)]
            assert baton.borrow(lambda: done.append("its own"))
            waits.set()
            ended.wait(60)

    thread = threading.Thread(target=loop)
    thread.start()
    waits.wait(60)
    assert baton.borrow(lambda: done.append("another's"))

    waits.clear()
    goes_on.set()
    waits.wait(60)
    assert not baton.borrow(lambda: done.append("never"))

    ended.set()
    thread.join(60)
    assert done == ["another's", "its own"]
    assert baton.borrow(lambda: done.append("free"))


def test_a_borrower_may_borrow_again_and_a_failure_gives_the_baton_back() -> None:
    baton, done = Baton(), list[str]()

    def outside() -> None:
        assert baton.borrow(lambda: done.append("inside"))
        raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        baton.borrow(outside)

    assert baton.borrow(lambda: done.append("after"))
    assert done == ["inside", "after"]


def test_a_baton_whose_borrower_never_gave_it_back_returns_to_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyfi_hpc.baton.LOST_SECONDS", 0.01)
    baton, done = Baton(), list[str]()

    def wait() -> list[tuple[int, int]]:
        # as if interrupted right after it took the baton
        baton._lock.acquire()
        return []

    with baton:
        baton.laid_down(wait)
        assert baton.borrow(lambda: done.append("its own"))

    assert baton.borrow(lambda: done.append("another's"))
    assert done == ["its own", "another's"]
