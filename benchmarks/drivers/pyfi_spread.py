"""Calls pyfi-hpc on several sockets in turn: `python -m benchmarks.drivers.pyfi_spread SOCKET…`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import cycle, islice

from benchmarks.drivers.caller import PATIENCE, Caller
from benchmarks.drivers.serving import serve
from pyfi_hpc.agent.logs import log_to_stderr
from pyfi_hpc.client.client import Client

#: So many calls are handed over at once, to one socket.
LOT = 256
#: So many are waited for together: what is in flight is bounded, whatever the number of sockets.
LOTS_IN_FLIGHT = 40


class _Spread(Caller):
    def __init__(self, client: Client, sockets: list[str]) -> None:
        self._client, self._sockets, self._next = client, sockets, cycle(sockets)

    def single(self, number: int) -> int:
        value: int = self._client.call(self._sockets[-1], number, timeout=PATIENCE)
        return value

    def bulk(self, count: int) -> Iterable[int]:
        numbers = iter(range(count))
        while lots := [lot for _ in range(LOTS_IN_FLIGHT) if (lot := list(islice(numbers, LOT)))]:
            flying = [self._client.submit_many(next(self._next), lot) for lot in lots]
            yield from (future.result(PATIENCE) for futures in flying for future in futures)


def main() -> None:
    """Serve until standard input ends."""
    log_to_stderr()
    with Client() as client:
        serve(_Spread(client, sys.argv[1:]))


if __name__ == "__main__":
    main()
