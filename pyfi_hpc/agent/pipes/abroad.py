"""What an agent knows of workers on other nodes that take calls of its own: plain bookkeeping, no I/O.

Here each has a negative number of its own, which is never used again: an answer that was on its way when a connection
broke comes from a number that nobody waits for any more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from pyfi_hpc.agent.pipes.greetings import Beat, Roster
from pyfi_hpc.agent.pipes.segments import Peer, Standing
from pyfi_hpc.wire import frames
from pyfi_hpc.wire.frames import Link

#: A host that says nothing for so long may be stopped: what it has does not wait for it.
QUIET_SECONDS = 1.5
#: Workers of one processor that ours are connected to: each of ours has a window at each of them.
MOST_PEERS = 8


class Change(NamedTuple):
    """Workers that there are now, by their numbers here, and numbers of those that there are no more."""

    joined: list[tuple[int, Peer]]
    gone: list[int]


@dataclass(slots=True)
class _Host:
    key: bytes = b""
    #: the host's number of a worker -> ours
    numbers: dict[int, int] = field(default_factory=dict)
    beat: Beat = field(default_factory=lambda: Beat((), (), {}))
    heard: float = 0.0


class _Worker(NamedTuple):
    host: int
    theirs: int
    processor: bytes
    endpoint: str
    #: another one for each agent that asks: so that not all choose the same workers
    rank: float


class Abroad:
    """Hosts, by their agents' numbers, and their workers."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        """`chance`: from 0 to 1."""
        self._next, self._chance = -1, chance
        self._hosts: dict[int, _Host] = {}
        self._workers: dict[int, _Worker] = {}

    def rostered(self, host: int, roster: Roster, now: float) -> Change:
        """A host has named its workers."""
        known = self._hosts.setdefault(host, _Host())
        known.key, known.heard = roster.key, now
        before, known.numbers = known.numbers, {}
        joined = []
        for each in roster.workers:
            number = before.pop(each.number, None)
            rank = self._chance() if number is None else self._workers[number].rank
            if number is None:
                number, self._next = self._next, self._next - 1
                joined.append((number, Peer(each.processor, each.row, host)))
            known.numbers[each.number] = number
            self._workers[number] = _Worker(host, each.number, each.processor, each.endpoint, rank)
        return Change(joined, self._forget(before))

    def lost(self, host: int) -> list[int]:
        """Nothing more comes from this host; the numbers of its workers."""
        known = self._hosts.pop(host, None)
        return self._forget(known.numbers) if known else []

    def _forget(self, numbers: Mapping[int, int]) -> list[int]:
        gone = list(numbers.values())
        for number in gone:
            del self._workers[number]
        return gone

    def beat(self, host: int, beat: Beat, now: float) -> None:
        """A host is there."""
        if host in self._hosts:
            self._hosts[host].beat, self._hosts[host].heard = beat, now

    # asked by others

    @property
    def numbers(self) -> list[int]:
        """Every worker that there is, taking calls or not."""
        return list(self._workers)

    @property
    def hosts(self) -> list[int]:
        """Who has named workers."""
        return list(self._hosts)

    def number(self, host: int, theirs: int) -> int | None:
        """Our number of a host's worker."""
        known = self._hosts.get(host)
        return known.numbers.get(theirs) if known else None

    def translated(self, host: int, link: Link) -> Link:
        """What a host's worker reports, with our numbers of those that it has passed its value on to."""
        if not link.item.passed:
            return link
        ours = ((edge, self.number(host, theirs)) for edge, theirs in link.item.passed)
        passed = tuple((edge, number) for edge, number in ours if number is not None)
        return msgspec.structs.replace(link, item=msgspec.structs.replace(link.item, passed=passed))

    def peers(self) -> Mapping[bytes, tuple[int, ...]]:
        """Processor -> workers that take calls, and do not stand still: not more than are good to be connected to."""
        found: dict[bytes, list[int]] = {}
        for number, worker in sorted(self._workers.items(), key=lambda each: each[1].rank):
            if worker.endpoint and worker.theirs not in self._hosts[worker.host].beat.stalled:
                found.setdefault(worker.processor, []).append(number)
        return {processor: tuple(numbers[:MOST_PEERS]) for processor, numbers in found.items()}

    def peer(self, number: int) -> frames.Peer:
        """How a worker of ours reaches it."""
        worker = self._workers[number]
        return frames.Peer(number, worker.endpoint, self._hosts[worker.host].key)

    def seconds(self, processor: bytes, task: str) -> float | None:
        """How long a call of that task takes, as the hosts say; None where none knows."""
        beats = (known.beat.seconds for known in self._hosts.values())
        return next((seconds[processor, task] for seconds in beats if (processor, task) in seconds), None)

    def standing(self, number: int, identity: bytes, now: float) -> Standing:
        """How a worker stands to a call that was piped to it, by the last that its host has said."""
        worker = self._workers.get(number)
        if worker is None:
            return Standing.STALLED
        host = self._hosts[worker.host]
        if now - host.heard > QUIET_SECONDS or worker.theirs in host.beat.stalled:
            return Standing.STALLED
        return Standing.RUNS if identity in host.beat.running else Standing.WAITS
