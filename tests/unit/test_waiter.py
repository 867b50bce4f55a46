"""Who waits for the same id, what becomes of one when the other is refused, and whose reply may be lost."""

from __future__ import annotations

import threading
from typing import Any, cast

from pyfi_hpc.client.futures import Future
from pyfi_hpc.client.link import Link
from pyfi_hpc.client.waiter import FIRST_SECONDS, LONGEST_SECONDS, Flow, Waiter
from pyfi_hpc.errors import DatabaseUnavailable
from pyfi_hpc.wire import messages, values
from pyfi_hpc.wire.ids import new_id
from pyfi_hpc.wire.messages import WIRE_VERSION, Answer, Kind, Reply


class Away:
    """A database that is away, and what a future asks of its session."""

    lock = threading.Condition()

    def run(self, *_: object, **__: object) -> Any:
        raise DatabaseUnavailable("E_DB_UNAVAILABLE", "away")

    def close(self) -> None:
        """Nothing is open."""


def test_a_future_is_waited_for_when_another_of_the_same_id_was_refused() -> None:
    home, identity = cast(Any, Away()), new_id()
    waiter = Waiter(cast(Link, home), "me", lambda settled: None)
    refused, accepted, later = (Future(home, identity) for _ in range(3))
    waiter.watch([refused, accepted, later])

    waiter.forget([refused])

    assert len(waiter) == 1
    answer = Answer(identity, Kind.VALUE, values.encode(4), None)
    waiter.hear(messages.encode(Reply(WIRE_VERSION, (answer,))))
    assert (refused.done(), accepted.done(), later.done()) == (False, True, True)
    assert waiter.close() == []


def test_each_of_one_id_may_be_forgotten_whichever_came_first() -> None:
    home, identity = cast(Any, Away()), new_id()
    waiter = Waiter(cast(Link, home), "me", lambda settled: None)
    first, second, third = (Future(home, identity) for _ in range(3))
    waiter.watch([first, second, third])

    waiter.forget([second])
    waiter.forget([first])
    assert len(waiter) == 1
    waiter.forget([Future(home, identity)])  # nobody's
    assert waiter.close() == [third]


def test_without_replies_every_call_is_asked_about_that_is_a_moment_old() -> None:
    flow = Flow()
    for now in (10.0, 10.1, 10.2):
        assert flow.late(now) == now - FIRST_SECONDS


def test_while_replies_come_only_calls_that_were_overtaken_are_asked_about() -> None:
    flow = Flow()
    flow.late(10.0)

    flow.reply(9.5)
    flow.reply(9.4)
    assert flow.late(10.1) == 9.5 - FIRST_SECONDS
    assert flow.late(10.2) == 10.2 - FIRST_SECONDS, "none came since"


def test_every_call_is_asked_about_once_in_a_while_whatever_comes() -> None:
    flow = Flow()
    flow.late(10.0)

    flow.reply(5.0)
    assert flow.late(10.0 + LONGEST_SECONDS) == 10.0 + LONGEST_SECONDS - FIRST_SECONDS
    flow.reply(5.0)
    assert flow.late(10.1 + LONGEST_SECONDS) == 5.0 - FIRST_SECONDS
