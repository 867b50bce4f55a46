"""Calls pyfi-hpc through its public client: `python -m benchmarks.pyfi_driver SOCKET`, settings from variables."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial

from benchmarks.driver import serve
from pyfi_hpc.agent.logs import log_to_stderr
from pyfi_hpc.client.client import Client

#: Enough that the calling side is never what the others wait for.
MOST_IN_FLIGHT = 10_000


def main() -> None:
    """Serve until standard input ends."""
    log_to_stderr()
    socket = sys.argv[1]
    with Client() as client:

        def bulk(calls: int) -> Iterable[int]:
            return client.map(socket, range(calls), max_in_flight=MOST_IN_FLIGHT)

        serve(bulk, partial(client.call, socket))


if __name__ == "__main__":
    main()
