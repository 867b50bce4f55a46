"""Ports for private services, so that two runs on one machine never get the same."""

from __future__ import annotations

import errno
import random
import socket
from dataclasses import dataclass, field

#: Below the ephemeral range (32768 and up on Linux), from which the kernel serves outgoing connections.
PORTS = range(20_000, 32_768)


@dataclass(frozen=True)
class PortLease:
    """One port, ours until it is released or this process ends."""

    number: int
    _mark: socket.socket = field(repr=False, compare=False)

    def release(self) -> None:
        """Afterwards others may lease the port."""
        self._mark.close()


def lease_port(address: str = "127.0.0.1") -> PortLease:
    """A TCP port that nobody listens on at `address` and that no other run has leased.

    The lease is an abstract unix name: like ports it belongs to the network namespace, leaves no file behind,
    and the kernel takes it back when the process dies.

    Raises:
        OSError: every port is taken, or `address` is not one of this machine.
    """
    start = random.randrange(len(PORTS))
    for offset in range(len(PORTS)):
        port = PORTS[(start + offset) % len(PORTS)]
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            mark.bind(f"\0pyfi-port-{port}")
            _bind_once(address, port)
        except OSError as error:
            mark.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return PortLease(port, mark)
    raise OSError(errno.EADDRINUSE, f"no free port on {address} from {PORTS.start} to {PORTS.stop - 1}")


def _bind_once(address: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # as servers do: a connection in TIME_WAIT does not keep the port
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, port))
        # binding alone succeeds beside a bound socket that does not listen
        probe.listen(1)
