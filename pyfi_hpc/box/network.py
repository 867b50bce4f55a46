"""A network in a box: a switch, cables to isolated hosts, and one to this machine. Takes root.

The switch is a host with a bridge, so that a cable goes with either end, and the whole network with its holder.
"""

from __future__ import annotations

import secrets
import socket
import subprocess
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

from pyfi_hpc.box.hosts import Host
from pyfi_hpc.errors import Unavailable

#: Networks of 254 addresses, from the range for benchmarks between devices, which nobody has at home. Source: RFC 2544.
SUBNETS = tuple(f"198.{second}.{third}" for second in (18, 19) for third in range(256))
#: As a host sees it.
Way: TypeAlias = Literal["both", "out", "in"]
#: The last part of this machine's own address.
OUTSIDE = 254


class Network:
    """One switch in a subnet of its own. As with `Host`, it is gone when the process that holds it dies."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self.switch = Host("switch", isolated=True, environment=environment)
        self._lease, self.subnet = _lease_subnet()
        self._uplink = f"pyfi-{secrets.token_hex(4)}"

    @property
    def address(self) -> str:
        """This machine, as the hosts reach it."""
        return self.address_of(OUTSIDE)

    def address_of(self, number: int) -> str:
        """The address of the host that is plugged in under `number`."""
        return f"{self.subnet}.{number}"

    def start(self) -> None:
        """The switch is up, and this machine is plugged in."""
        self.switch.power_on()
        ip(f"link add {self._uplink} type veth peer name uplink netns {self.switch.pid}")
        ip(f"address add {self.address}/24 dev {self._uplink}", f"link set {self._uplink} up")
        self._in_switch("link add bridge type bridge", "link set bridge up", "link set uplink master bridge up")

    def plug(self, host: Host, number: int) -> None:
        """Give `host`, which has just been powered on, its cable and address."""
        self._in_switch(
            f"link add {host.name} type veth peer name eth0 netns {host.pid}", f"link set {host.name} master bridge up"
        )
        address = f"address add {self.address_of(number)}/24 dev eth0"
        # `block` comes before the table of local addresses, which is the first one otherwise
        local = ("rule add pref 2 table local", "rule delete pref 0")
        ip(address, "link set eth0 up", "link set lo up", *local, inside=host)

    def unplug(self, host: Host) -> None:
        """Take its cable away; one that has gone with its host is no error."""
        ip(f"link delete {host.name}", inside=self.switch, check=False)

    def cut(self, host: Host) -> None:
        """Let nothing through the cable, and tell neither side."""
        self._in_switch(f"link set {host.name} down")

    def heal(self, host: Host) -> None:
        """Let everything through again."""
        self._in_switch(f"link set {host.name} up")

    def block(self, host: Host, address: str, port: int | None = None, way: Way = "both") -> None:
        """Let nothing through between `host` and what listens at an address, or only one way; tell neither.

        Source: ip-rule(8).
        """
        ip(*(f"rule add {rule}" for rule in _blocking(address, port, way)), inside=host)

    def unblock(self, host: Host, address: str, port: int | None = None, way: Way = "both") -> None:
        """Let everything through again that was blocked so."""
        ip(*(f"rule delete {rule}" for rule in _blocking(address, port, way)), inside=host)

    def _in_switch(self, *lines: str) -> None:
        ip(*lines, inside=self.switch)

    def remove(self) -> None:
        """Afterwards nothing of it is left; the hosts may be on still."""
        ip(f"link delete {self._uplink}", check=False)
        self.switch.power_off()
        self._lease.close()


def ip(*lines: str, inside: Host | None = None, check: bool = True) -> None:
    """Let ip(8) do what `lines` say, in the network of a host or in our own.

    Raises:
        Unavailable: one of them failed, unless `check` is off.
    """
    enter = ["nsenter", f"--target={inside.pid}", "--net"] if inside else []
    done = subprocess.run([*enter, "ip", "-batch", "-"], input=_joined(lines), capture_output=True, text=True)
    if check and done.returncode:
        raise Unavailable("E_INTERNAL", f"ip {' / '.join(lines)}: {done.stderr.strip()}")


def _blocking(address: str, port: int | None, way: Way) -> Iterable[str]:
    """What is dropped on a host, on its way out and on its way in."""
    ports = ("", "") if port is None else (f"ipproto tcp dport {port} ", f"ipproto tcp sport {port} ")
    if way != "in":
        yield f"pref 1 to {address} {ports[0]}blackhole"
    if way != "out":
        yield f"pref 1 from {address} {ports[1]}blackhole"


def _joined(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _lease_subnet() -> tuple[socket.socket, str]:
    """One that no other run has; the mark is as in `ports.lease_port`."""
    start = secrets.randbelow(len(SUBNETS))
    for subnet in SUBNETS[start:] + SUBNETS[:start]:
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            mark.bind(f"\0pyfi-subnet-{subnet}")
        except OSError:
            mark.close()
        else:
            return mark, subnet
    raise Unavailable("E_INTERNAL", f"all {len(SUBNETS)} networks for hosts in a box are taken")
