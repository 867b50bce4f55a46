"""Large values on their way to the disk, beside those who wait for that: who is told what, and when."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pyfi_hpc.client.packing import Packer
from pyfi_hpc.client.storing import WAITING, WRITERS
from pyfi_hpc.client.storing import Storing as ClientStoring
from pyfi_hpc.errors import PyfiError, Unavailable
from pyfi_hpc.wire import blobs, values
from pyfi_hpc.wire.blobs import Content
from pyfi_hpc.wire.frames import Done, FrameBuffer, Item, Progress, read_for_agent
from pyfi_hpc.worker.outbox import Outbox
from pyfi_hpc.worker.storing import Storing
from tests.support import eventually

CONTENT = blobs.weighed(b"a large value")


class Slow:
    """Stores a content when it is let."""

    def __init__(self) -> None:
        self.begun, self._let = threading.Semaphore(0), threading.Semaphore(0)
        self.error: Exception | None = None

    def keep(self, content: Content) -> None:
        """See `blobs.keep`."""
        self.begun.release()
        assert self._let.acquire(timeout=60)
        if self.error is not None:
            raise self.error

    def let(self, count: int = 1) -> None:
        """So many get there."""
        self._let.release(count)


class Worker:
    """The parts of one, with its agent's end."""

    def __init__(self, memory: int) -> None:
        self.agent, mine = socket.socketpair()
        self.mine = mine
        self.progress, self.slow = Progress(memory), Slow()
        self.outbox = Outbox(mine, self.progress)
        self.storing = Storing(mine, self.progress, self.outbox, self.slow.keep)
        self._frames = FrameBuffer()

    def put(self, index: int) -> None:
        """Member `index` of message 7 is finished, but for its result."""
        item = Item(index, values.encode_blob(*CONTENT.reference), None, 1.0, 2.0, b"out", b"err")
        self.storing.put(7, item, 1.0, CONTENT)

    def told(self) -> list[Item]:
        """What the agent hears next."""
        self.agent.settimeout(60)
        bodies: list[bytes] = []
        while not bodies:
            bodies = self._frames.feed(self.agent.recv(65_536))
        frames = [read_for_agent(body) for body in bodies]
        return [item for frame in frames if isinstance(frame, Done) for item in frame.items]

    @property
    def nothing_told(self) -> bool:
        """The agent has heard nothing."""
        self.agent.setblocking(False)
        try:
            self.agent.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        return False

    @property
    def running(self) -> tuple[int, int]:
        """What the agent sees run."""
        return self.progress.running()[:2]


@pytest.fixture
def worker() -> Iterator[Worker]:
    memory = os.memfd_create("progress")
    os.ftruncate(memory, Progress.SIZE)
    made = Worker(memory)
    with closing(made.agent), closing(made.mine):
        yield made
        made.slow.let(100)
        made.storing.settle()
    os.close(memory)


def aside(work: Callable[[], object]) -> threading.Thread:
    """Do it on another thread."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def over(thread: threading.Thread) -> None:
    """It comes to an end."""
    thread.join(60)
    assert not thread.is_alive()


def test_a_result_is_told_once_it_is_stored_and_not_before(worker: Worker) -> None:
    worker.put(3)
    assert worker.slow.begun.acquire(timeout=60)
    assert worker.nothing_told and worker.storing.busy

    worker.slow.let()

    (item,) = worker.told()
    assert (item.index, values.blob_in(item.value or b"")) == (3, CONTENT.reference)
    assert (item.out, item.err, item.started, item.ended) == (b"out", b"err", 1.0, 2.0)
    eventually(lambda: not worker.storing.busy, timeout=60)


def test_while_nothing_else_runs_the_agent_sees_the_call_whose_result_is_stored(worker: Worker) -> None:
    worker.put(3)
    waiting = aside(worker.storing.settle)
    eventually(lambda: worker.running == (7, 3), timeout=60)

    worker.slow.let()

    over(waiting)
    assert worker.running == (7, -1)


def test_what_the_agent_says_ends_the_waiting_for_the_disk(worker: Worker) -> None:
    worker.put(3)
    waiting = aside(worker.storing.wait_for_agent)
    eventually(lambda: worker.running == (7, 3), timeout=60)

    worker.agent.sendall(b"more to do")

    over(waiting)
    assert worker.running == (7, -1) and worker.storing.busy


def test_results_that_wait_for_the_disk_are_few(worker: Worker) -> None:
    for index in (0, 1):
        worker.put(index)
    third = aside(lambda: worker.put(2))
    eventually(lambda: worker.running == (7, 0), timeout=60)
    assert third.is_alive()

    worker.slow.let()

    over(third)


def test_a_result_that_cannot_be_stored_is_no_result(worker: Worker) -> None:
    worker.slow.error = Unavailable("E_STORAGE_FULL", "the blob folder is full")
    worker.slow.let(2)

    worker.put(3)

    (item,) = worker.told()
    assert item.value is None and item.error is not None
    assert (item.index, item.error.code, item.error.cause) == (3, "E_STORAGE_FULL", "environment")
    worker.slow.error = None
    worker.put(4)
    assert worker.told()[0].error is None


# on the calling side


class SlowPacker(Packer):
    """Stores what it is given when it is let."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.slow = Slow()

    def keep(self, content: Content) -> values.BlobRef:
        self.slow.keep(content)
        return super().keep(content)


@pytest.fixture
def packer(tmp_path: Path) -> SlowPacker:
    return SlowPacker(tmp_path)


@pytest.fixture
def storing(packer: SlowPacker) -> Iterator[ClientStoring]:
    with closing(ClientStoring(packer)) as made:
        yield made
        packer.slow.let(1000)


def test_a_caller_is_told_once_all_of_a_calls_arguments_are_durable(
    storing: ClientStoring, packer: SlowPacker, tmp_path: Path
) -> None:
    contents = [blobs.weighed(text) for text in (b"one", b"two")]
    told: list[PyfiError | None] = []
    storing.put(contents, told.append)
    packer.slow.let()
    assert packer.slow.begun.acquire(timeout=60) and packer.slow.begun.acquire(timeout=60)
    assert told == []

    packer.slow.let()

    eventually(lambda: told == [None], timeout=60)
    assert [bytes(blobs.get(tmp_path, each.reference)) for each in contents] == [b"one", b"two"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("E_STORAGE_FULL", "full"), "E_STORAGE_FULL"),
        (PermissionError("no"), "E_DENIED"),
        (OSError("odd"), "E_INTERNAL"),
    ],
    ids=["full", "denied", "odd"],
)
def test_a_caller_is_told_why_not(storing: ClientStoring, packer: SlowPacker, error: Exception, code: str) -> None:
    told: list[PyfiError | None] = []
    packer.slow.error = error
    packer.slow.let()

    storing.put([CONTENT], told.append)

    eventually(lambda: [each and each.code for each in told] == [code], timeout=60)


def test_whoever_brings_too_much_waits(storing: ClientStoring, packer: SlowPacker) -> None:
    for _ in range(WRITERS + WAITING):
        storing.put([CONTENT], lambda _: None)
    one_more = aside(lambda: storing.put([CONTENT], lambda _: None))
    for _ in range(WRITERS):
        assert packer.slow.begun.acquire(timeout=60)
    assert one_more.is_alive()

    packer.slow.let()

    over(one_more)


def test_what_is_left_is_stored_before_the_end(packer: SlowPacker) -> None:
    told: list[PyfiError | None] = []
    storing = ClientStoring(packer)
    storing.put([CONTENT], told.append)
    packer.slow.let()

    storing.close()

    assert told == [None]
