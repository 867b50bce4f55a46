"""Where the daemons of a cluster in a box run: beside each other on this machine, or on hosts of their own."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Protocol

from pyfi_hpc.box.hosts import Host, all_on
from pyfi_hpc.box.network import Network, Way
from pyfi_hpc.box.ports import PortLease, lease_port
from pyfi_hpc.box.slurm_files import Node
from pyfi_hpc.errors import BadInput

#: The controller's host.
HEAD = "ctl"
#: Where slurmctld, slurmd and slurmdbd listen on hosts of their own. Source: slurm.conf(5), slurmdbd.conf(5).
CONTROLLER_PORT, NODE_PORT, DBD_PORT, DATABASE_PORT = 6817, 6818, 6819, 3306
#: The last part of an address: the controller has 1, the first node 11.
NODES = 10


class Places(Protocol):
    """Hosts by name, the controller's first."""

    hosts: dict[str, Host]
    #: where a service of this machine must listen so that nodes reach it
    address: str

    def start(self, environment: Mapping[str, str]) -> None:
        """Every host is on; its processes see `environment`."""

    def plan(self) -> Sequence[Node]:
        """How each is reached, in the order of `hosts`."""

    def head_port(self, usual: int) -> int:
        """A port on the controller's host, `usual` where that is free."""

    def power_on(self, name: str) -> None:
        """A host that was off is up and plugged in."""

    def cut(self, name: str) -> None:
        """Let nothing through between a host and the others."""

    def heal(self, name: str) -> None:
        """Let everything through again."""

    def block(self, name: str, address: str, port: int | None = None, way: Way = "both") -> None:
        """Let nothing through between a host and what listens at an address, or only one way."""

    def unblock(self, name: str, address: str, port: int | None = None, way: Way = "both") -> None:
        """Let everything through again that was blocked so."""

    def power_off(self) -> None:
        """Every host is dark."""

    def remove(self) -> None:
        """Nothing of it is left."""


class Beside:
    """All on this machine and its loopback, told apart by port; for anybody."""

    address = "127.0.0.1"

    def __init__(self, nodes: Sequence[str]) -> None:
        self.hosts = {name: Host(name) for name in (HEAD, *nodes)}
        self._leases: list[PortLease] = []

    def start(self, environment: Mapping[str, str]) -> None:
        """Their inits run."""
        for host in self.hosts.values():
            host.environment = dict(environment)
        all_on([host for host in self.hosts.values() if not host.on])

    def plan(self) -> Sequence[Node]:
        """A port each."""
        hostname = socket.gethostname().partition(".")[0]
        return [Node(name, hostname, self.address, self.head_port(0)) for name in self.hosts]

    def head_port(self, usual: int) -> int:
        """One that is leased: the usual one is this machine's."""
        self._leases.append(lease_port(self.address))
        return self._leases[-1].number

    def power_on(self, name: str) -> None:
        """Its init runs."""
        self.hosts[name].power_on()

    def cut(self, name: str) -> None:
        """Refused: the loopback has no cables."""
        raise BadInput.of("E_CHOICE", "profile", "multi", "nodes beside each other have no cables", cure="use netns")

    heal = cut

    def block(self, name: str, address: str, port: int | None = None, way: Way = "both") -> None:
        """Refused as well."""
        self.cut(name)

    unblock = block

    def power_off(self) -> None:
        """Their inits and all below them are gone."""
        for host in self.hosts.values():
            host.power_off()

    def remove(self) -> None:
        """Ports are given back as well."""
        self.power_off()
        for lease in self._leases:
            lease.release()
        self._leases = []


class Apart:
    """Each on an isolated host with an address of its own; for root."""

    def __init__(self, nodes: Sequence[str]) -> None:
        if os.geteuid():
            raise BadInput.of("E_DENIED", "profile", "netns", "namespaces take root", cure="use the profile multi")
        self.hosts = {name: Host(name, isolated=True) for name in (HEAD, *nodes)}
        self._numbers = {HEAD: 1} | {name: NODES + number for number, name in enumerate(nodes, start=1)}
        self._network = Network()
        self.address = self._network.address

    def start(self, environment: Mapping[str, str]) -> None:
        """Their inits run, and all are plugged in."""
        if not self._network.switch.on:
            self._network.start()
        dark = [host for host in self.hosts.values() if not host.on]
        for host in dark:
            host.environment = dict(environment)
        all_on(dark)
        for host in dark:
            self._network.plug(host, self._numbers[host.name])

    def plan(self) -> Sequence[Node]:
        """An address each."""
        return [self._node(name, NODE_PORT if name != HEAD else CONTROLLER_PORT) for name in self.hosts]

    def _node(self, name: str, port: int) -> Node:
        return Node(name, name, self._network.address_of(self._numbers[name]), port)

    def head_port(self, usual: int) -> int:
        """The usual one: the host has no others."""
        return usual

    def power_on(self, name: str) -> None:
        """Boot it, with a new cable."""
        if self.hosts[name].on:
            return
        self._network.unplug(self.hosts[name])
        self.hosts[name].power_on()
        self._network.plug(self.hosts[name], self._numbers[name])

    def cut(self, name: str) -> None:
        """At the switch."""
        self._network.cut(self.hosts[name])

    def heal(self, name: str) -> None:
        """At the switch."""
        self._network.heal(self.hosts[name])

    def block(self, name: str, address: str, port: int | None = None, way: Way = "both") -> None:
        """On the host itself."""
        self._network.block(self.hosts[name], address, port, way)

    def unblock(self, name: str, address: str, port: int | None = None, way: Way = "both") -> None:
        """On the host itself."""
        self._network.unblock(self.hosts[name], address, port, way)

    def power_off(self) -> None:
        """Their namespaces are gone."""
        for host in self.hosts.values():
            if host.on:
                host.power_off()
                self._network.unplug(host)

    def remove(self) -> None:
        """The network is gone as well."""
        self.power_off()
        self._network.remove()
