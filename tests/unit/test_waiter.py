"""Who waits for the same id, and what becomes of one when the other is refused."""

from __future__ import annotations

import threading
from typing import Any, cast

from pyfi_hpc.client.futures import Future
from pyfi_hpc.client.link import Link
from pyfi_hpc.client.waiter import Waiter
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
