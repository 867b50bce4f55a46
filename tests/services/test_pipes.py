"""Pipes between real workers: chains, large values, spilling, and what goes wrong at either end."""

from __future__ import annotations

import os
import secrets
import select
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import zmq

from pyfi_hpc.pipes import protocol, sockets
from pyfi_hpc.pipes.protocol import MESSAGE_BYTES, Bye, Data, Hello, Passed, Prove, Welcome
from pyfi_hpc.wire import values
from pyfi_hpc.wire.blobs import get
from pyfi_hpc.wire.frames import Done, Item, Link, Listen, Outlet, Outlets, Peer, Reached, Run, Stop, Untaken
from pyfi_hpc.wire.ids import child_id, id_text
from tests.support import eventually
from tests.support_worker import SOCKET, Worker, body_of, call, started

TASKS = """
import os, sys, time
import pyfi_hpc

kept = []

def one(x): return x + 1
def double(x): return 2 * x
def total(array): return float(array.sum())
def grid(n):
    import numpy
    return numpy.arange(n, dtype="f8")
def twice(array):
    array *= 2
    return array
def over_memory(array):
    owner = array
    while hasattr(owner, "base"):
        owner = owner.base
    return [type(owner).__name__, array.flags.writeable, array.flags.aligned]
def keep(array):
    if hasattr(array, "base"): kept.append(array)
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
        told = repr([float(array[0]), float(array[-1])])  # what warms up is no array: its child gets no further
        open(os.environ["GATE"] + ".seen", "w").write(told)
        os._exit(0)
    return 0
def fork_and_exit(x):
    child = os.fork()
    if child == 0:
        sys.exit(0)
    return os.waitpid(child, 0)[1]
def nothing(x): return None
def same(x): return x
def numbers(n): yield from range(n)
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

    def worker(self, *, listens: bool = True, more: str = "", **files: str) -> Worker:
        """One more worker, ready; `more` code is in its module, and `files` (modules) lie beside that."""
        home = self.folder / f"w{len(self.workers)}"
        home.mkdir()
        for name, source in files.items():
            (home / f"{name}.py").write_text(source)
        worker = started(home, TASKS + more, extra={"GATE": str(self.folder / "gate")})
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
        for worker in self.workers:
            worker.process.flush()
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

    def warm(self, worker: Worker, *targets: Worker) -> None:
        """Call `one` by `worker` until its value has reached all of `targets` by pipes; the gate is open meanwhile."""
        self.open()
        eventually(lambda: self.through(worker, *targets), timeout=PATIENCE)
        count = sum(len(item.passed) for item in self.items(worker))
        self.until(lambda: sum(len(self.links(target) + self.untaken(target)) for target in targets) == count)
        (self.folder / "gate").unlink()
        self.said.clear()

    def through(self, worker: Worker, *targets: Worker) -> bool:
        """Call `one` by `worker`: has its value gone to all of `targets`?"""
        done = len(self.items(worker))
        worker.give("one", call(0))
        self.until(lambda: len(self.items(worker)) > done)
        return {number for _, number in self.items(worker)[-1].passed} == set(map(self.number, targets))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    for worker in made.workers:
        worker.process.kill(worker.process.killed)  # type: ignore[arg-type]  # gone already, for most
        worker.process.reap()
        worker.process.close()


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
    children = [child_id(parent.id, EDGE) for parent in parents]
    node.until(lambda: {link.id for link in node.links(second)} >= set(children))
    ends = {child_id(child, b"f" * 16) for child in children}
    node.until(lambda: {link.id for link in node.links(third)} >= ends)

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


def test_a_worker_may_pass_on_to_itself(node: Node) -> None:
    only = node.worker(listens=False)
    node.use(only, outlet("double", Peer(1, "")))
    token = only.give("one", *[call(number) for number in range(500)])
    node.until(lambda: len(node.items(only)) == 500)
    passed = {item.index for item in node.items(only) if item.passed == ((EDGE, 1),)}
    node.until(lambda: len(node.links(only)) == len(passed))

    assert passed
    assert {link.index: value(link) for link in node.links(only)} == {index: 2 * (index + 1) for index in passed}
    assert {link.token for link in node.links(only)} == {token}


def test_a_value_goes_along_each_of_its_edges(node: Node) -> None:
    first, second = node.worker(), node.worker()
    both = (outlet("double", node.peer(second)), outlet("who", node.peer(second), target=THIRD, edge=b"f" * 16))
    node.use(first, *both)
    node.warm(first, second)
    parent = call(1)
    first.give("one", parent)
    node.until(lambda: len(node.links(second)) == 2)
    assert {link.id for link in node.links(second)} == {child_id(parent.id, EDGE), child_id(parent.id, b"f" * 16)}


def test_values_are_spread_over_the_peers_of_an_edge(node: Node) -> None:
    first, second, third = (node.worker() for _ in range(3))
    node.use(first, outlet("slow", node.peer(second), node.peer(third)))
    eventually(lambda: _reaches_both(node, first, (second, third)), timeout=PATIENCE)


def _reaches_both(node: Node, first: Worker, peers: tuple[Worker, ...]) -> bool:
    done = len(node.items(first))
    first.give("one", *[call(number) for number in range(4)])
    node.until(lambda: len(node.items(first)) == done + 4)
    return {number for item in node.items(first) for _, number in item.passed} == set(map(node.number, peers))


def test_a_chain_ends_before_it_is_too_deep(node: Node) -> None:
    only = node.worker(listens=False)
    # a loop: what it returns comes back to it
    node.use(only, outlet("one", Peer(1, "")), outlet("one", Peer(1, ""), source=SECOND))
    only.give("one", call(0))
    node.until(lambda: any(value(link) == 16 for link in node.links(only)))
    assert [value(link) for link in node.links(only)] == list(range(2, 17))
    assert node.links(only)[-1].item.passed == ()


def test_an_error_goes_nowhere_and_is_told_of(node: Node) -> None:
    first, second = pair(node, "fail")
    first.give("one", call(1))
    node.until(lambda: node.items(first) and node.links(second))
    (link,) = node.links(second)
    assert link.item.error is not None and link.item.error.type == "builtins.ValueError"

    node.said.clear()
    first.give("fail", call(1))
    node.until(lambda: node.items(first))
    assert node.items(first)[0].passed == ()


def test_a_call_that_its_worker_cannot_run_is_refused_and_others_go_on(node: Node) -> None:
    first, second = pair(node, "absent")
    first.give("one", call(1))
    node.until(lambda: node.links(second))
    (link,) = node.links(second)
    assert link.item.error is not None and link.item.error.code == "E_TASK_NOT_FOUND"


def test_what_a_passed_call_prints_is_its_own(node: Node) -> None:
    first, second = pair(node, "say")
    first.give("one", call(1), call(2))
    node.until(lambda: len(node.links(second)) == 2)
    assert [link.item.out for link in node.links(second)] == [b"heard 2\n", b"heard 3\n"]


def test_memory_shows_which_passed_call_runs_and_it_can_be_interrupted(node: Node) -> None:
    first, second = pair(node, "gate")
    parent = call(1)
    token = first.give("one", parent)
    child = child_id(parent.id, EDGE)
    eventually(lambda: second.process.progress.link == child, timeout=PATIENCE)
    assert second.process.progress.read()[:2] == (token, 0)

    second.process.interrupt()
    node.until(lambda: node.links(second))
    (link,) = node.links(second)
    assert link.item.error is not None and link.item.error.code == "E_CANCELLED"


def test_the_agents_calls_run_between_those_of_pipes(node: Node) -> None:
    first, second = pair(node, "slow")
    first.give("one", *[call(number) for number in range(100)])
    node.until(lambda: node.links(second))
    second.give("one", call(1))
    node.until(lambda: node.items(second))
    assert len(node.links(second)) < 100


def test_a_generator_that_came_by_a_pipe_is_left_to_the_broker_before_it_begins(node: Node) -> None:
    first, second = pair(node, "numbers")
    parent = call(1)
    token = first.give("one", parent)
    node.until(lambda: node.untaken(second))
    assert node.untaken(second) == [(token, 0, child_id(parent.id, EDGE))]
    assert node.links(second) == []


def test_what_a_generator_returns_goes_into_no_pipe(node: Node) -> None:
    first, _ = pair(node, "double")
    first.give("numbers", call(3))
    node.until(lambda: node.items(first))
    assert (node.items(first)[0].yielded, node.items(first)[0].passed) == (3, ())


def test_a_message_of_which_nothing_may_be_passed_on_passes_nothing_on(node: Node) -> None:
    first, second = pair(node, "double")
    first.process.send(Run(99, "one", body_of([call(1)]), (0,), passing=False))
    node.until(lambda: node.items(first))
    assert node.items(first)[0].passed == () and node.links(second) == []


def test_a_worker_without_pipes_does_not_load_them(node: Node) -> None:
    first, second = node.worker(listens=False), node.worker()
    first.give("loaded", call())
    second.give("loaded", call())
    node.until(lambda: node.items(first) and node.items(second))
    assert [value(node.items(worker)[0]) for worker in (first, second)] == [False, True]


# large values


def test_a_large_array_is_read_where_its_sender_wrote_it(node: Node) -> None:
    first, second = pair(node, "over_memory")
    first.give("grid", call(500_000))
    node.until(lambda: node.links(second))
    found = value(node.links(second)[0])
    assert isinstance(found, list) and found[0].startswith("c_char_Array") and found[1:] == [True, True]


def test_large_arrays_arrive_whole_however_many_go_through_the_same_memory(node: Node) -> None:
    first, second = pair(node, "total")
    sizes = [20_000, 100_000, 500_000] * 10
    for number, size in enumerate(sizes):
        first.give("grid", *[call(size)] * (number + 1), indexes=[number])
    node.until(lambda: len(node.items(first)) == len(sizes))
    passed = [item.index for item in node.items(first) if item.passed]
    node.until(lambda: len(node.links(second)) == len(passed))
    # more than the window holds at once: the same memory was used again
    assert sum(8 * sizes[index] for index in passed) > protocol.WINDOW_BYTES
    assert {link.index: value(link) for link in node.links(second)} == {
        index: size * (size - 1) / 2 for index, size in enumerate(sizes)
    }


@pytest.mark.parametrize("count", [20_000, 200_000], ids=["inline", "a claim check elsewhere"])
def test_what_a_task_writes_to_its_array_is_its_own(node: Node, count: int) -> None:
    first, second, third = (node.worker() for _ in range(3))
    to_both = (outlet("twice", node.peer(second)), outlet("total", node.peer(third), target=THIRD, edge=b"f" * 16))
    node.use(first, *to_both)
    node.warm(first, second, third)
    first.give("grid", call(count))
    node.until(lambda: node.links(second) and node.links(third))
    blobs = Path(node.folder / "w1" / "blobs")
    doubled = values.decode(node.links(second)[0].item.value or b"", resolve=partial(get, blobs))
    assert doubled[-1] == 2 * (count - 1)  # type: ignore[index]
    assert value(node.links(third)[0]) == count * (count - 1) / 2


def test_a_worker_may_pass_a_large_array_on_to_itself(node: Node) -> None:
    only = node.worker(listens=False)
    node.use(only, outlet("total", Peer(1, "")))
    only.give("grid", call(200_000))
    node.until(lambda: node.links(only))
    assert value(node.links(only)[0]) == 200_000 * 199_999 / 2


def test_arrays_that_a_task_keeps_stay_as_they_are_and_their_memory_is_not_used_again(node: Node) -> None:
    first, second = pair(node, "keep")
    first.give("grid", *[call(100_000 + number) for number in range(60)])
    node.until(lambda: len(node.items(first)) == 60)
    passed = [item.index for item in node.items(first) if item.passed]
    node.until(lambda: len(node.links(second)) == len(passed))
    # 20 MiB of a window hold 26 of them: then the edge spills
    assert 20 < len(passed) < 60
    second.give("let_go", call())
    node.until(lambda: node.items(second))
    assert value(node.items(second)[0]) == [(100_000 + index) * (99_999 + index) / 2 for index in sorted(passed)]


def test_nothing_of_large_values_stays_behind(node: Node) -> None:
    first, second = pair(node, "total")
    first.give("grid", *[call(500_000)] * 4)
    node.until(lambda: len(node.links(second)) == 4)
    for worker in (first, second):
        maps = Path(f"/proc/{worker.pid}/maps").read_text()
        assert "/memfd:pyfi pipe (deleted)" in maps and "/dev/shm" not in maps
    assert sorted(os.listdir(node.pipes)) == ["1", "2"]


def test_where_there_is_no_shared_memory_large_values_go_as_claim_checks(node: Node) -> None:
    none = """
def no_memory(*args):
    raise OSError("no memory")
os.memfd_create = no_memory
"""
    first, second = node.worker(more=none), node.worker()
    (node.folder / "w1" / "blobs").symlink_to(node.folder / "w0" / "blobs")
    node.use(first, outlet("total", node.peer(second)))
    node.warm(first, second)
    first.give("grid", call(20_000), call(200_000))
    node.until(lambda: len(node.links(second)) == 2)
    assert [value(link) for link in node.links(second)] == [20_000 * 19_999 / 2, 200_000 * 199_999 / 2]


# credit


def test_a_full_pipe_makes_its_edge_spill_and_a_free_one_takes_it_back(node: Node) -> None:
    first, second = pair(node, "gate")
    token = first.give("one", *[call(number) for number in range(1_000)])
    node.until(lambda: len(node.items(first)) == 1_000)
    passed = {item.index for item in node.items(first) if item.passed}
    # credit for what came before may be owed still
    assert 200 < len(passed) <= 256 and passed == set(range(len(passed)))

    node.open()
    node.until(lambda: len(node.links(second)) == len(passed))
    assert {link.index for link in node.links(second) if link.token == token} == passed
    node.warm(first, second)


def test_neither_end_grows_under_a_flood(node: Node) -> None:
    first, second = pair(node, "gate")
    before = [memory_mib(worker) for worker in (first, second)]
    text = "x" * 60_000
    for number in range(1, 21):
        first.give("same", *[call(text) for _ in range(40)])
        node.until(lambda count=40 * number: len(node.items(first)) == count)  # type: ignore[misc]
    after = [memory_mib(worker) for worker in (first, second)]
    passed = [item for item in node.items(first) if item.passed]
    node.open()
    node.until(lambda: len(node.links(second)) == len(passed))
    # 800 values are 48 MB; a window of them 15
    assert max(now - was for was, now in zip(before, after, strict=True)) < 32
    assert memory_mib(second) - before[1] < 32


def memory_mib(worker: Worker) -> float:
    return worker.process.resident_mib()


def test_waiting_for_credit_ends_when_it_comes(node: Node) -> None:
    first, second = pair(node, "nothing")
    for _ in range(5):
        first.give("one", *[call(number) for number in range(1_000)])
    node.until(lambda: len(node.items(first)) == 5_000)
    passed = [item for item in node.items(first) if item.passed]
    node.until(lambda: len(node.links(second)) == len(passed))
    # far more than the window holds at once
    assert len(passed) > 1_000


# strangers


class Stranger:
    """Somebody who is not a worker, at either end of a pipe."""

    def __init__(self, kind: int, path: str) -> None:
        self.context = sockets.context()
        self.socket = self.context.socket(kind)
        if kind == zmq.ROUTER:
            self.socket.bind(f"ipc://{path}")
        else:
            self.socket.connect(f"ipc://{path}")
        self.heard: list[bytes] = []

    def hears(self) -> list[bytes]:
        """The parts of its next message."""
        assert self.socket.poll(int(PATIENCE * 1000)), "nobody spoke to it"
        parts = self.socket.recv_multipart()
        self.heard += parts
        return parts

    def told(self, body: bytes) -> Bye:
        """Say this; the answer, which is no welcome."""
        self.socket.send(body)
        answer = protocol.read_from_receiver(self.hears()[-1])
        assert isinstance(answer, Bye)
        return answer

    def close(self) -> None:
        self.socket.close(linger=0)
        self.context.term()


@pytest.fixture
def strangers() -> Iterator[Callable[[int, str], Stranger]]:
    made: list[Stranger] = []

    def stranger(kind: int, path: str) -> Stranger:
        made.append(Stranger(kind, path))
        return made[-1]

    yield stranger
    for one in made:
        one.close()


Strange = Callable[[int, str], Stranger]
DATA = protocol.pack(Data(1, SECOND, "double", (Passed(1, 0, 1, b"i" * 16, values.arguments_of(b"\x01")),)))


def test_a_stranger_is_told_off_and_the_worker_goes_on(node: Node, strangers: Strange) -> None:
    first, second = pair(node, "double")
    stranger = strangers(zmq.DEALER, node.path(second))
    hello = protocol.pack(Hello(1, b"n" * 32, os.getpid()))
    for said, code in (
        (DATA, "E_PIPE_PROTOCOL"),
        (b"garbage", "E_PIPE_PROTOCOL"),
        (bytes(MESSAGE_BYTES + 1), "E_LIMIT"),
        (protocol.pack(Prove(b"p" * 32)), "E_PIPE_PROTOCOL"),
        (protocol.pack(Hello(2, b"n" * 32, os.getpid())), "E_WIRE_VERSION"),
    ):
        assert stranger.told(said).code == code
    stranger.socket.send(hello)
    assert isinstance(protocol.read_from_receiver(stranger.hears()[-1]), Welcome)
    assert stranger.told(DATA).code == "E_PIPE_PROTOCOL"
    stranger.socket.send(hello)
    stranger.hears()
    assert stranger.told(protocol.pack(Prove(b"p" * 32))).code == "E_PIPE_PROTOCOL"
    stranger.socket.send_multipart([b"", DATA])
    answer = protocol.read_from_receiver(stranger.hears()[-1])
    assert isinstance(answer, Bye) and answer.code == "E_PIPE_PROTOCOL"
    # far beyond the limit: ZeroMQ itself cuts it off
    stranger.socket.send(bytes(10 * MESSAGE_BYTES))

    first.give("one", *[call(number) for number in range(100)])
    node.until(lambda: len(node.links(second)) == 100)
    assert {link.index for link in node.links(second)} == set(range(100))


def test_a_sender_with_another_secret_gets_nothing_through(node: Node) -> None:
    first, second = node.worker(), node.worker()
    first.process.send(Outlets(b"x" * 32, (outlet("double", node.peer(second)),)))
    first.give("slow", *[call(1)] * 10)
    node.until(lambda: len(node.items(first)) == 10)
    assert all(item.passed == () for item in node.items(first))
    assert node.links(second) == []


def test_who_stole_a_path_is_given_neither_values_nor_the_secret(node: Node, strangers: Strange) -> None:
    path = str(node.pipes / "stolen")
    thief = strangers(zmq.ROUTER, path)
    first = node.worker()
    node.use(first, outlet("double", Peer(9, path)))
    name, body = thief.hears()
    assert isinstance(protocol.read_from_sender(body), Hello)
    thief.socket.send_multipart([name, protocol.pack(Welcome(b"m" * 32, b"p" * 32, 100, 10_000_000, True))])

    first.give("slow", *[call(number) for number in range(10)])
    node.until(lambda: len(node.items(first)) == 10)
    assert all(item.passed == () for item in node.items(first))
    # it tries anew, and says no more than hello
    thief.hears()
    assert SECRET not in b"".join(thief.heard)
    assert all(isinstance(protocol.read_from_sender(body), Hello) for body in thief.heard[1::2])


def test_a_path_that_is_taken_is_not_taken_over(node: Node, strangers: Strange) -> None:
    path = str(node.pipes / "1")
    first_there = strangers(zmq.ROUTER, path)
    second = node.worker()
    node.use(second, outlet("double", Peer(1, path)))
    # the one that was there first is reached still
    assert isinstance(protocol.read_from_sender(first_there.hears()[-1]), Hello)


def test_a_folder_that_others_may_enter_is_not_used(node: Node) -> None:
    node.pipes.chmod(0o755)
    worker = node.worker(listens=False)
    worker.process.send(Listen(node.path(worker), SECRET))
    worker.give("one", call(1))
    node.until(lambda: node.items(worker))
    assert os.listdir(node.pipes) == []


# ends


def test_a_killed_peer_is_noticed_and_what_it_did_not_take_is_told(node: Node) -> None:
    first, second = pair(node, "gate")
    parents = [call(number) for number in range(100)]
    first.give("one", parents[0])
    node.until(lambda: len(node.items(first)) == 1)
    eventually(lambda: second.process.progress.link == child_id(parents[0].id, EDGE), timeout=PATIENCE)
    other = first.give("one", *parents[1:])
    node.until(lambda: len(node.items(first)) == 100)
    assert all(item.passed == ((EDGE, 2),) for item in node.items(first))

    os.kill(second.pid, signal.SIGKILL)
    node.until(lambda: len(node.untaken(first)) >= 99)
    told = {(other, index, child_id(parent.id, EDGE)) for index, parent in enumerate(parents[1:])}
    # and perhaps some that the peer had no time to say that it has
    assert told <= set(node.untaken(first))

    first.give("one", call(5))
    node.until(lambda: len(node.items(first)) == 101)
    assert (value(node.items(first)[-1]), node.items(first)[-1].passed) == (6, ())


def test_a_stalled_peer_is_left_within_seconds(node: Node) -> None:
    first, second = pair(node, "double")
    os.kill(second.pid, signal.SIGSTOP)
    try:
        first.give("one", call(1))
        node.until(lambda: node.untaken(first))
        first.give("one", call(1))
        node.until(lambda: len(node.items(first)) == 2)
        assert node.items(first)[1].passed == ()
    finally:
        os.kill(second.pid, signal.SIGCONT)
    # whether it still ran what had been sent to it is its own affair: the sender has taken that back
    eventually(lambda: node.through(first, second), timeout=PATIENCE)


def test_a_dead_senders_calls_are_run_with_their_large_values(node: Node) -> None:
    first, second = pair(node, "total")
    (node.folder / "gate").touch()
    first.give("grid", *[call(100_000)] * 8)
    node.until(lambda: len(node.items(first)) == 8)
    node.until(lambda: len(node.links(second)) >= 1)
    os.kill(first.pid, signal.SIGKILL)
    node.until(lambda: first.ended)
    second.give("one", call(1))
    node.until(lambda: node.items(second))
    assert {value(link) for link in node.links(second)} == {100_000 * 99_999 / 2}


def test_a_worker_that_is_told_to_stop_finishes_what_came_and_its_senders_lose_nothing(node: Node) -> None:
    first, second = pair(node, "slow")
    token = first.give("one", *[call(number) for number in range(20)])
    node.until(lambda: node.links(second))
    second.process.send(Stop())
    node.until(lambda: second.ended)
    node.until(lambda: len(node.items(first)) == 20)
    first.give("one", call(1))
    node.until(lambda: len(node.items(first)) == 21)

    passed = {index for index, item in enumerate(node.items(first)) if item.passed}
    assert passed == {link.index for link in node.links(second) if link.token == token} == set(range(20))


def test_a_worker_that_stops_sees_its_last_values_taken(node: Node) -> None:
    first, second = pair(node, "double")
    first.give("one", *[call(number) for number in range(200)])
    first.process.send(Stop())
    node.until(lambda: first.ended)
    passed = [item for item in node.items(first) if item.passed]
    node.until(lambda: len(node.links(second)) == len(passed))
    assert len(passed) == 200 and node.untaken(first) == []


def test_stopping_both_ends_at_once_ends_both(node: Node) -> None:
    first, second = pair(node, "double")
    node.use(second, outlet("double", node.peer(first), source=SECOND, target=THIRD))
    first.give("one", *[call(number) for number in range(50)])
    first.process.send(Stop())
    second.process.send(Stop())
    node.until(lambda: first.ended and second.ended)
    accounted = {link.index for link in node.links(second)} | {index for _, index, _ in node.untaken(first)}
    assert {item.index for item in node.items(first) if item.passed} <= accounted


def test_pipes_that_are_not_named_any_more_are_closed(node: Node) -> None:
    first, second = pair(node, "double")
    first.give("one", *[call(number) for number in range(20)])
    node.use(first)
    first.give("one", call(1))
    node.until(lambda: len(node.items(first)) == 21 and len(node.links(second)) == 20)
    assert node.items(first)[-1].passed == () and node.untaken(first) == []

    node.use(first, outlet("double", node.peer(second)))
    node.warm(first, second)


# what user code may do


@pytest.mark.parametrize("task", ["fork_and_return", "fork_and_exit", "close_small"])
def test_pipes_survive_what_user_code_does(node: Node, task: str) -> None:
    first, second = pair(node, task)
    first.give("one", call(1))
    node.until(lambda: node.links(second))
    assert node.links(second)[0].item.error is None or task == "close_small"
    second.give(task, *([] if task == "close_small" else [call(1)]) or [call()])
    first.give(task, *([] if task == "close_small" else [call(1)]) or [call()])
    node.until(lambda: node.items(first)[1:] and node.items(second))
    node.warm(first, second)


def test_an_environment_whose_zmq_is_another_has_no_pipes_and_works(node: Node) -> None:
    worker = node.worker(listens=False, zmq="Context = None")
    worker.process.send(Listen(node.path(worker), SECRET))
    node.use(worker, outlet("double", Peer(1, "")))
    worker.give("one", call(1))
    node.until(lambda: node.items(worker))
    assert (value(node.items(worker)[0]), node.items(worker)[0].passed) == (2, ())


def test_a_forked_child_writes_to_memory_of_its_own(node: Node) -> None:
    first, second = pair(node, "fork_and_write")
    first.give("grid", call(100_000))
    node.until(lambda: node.links(second))
    assert value(node.links(second)[0]) == 0.0


def test_a_forked_child_that_outlives_its_call_keeps_its_array(node: Node) -> None:
    first, second = pair(node, "fork_and_leave")
    first.give("grid", call(100_000))
    node.until(lambda: node.links(second))
    node.use(first, outlet("total", node.peer(second)))
    node.warm(first, second)
    first.give("grid", *[call(99_000 + number) for number in range(20)])
    node.until(lambda: len(node.links(second)) == 20)

    node.open()
    seen = node.folder / "gate.seen"
    eventually(lambda: seen.exists() and seen.read_text() == "[0.0, 99999.0]", timeout=PATIENCE)


def test_signals_of_slurm_do_not_disturb_pipes(node: Node) -> None:
    first, second = pair(node, "slow")
    first.give("one", *[call(number) for number in range(20)])
    for _ in range(20):
        for worker in (first, second):
            os.kill(worker.pid, signal.SIGUSR2)
        node.hear()
    node.until(lambda: len(node.links(second)) == 20)
