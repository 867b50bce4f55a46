"""A confirm keeps the promises of a `concurrent.futures.Future`."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, InvalidStateError
from typing import Any

import pytest
from structlog.testing import capture_logs

from pyfi_hpc.brokers.confirm import Confirm


def test_it_resolves_once() -> None:
    confirm = Confirm()
    assert (confirm.done(), confirm.running(), confirm.cancelled()) == (False, False, False)

    confirm.set_result(None)

    assert (confirm.done(), confirm.cancelled(), confirm.exception()) == (True, False, None)
    confirm.result()
    with pytest.raises(InvalidStateError):
        confirm.set_result(None)
    with pytest.raises(InvalidStateError):
        confirm.set_exception(OSError())


def test_it_raises_why_the_broker_does_not_hold_the_message() -> None:
    confirm, error = Confirm(), OSError("gone")
    confirm.set_exception(error)
    assert confirm.exception() is error
    with pytest.raises(OSError, match="gone"):
        confirm.result(1)


def test_who_waits_is_woken_and_who_does_not_want_to_wait_longer_is_told() -> None:
    confirm = Confirm()
    with pytest.raises(TimeoutError):
        confirm.result(0.001)
    woken: list[BaseException | None] = []
    threads = [threading.Thread(target=lambda: woken.append(confirm.exception(60))) for _ in range(3)]
    for thread in threads:
        thread.start()

    confirm.set_result(None)

    for thread in threads:
        thread.join(60)
    assert woken == [None, None, None]


def test_it_can_be_taken_back_until_it_is_on_its_way() -> None:
    confirm = Confirm()
    assert confirm.cancel()
    assert confirm.cancel()
    assert (confirm.cancelled(), confirm.done()) == (True, True)
    assert not confirm.set_running_or_notify_cancel()
    with pytest.raises(CancelledError):
        confirm.exception()
    with pytest.raises(InvalidStateError):
        confirm.set_result(None)


def test_on_its_way_it_cannot_be_taken_back() -> None:
    confirm = Confirm()
    assert confirm.set_running_or_notify_cancel()
    assert (confirm.running(), confirm.cancel(), confirm.cancelled()) == (True, False, False)
    with pytest.raises(InvalidStateError):
        confirm.set_running_or_notify_cancel()


@pytest.mark.parametrize("how", ["result", "exception", "cancel"])
def test_whoever_asked_for_it_is_called_in_turn_before_and_after(how: str) -> None:
    confirm, called = Confirm(), list[tuple[int, Any]]()

    def fails(_: Confirm) -> None:
        raise ValueError("a callback's fault")

    confirm.add_done_callback(lambda done: called.append((1, done)))
    confirm.add_done_callback(fails)
    confirm.add_done_callback(lambda done: called.append((2, done)))
    with capture_logs() as logs:
        {"result": lambda: confirm.set_result(None), "exception": lambda: confirm.set_exception(OSError()),
         "cancel": confirm.cancel}[how]()  # fmt: skip
    confirm.add_done_callback(lambda done: called.append((3, done)))

    assert called == [(1, confirm), (2, confirm), (3, confirm)]
    assert [log["log_level"] for log in logs] == ["error"]
