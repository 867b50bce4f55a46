"""Pipes between real workers: chains, large values, spilling, and what goes wrong at either end."""

from __future__ import annotations

import os
import secrets
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyfi_hpc.wire import ids, values
from pyfi_hpc.wire.frames import Done, Item, Link, Listen, Outlet, Outlets, Peer, Reached, Stop, Untaken
from pyfi_hpc.wire.ids import child_id, id_text
from pyfi_hpc.wire.messages import Call
from tests.support import eventually
from tests.support_worker import SOCKET, Worker, call, started

TASKS = """
import mmap, os, signal, sys, threading, time
import numpy
import pyfi_hpc

kept = []

def one(x): return x + 1
def double(x): return 2 * x
def total(array): return float(array.sum())
def grid(n): return numpy.arange(n, dtype="f8")
def twice(array):
    array *= 2
    return array
def over_memory(array):
    owner = array
    while isinstance(owner, numpy.ndarray):
        owner = owner.base
    return [type(owner).__name__, array.flags.writeable, array.flags.aligned]
def keep(array):
    kept.append(array)
    return len(kept)
def let_go():
    total = [float(array.sum()) for array in kept]
    kept.clear()
    return total
def who(x):
    now = pyfi_hpc.current()
    return [now.id, now.serial, now.task, now.socket, x]
def fail(x): raise ValueError(x)
def slow(x):
    time.sleep(0.05)
    return x
def gate(x, path=None):
    while not os.path.exists(os.environ["GATE"]): time.sleep(0.005)
    return x
def say(x):
    print("heard", x)
    return x
def memory():
    import resource
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
def loaded(): return "zmq" in sys.modules
def close_small():
    os.closerange(0, 100)
def fork_and_return(x):
    if os.fork() == 0:
        return "child"
    os.wait()
    return x
def fork_and_write(array):
    child = os.fork()
    if child == 0:
        array[:] = -1
        os._exit(int(array[0] != -1))
    assert os.waitpid(child, 0)[1] == 0
    return float(array[0])
def fork_and_leave(array):
    if os.fork() == 0:
        while not os.path.exists(os.environ["GATE"]): time.sleep(0.005)
        open(os.environ["GATE"] + ".seen", "w").write(repr([float(array[0]), float(array[-1])]))
        os._exit(0)
    return 0
def fork_and_exit(x):
    child = os.fork()
    if child == 0:
        sys.exit(0)
    return os.waitpid(child, 0)[1]
def nothing(x): return None
"""

EDGE = b"e" * 16
FIRST, SECOND, THIRD = SOCKET, b"2" * 16, b"3" * 16
SECRET = secrets.token_bytes(32)
PATIENCE = 60.0


class Node:
    """Workers of one node, and where they listen."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.workers = folder, list[Worker]()
        self.pipes = folder / "p"
        self.pipes.mkdir(mode=0o700)
        self.said: dict[int, list[object]] = {}

    def worker(self, *, listens: bool = True) -> Worker:
        """One more worker, ready."""
        home = self.folder / f"w{len(self.workers)}"
        home.mkdir()
        worker = started(home, TASKS, extra={"GATE": str(self.folder / "gate")})
        self.workers.append(worker)
        worker.hello()
        if listens:
            worker.process.send(Listen(self.path(worker), SECRET))
            eventually(lambda: os.path.exists(self.path(worker)), timeout=PATIENCE)
        return worker

    def path(self, worker: Worker) -> str:
        return str(self.pipes / str(self.number(worker)))

    def number(self, worker: Worker) -> int:
        return self.workers.index(worker) + 1

    def peer(self, worker: Worker) -> Peer:
        return Peer(self.number(worker), self.path(worker))

    def open(self) -> None:
        """Let the calls of `gate` go."""
        (self.folder / "gate").touch()

    # what the workers say, gathered by what it is

    def hear(self) -> None:
        """Read what every worker has said meanwhile."""
        live = {worker.process.socket: worker for worker in self.workers if not worker.ended}
        for ready in select.select(list(live), [], [], 0.02)[0]:
            worker = live[ready]
            frames, worker.ended = worker.process.read()
            self.said.setdefault(self.number(worker), []).extend(frames)

    def items(self, worker: Worker) -> list[Item]:
        said = self.said.get(self.number(worker), ())
        return [item for frame in said if isinstance(frame, Done) for item in frame.items]

    def links(self, worker: Worker) -> list[Link]:
        said = self.said.get(self.number(worker), ())
        return [link for frame in said if isinstance(frame, Reached) for link in frame.links]

    def untaken(self, worker: Worker) -> list[tuple[int, int, bytes]]:
        said = self.said.get(self.number(worker), ())
        return [key for frame in said if isinstance(frame, Untaken) for key in frame.calls]

    def until(self, look: Callable[[], object]) -> None:
        """Hear until it is so."""

        def heard() -> object:
            self.hear()
            return look()

        eventually(heard, timeout=PATIENCE, interval=0.0)

    def use(self, worker: Worker, *outlets: Outlet) -> None:
        """Tell a worker its pipes."""
        worker.process.send(Outlets(SECRET, outlets))

    def warm(self, worker: Worker, target: Worker) -> None:
        """Call `one` by `worker` until a value has reached `target` by a pipe."""

        def through() -> bool:
            done = len(self.items(worker))
            worker.give("one", call(0))
            self.until(lambda: len(self.items(worker)) > done)
            return bool(self.items(worker)[-1].passed)

        eventually(through, timeout=PATIENCE)
        count = sum(len(item.passed) for item in self.items(worker))
        self.until(lambda: len(self.links(target)) == count)
        self.said.clear()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    shared = set(os.listdir("/dev/shm"))
    made = Node(tmp_path)
    yield made
    for worker in made.workers:
        worker.process.kill(worker.process.killed)  # type: ignore[arg-type]  # gone already, for most
        worker.process.reap()
        worker.process.close()
    assert set(os.listdir("/dev/shm")) <= shared


def outlet(task: str, *peers: Peer, source: bytes = FIRST, target: bytes = SECOND, edge: bytes = EDGE) -> Outlet:
    return Outlet(edge, source, target, task, peers)


def value(found: Item | Link) -> object:
    item = found.item if isinstance(found, Link) else found
    assert item.value is not None, item.error
    return values.decode(item.value)


def pair(node: Node, task: str) -> tuple[Worker, Worker]:
    """Two workers; what the first one's calls return goes to `task` of the second."""
    first, second = node.worker(), node.worker()
    node.use(first, outlet(task, node.peer(second)))
    node.warm(first, second)
    return first, second


# chains


def test_a_value_goes_straight_to_the_next_worker_under_the_childs_id(node: Node) -> None:
    first, second = pair(node, "who")
    parent = call(1)
    token = first.give("one", parent)
    node.until(lambda: node.items(first) and node.links(second))

    (item,), (link,) = node.items(first), node.links(second)
    assert (value(item), item.passed) == (2, ((EDGE, 2),))
    child = child_id(parent.id, EDGE)
    assert (link.token, link.index, link.id) == (token, 0, child)
    assert value(link) == [id_text(child), 1, "who", id_text(SECOND), 2]
    assert link.item.started <= link.item.ended and link.item.passed == ()


def test_a_chain_of_three_names_its_head_all_along(node: Node) -> None:
    first, second, third = (node.worker() for _ in range(3))
    node.use(first, outlet("double", node.peer(second)))
    node.use(second, outlet("who", node.peer(third), source=SECOND, target=THIRD, edge=b"f" * 16))
    node.warm(first, second)
    eventually(lambda: _passes(node, first, second), timeout=PATIENCE)
    node.said.clear()

    parents = [call(number) for number in range(100)]
    token = first.give("one", *parents)
    node.until(lambda: len(node.links(third)) >= 100)

    middle = {link.id: link for link in node.links(second)}
    last = {link.id: link for link in node.links(third)}
    for index, parent in enumerate(parents):
        child = child_id(parent.id, EDGE)
        grandchild = child_id(child, b"f" * 16)
        assert middle[child].item.passed == ((b"f" * 16, 3),)
        assert (last[grandchild].token, last[grandchild].index) == (token, index)
        assert value(last[grandchild])[-1] == 2 * (index + 1)  # type: ignore[index]


def _passes(node: Node, first: Worker, second: Worker) -> bool:
    done = len(node.links(second))
    first.give("one", call(0))
    node.until(lambda: len(node.links(second)) > done)
    return bool(node.links(second)[-1].item.passed)
