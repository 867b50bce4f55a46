"""What is said while calls wait to be accepted."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from pyfi_hpc.brokers.base import Publication, TaskQueue
from pyfi_hpc.brokers.memory import Hub, MemoryBroker
from pyfi_hpc.brokers.refusals import full
from pyfi_hpc.client.notices import AGAIN_SECONDS, FIRST_SECONDS, NEVER, Notices, Silence, Stuck, words
from pyfi_hpc.client.parcels import Lane, Parcel
from pyfi_hpc.errors import BrokerUnavailable, DatabaseUnavailable
from tests.unit.test_futures import a_way, an_item

QUEUE = TaskQueue("default", "w", "k", max_length=1)


class Broker(MemoryBroker):
    """Takes messages, or not, and answers, or not."""

    def __init__(self, *, takes: bool = True, answers: bool = True) -> None:
        super().__init__(Hub())
        self._takes, self._answers = takes, answers
        self.declare(QUEUE)

    def publishing(self) -> bool:
        return self._takes

    def check(self) -> str:
        if not self._answers:
            raise BrokerUnavailable("E_BROKER", "the broker cannot be reached: refused", cure="look")
        return "memory"


def a_parcel(calls: int = 2, since: float | None = None) -> Parcel:
    parcel = Parcel(Lane(a_way()), [an_item() for _ in range(calls)], b"b" * 16)
    parcel.since = time.monotonic() if since is None else since
    return parcel


def test_a_line_is_due_after_some_seconds_and_again_much_later() -> None:
    notices, parcel = Notices(), a_parcel(since=100.0)
    assert notices.at == NEVER
    assert notices.expect(100.0)
    assert not notices.expect(101.0)  # it will look anyhow
    assert notices.at == 100.0 + FIRST_SECONDS
    assert notices.look(100.0 + FIRST_SECONDS - 0.1, [parcel], 0) is None
    stuck = notices.look(100.0 + FIRST_SECONDS, [parcel, a_parcel(3, since=102.0)], 10)
    assert stuck is not None
    assert (stuck.parcel, stuck.calls) == (parcel, 15)
    assert notices.look(notices.at, [parcel], 0) is None
    assert notices.look(100.0 + FIRST_SECONDS + AGAIN_SECONDS, [parcel], 0) is not None


def test_nothing_is_said_where_nothing_waits_for_long() -> None:
    notices = Notices()
    notices.expect(100.0)
    assert notices.look(200.0, [], 0) is None
    assert notices.at == NEVER
    notices.expect(200.0)
    assert notices.look(203.0, [a_parcel(since=202.0)], 5) is None
    assert notices.at == 202.0 + FIRST_SECONDS


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({}, full("w"), "waiting for room in queue w for 2 calls of detect.run: messages there: 1, agents that take"
         " from it: 0; next: pyfi show processor detect; given up in 7 s"),
        ({}, None, "waiting for the broker's word on 2 calls of detect.run: it does not keep up; next: pyfi doctor;"
         " given up in 7 s"),
        ({"takes": False}, None, "waiting for the broker to take 2 calls of detect.run: it takes no messages for now,"
         " because of its memory or disk; next: rabbitmq-diagnostics alarms; given up in 7 s"),
        ({"takes": False, "answers": False}, full("w"), "waiting for the broker to take 2 calls of detect.run: the"
         " broker cannot be reached: refused; next: look; given up in 7 s"),
    ],
)  # fmt: skip
def test_the_line_says_what_is_waited_for_and_what_helps(how: Any, error: Any, said: str) -> None:
    broker = Broker(**how)
    broker.publish(Publication(QUEUE.exchange, QUEUE.key, b"", "1"))
    parcel = a_parcel()
    parcel.error = error
    assert words(broker, Stuck(parcel, 2, 57.0), 50.0) == said


def test_one_call_is_told_of_as_one_and_may_wait_for_ever() -> None:
    line = words(Broker(takes=False), Stuck(a_parcel(1), 1, NEVER), 50.0)
    assert "take 1 call of detect.run" in line
    assert "given up" not in line


AWAY = (
    "waiting for the outcomes of 3 calls: the database at db/pyfi does not answer; what is accepted goes on;"
    " next: pyfi doctor"
)


def test_a_database_that_is_away_is_told_of_once_to_those_who_have_waited() -> None:
    told: list[str] = []
    silence = Silence("db/pyfi", told.append)
    for since in (time.monotonic() + 60, time.monotonic() - 60, time.monotonic() - 60):
        before = list(told)
        with pytest.raises(DatabaseUnavailable), silence.asking(3, since):
            raise DatabaseUnavailable("E_DB_UNAVAILABLE", "away")
        assert since < time.monotonic() or told == before == []
    assert told == [AWAY]


def test_a_database_that_hangs_is_told_of_while_it_does() -> None:
    told, said = list[str](), threading.Event()

    def tell(line: str) -> None:
        told.append(line)
        said.set()

    with Silence("db/pyfi", tell, seconds=0.01).asking(3, time.monotonic() - 60):
        assert said.wait(60)
    assert told == [AWAY]


def test_a_database_that_answers_is_no_reason_for_words() -> None:
    told: list[str] = []
    with Silence("db/pyfi", told.append, seconds=60).asking(1, time.monotonic() - 600):
        assert threading.active_count() > 1
    assert told == []
