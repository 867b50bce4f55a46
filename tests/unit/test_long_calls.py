"""What an agent says its workers run: calls that last, each once, and no short ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pyfi_hpc.agent.hands import Hand
from pyfi_hpc.agent.keeper import LongCall
from pyfi_hpc.agent.watching import Watching
from pyfi_hpc.wire.frames import Progress

WORKER, FIRST, SECOND = b"w" * 16, b"a" * 16, b"b" * 16


@pytest.fixture
def progress() -> Iterator[Progress]:
    """What the one worker writes down; it runs nothing."""
    descriptor = os.memfd_create("progress")
    os.ftruncate(descriptor, Progress.SIZE)
    made = Progress(descriptor)
    os.close(descriptor)
    made.begin(-1, -1, 0.0, 0)
    yield made
    made.close()


@pytest.fixture
def hand(progress: Progress) -> Hand:
    """That worker."""
    process: Any = SimpleNamespace(progress=progress)
    return Hand(WORKER, b"p" * 16, (0,), (), process)


@pytest.fixture
def watching(hand: Hand) -> Watching:
    """Watches it; lot 7 has two calls."""
    calls = [SimpleNamespace(id=FIRST), SimpleNamespace(id=SECOND)]
    lots: Any = {7: SimpleNamespace(token=7, message=SimpleNamespace(calls=calls), call=calls.__getitem__)}
    return Watching({WORKER: hand}, lots.get, lambda socket: None)


def test_a_call_is_named_once_it_has_run_for_a_second_and_again_when_it_is_over(
    watching: Watching, progress: Progress
) -> None:
    progress.begin(7, 1, 100.0, 0)
    assert watching.long_calls(100.9) == []
    assert watching.long_calls(101.5) == [LongCall(WORKER, SECOND, 1.5)]
    assert watching.long_calls(160.0) == []
    progress.begin(-1, -1, 0.0, 1)
    assert watching.long_calls(160.5) == [LongCall(WORKER, None, None)]
    assert watching.long_calls(161.0) == []


def test_short_calls_are_never_named(watching: Watching, progress: Progress) -> None:
    for number in range(20):
        progress.begin(7, number % 2, 100.0 + number * 0.5, number)
        assert watching.long_calls(100.4 + number * 0.5) == []


def test_one_long_call_after_another_is_named_with_its_own_start(watching: Watching, progress: Progress) -> None:
    progress.begin(7, 0, 100.0, 0)
    watching.long_calls(102.0)
    progress.begin(7, 1, 102.0, 1)
    assert watching.long_calls(102.5) == [LongCall(WORKER, None, None)]
    assert watching.long_calls(104.0) == [LongCall(WORKER, SECOND, 2.0)]
    # the same call again
    progress.begin(7, 1, 104.0, 2)
    assert watching.long_calls(106.0) == [LongCall(WORKER, SECOND, 2.0)]


def test_what_is_no_call_in_hand_is_not_named(watching: Watching, hand: Hand, progress: Progress) -> None:
    progress.begin(8, 0, 100.0, 0)
    assert watching.long_calls(105.0) == []
    progress.begin(7, 2, 100.0, 0)
    assert watching.long_calls(105.0) == []
    hand.process = None
    assert watching.long_calls(105.0) == []
