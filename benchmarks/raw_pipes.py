"""The pipes between two processes of one machine, beside what they are made of: `python -m benchmarks.raw_pipes`.

Every round measures both kinds one after the other, in the same two processes; the table has medians and their ratio.
Both ends of each measure do the same: a message is sent, taken, and an array is looked at on every page.
"""

from __future__ import annotations

import mmap
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy
import zmq

from pyfi_hpc.pipes.protocol import Passed
from pyfi_hpc.pipes.receiving import size_of
from pyfi_hpc.pipes.sockets import Bunch, Inlet, Pipe, context
from pyfi_hpc.wire import values
from pyfi_hpc.wire.values import arguments_of

SECRET = b"s" * 32
SOCKET = b"o" * 16
ITEM = arguments_of(values.encode(b"x" * 100))
BATCH = 64
ARRAY_BYTES = 4 * 2**20
SLOTS = 4
LOOKED_AT = mmap.PAGESIZE // 8

Figures = dict[str, float]


class End:
    """One end of two pipes: one in, one out."""

    def __init__(self, folder: Path, ours: str, theirs: str) -> None:
        self._context = context()
        self.inlet = Inlet(self._context, str(folder / ours), SECRET)
        self.pipe = Pipe(self._context, str(folder / theirs), SECRET)
        self._poll, self._known = select.poll(), -1
        self._poll.register(self.inlet.fd, select.POLLIN)

    def bunches(self, count: int) -> Iterator[Bunch]:
        """What comes in, until it was `count` calls."""
        while count > 0:
            if not (heard := self.turn()):
                self._wait()
            for bunch in heard:
                count -= len(bunch.calls)
                yield bunch

    def turn(self) -> list[Bunch]:
        """Send and take what there is."""
        now = time.monotonic()
        self.pipe.send(now)
        self.pipe.turn(now)
        self.inlet.credit(small=False)
        return list(self.inlet.hear())

    def _wait(self) -> None:
        fd = self.pipe.fd
        if fd is not None and fd != self._known:
            self._poll.register(fd, select.POLLIN)
            self._known = fd
        if not self._poll.poll(20):
            self.inlet.credit(small=True)

    def room(self, size: int) -> None:
        """Wait until one more call of `size` bytes may go."""
        while not self.pipe.sending.window.room(size):
            assert not self.turn(), "nothing comes this way"
            if not self.pipe.sending.window.room(size):
                self._wait()

    def give(self, call: Passed) -> None:
        """Send a call with the next message."""
        self.pipe.sending.add(SOCKET, "task", call, size_of(call))

    def array(self, number: int, array: Any) -> None:
        """Send an array through memory; what it tells of goes with the next, where two have gathered."""
        parts = [b"\x92\x91", *values.encode_parts(array), b"\x80"]
        self.room(sum(map(len, parts)))
        place = self.pipe.place(parts, sum(map(len, parts[:-2])))
        assert place is not None
        self.give(Passed(number, 0, 1, bytes(16), place))
        if number % 2:
            self.pipe.send(time.monotonic())


def look(bunch: Bunch) -> float:
    """Take a bunch as a worker does: decode each call, and look at its array."""
    total = 0.0
    for call in bunch.calls:
        (found,), _ = values.decode_arguments(bunch.origin.arguments(call))
        if isinstance(found, numpy.ndarray):
            total += float(found[::LOOKED_AT].sum())
        del found
        bunch.origin.finished(call)
    return total


# the other process: it answers what it is asked, then says how it went


def echo(end: End, count: int) -> None:
    """Send each call back."""
    for bunch in end.bunches(count):
        for call in bunch.calls:
            bunch.origin.finished(call)
            end.room(size_of(call))
            end.give(call)
        end.pipe.send(time.monotonic())


def sink(end: End, count: int) -> None:
    """Take that many, then send one back."""
    for bunch in end.bunches(count):
        look(bunch)
    end.inlet.credit(small=True)
    end.give(Passed(0, 0, 1, bytes(16), ITEM))
    end.pipe.send(time.monotonic())


def raw_echo(socket: Any, count: int) -> None:
    for _ in range(count):
        socket.send_multipart(socket.recv_multipart())


def raw_sink(socket: Any, back: Any, count: int) -> None:
    for _ in range(count):
        socket.recv()
    back.send_multipart([back.recv_multipart()[0], b"done"])


def raw_arrays(memory: mmap.mmap, bell: int, back: int, count: int) -> None:
    for number in range(count):
        os.read(bell, 1)
        start = number % SLOTS * ARRAY_BYTES
        numpy.frombuffer(memory, "f8", ARRAY_BYTES // 8, start)[::LOOKED_AT].sum()
        os.write(back, b"x")


def child(folder: Path, memory_fd: int, bell: int, back: int) -> None:
    """Serve one line of stdin after the other: the measure and its count."""
    end = End(folder, "b", "a")
    router, pull = end._context.socket(zmq.ROUTER), end._context.socket(zmq.PULL)
    router.bind(f"ipc://{folder}/router")
    pull.bind(f"ipc://{folder}/pull")
    memory = mmap.mmap(memory_fd, SLOTS * ARRAY_BYTES)
    print("ready", flush=True)
    for line in sys.stdin:
        name, count = line.split()
        work: dict[str, Callable[[int], None]] = {
            "echo": lambda n: echo(end, n),
            "sink": lambda n: sink(end, n),
            "raw echo": lambda n: raw_echo(router, n),
            "raw sink": lambda n: raw_sink(pull, router, n),
            "raw arrays": lambda n: raw_arrays(memory, bell, back, n),
        }
        work[name.replace("_", " ")](int(count))
        print("done", flush=True)


# this process


class Bench:
    """Both kinds of everything."""

    def __init__(self, folder: Path) -> None:
        memory = os.memfd_create("raw")
        os.ftruncate(memory, SLOTS * ARRAY_BYTES)
        self._memory = mmap.mmap(memory, SLOTS * ARRAY_BYTES)
        there, self._bell = os.pipe()
        self._back, from_there = os.pipe()
        passed = (memory, there, from_there)
        command = [sys.executable, "-m", "benchmarks.raw_pipes", "--child", str(folder), *map(str, passed)]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, pass_fds=passed
        )
        self._said()
        self._end = End(folder, "a", "b")
        self._dealer, self._push = (self._end._context.socket(kind) for kind in (zmq.DEALER, zmq.PUSH))
        self._dealer.connect(f"ipc://{folder}/router")
        self._push.connect(f"ipc://{folder}/pull")
        self._array = numpy.random.default_rng(1).random(ARRAY_BYTES // 8)

    def _said(self) -> None:
        assert self._child.stdout is not None and self._child.stdout.readline(), "the other process ended"

    def _ask(self, name: str, count: int) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{name} {count}\n")

    def close(self) -> None:
        """End the other process."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()

    def round_trip(self, count: int) -> Figures:
        """One item of 100 bytes there and back: median microseconds."""
        self._ask("echo", count)
        took = []
        for number in range(count):
            began = time.perf_counter()
            self._end.room(len(ITEM))
            self._end.give(Passed(number, 0, 1, bytes(16), ITEM))
            self._end.pipe.send(time.monotonic())
            self._await(1)
            took.append(time.perf_counter() - began)
        self._said()
        self._ask("raw_echo", count)
        raw = []
        for _ in range(count):
            began = time.perf_counter()
            self._dealer.send(ITEM)
            self._dealer.recv()
            raw.append(time.perf_counter() - began)
        self._said()
        return {"pipe": 1e6 * statistics.median(took), "raw": 1e6 * statistics.median(raw)}

    def _await(self, count: int) -> None:
        for bunch in self._end.bunches(count):
            for call in bunch.calls:
                bunch.origin.finished(call)

    def items(self, count: int) -> Figures:
        """Items of 100 bytes, sent as they gather in batches: items a second; raw ones go one by one."""
        self._ask("sink", count)
        began = time.perf_counter()
        for number in range(count):
            self._end.room(len(ITEM))
            self._end.give(Passed(number, 0, 1, bytes(16), ITEM))
            if number % BATCH == BATCH - 1:
                self._end.pipe.send(time.monotonic())
        self._end.pipe.send(time.monotonic())
        self._await(1)
        took = time.perf_counter() - began
        self._said()
        self._ask("raw_sink", count)
        began = time.perf_counter()
        for _ in range(count):
            self._push.send(ITEM)
        self._dealer.send(b"?")
        self._dealer.recv()
        raw = time.perf_counter() - began
        self._said()
        return {"pipe": count / took, "raw": count / raw}

    def arrays(self, count: int) -> Figures:
        """Arrays of 4 MiB through memory: gigabytes a second."""
        self._ask("sink", count)
        began = time.perf_counter()
        for number in range(count):
            self._end.array(number, self._array)
        self._end.pipe.send(time.monotonic())
        self._await(1)
        took = time.perf_counter() - began
        self._said()
        self._ask("raw_arrays", count)
        slots = numpy.frombuffer(self._memory, "f8")
        size = ARRAY_BYTES // 8
        began = time.perf_counter()
        for number in range(count):
            if number >= SLOTS:
                os.read(self._back, 1)
            slots[number % SLOTS * size : (number % SLOTS + 1) * size] = self._array
            os.write(self._bell, b"x")
        for _ in range(min(SLOTS, count)):
            os.read(self._back, 1)
        raw = time.perf_counter() - began
        self._said()
        return {"pipe": count * ARRAY_BYTES / took / 1e9, "raw": count * ARRAY_BYTES / raw / 1e9}


MEASURES: dict[str, tuple[str, str, Callable[[Bench, int], Figures], int]] = {
    "round trip of 100 B, p50 µs": ("ZeroMQ DEALER/ROUTER", "{:.0f}", Bench.round_trip, 1_000),
    "items of 100 B a second": ("ZeroMQ PUSH/PULL, one a message", "{:,.0f}", Bench.items, 50_000),
    "arrays of 4 MiB, GB/s": ("shared memory, a pipe as bell", "{:.1f}", Bench.arrays, 400),
}


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--share", type=click.FloatRange(min=0.01), default=1.0, show_default=True, help="Of the usual counts.")
@click.option("--child", nargs=4, hidden=True)
def main(rounds: int, share: float, child: tuple[str, str, str, str] | None) -> None:
    """Measure the pipes beside raw ZeroMQ and raw shared memory."""
    if child is not None:
        folder, *numbers = child
        globals()["child"](Path(folder), *map(int, numbers))
        return
    with tempfile.TemporaryDirectory(prefix="pyfi-") as folder:
        bench = Bench(Path(folder))
        try:
            found = [_round(bench, share) for _ in range(rounds)]
        finally:
            bench.close()
    for name, (against, form, _, _) in MEASURES.items():
        pipe, raw = (statistics.median(figures[name][kind] for figures in found) for kind in ("pipe", "raw"))
        ratios = [figures[name]["pipe"] / figures[name]["raw"] for figures in found]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        click.echo(f"{name}: {form.format(pipe)}; {against}: {form.format(raw)}; "
                   f"ratio {statistics.median(ratios):.2f} ({spread})")  # fmt: skip


def _round(bench: Bench, share: float) -> dict[str, Figures]:
    return {name: work(bench, max(8, int(count * share))) for name, (_, _, work, count) in MEASURES.items()}


if __name__ == "__main__":
    main()
