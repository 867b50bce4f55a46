"""Real workers for tests: started by the agent's own `WorkerProcess`, fed with real messages."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyfi_hpc
from pyfi_hpc.agent.process import Launch, WorkerProcess
from pyfi_hpc.wire import ids, messages, values
from pyfi_hpc.wire.frames import Done, Hello, Item, Run, ToAgent
from pyfi_hpc.wire.messages import Call, ErrorRecord, Message

SOCKET = ids.new_id()
OUR_FOLDER = Path(pyfi_hpc.__path__[0]).parent


def call(*args: object, **kwargs: object) -> Call:
    """A call with these arguments."""
    return raw_call(values.encode_arguments(args, kwargs))


def raw_call(args: bytes) -> Call:
    """A call whose arguments are these bytes."""
    return Call(ids.new_id(), args, ids.call_digest(SOCKET, args))


def body_of(calls: Sequence[Call]) -> bytes:
    """The bytes of a message with these calls."""
    return messages.encode(Message(messages.WIRE_VERSION, ids.new_id(), "tester", SOCKET, 1, tuple(calls)))


class Worker:
    """One worker process and what it said."""

    def __init__(self, process: WorkerProcess) -> None:
        self.process, self.frames, self.ended = process, list[ToAgent](), False
        self._token = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self, seconds: float = 20.0) -> ToAgent | None:
        """The next frame; None at the end of the stream."""
        deadline = time.monotonic() + seconds
        while not self.frames and not self.ended:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.socket], [], [], left)[0]:
                raise AssertionError(f"the worker said nothing for {seconds} s; it printed {self.process.tails()!r}")
            frames, self.ended = self.process.read()
            self.frames += frames
        return self.frames.pop(0) if self.frames else None

    def hello(self) -> Hello:
        """Its first words."""
        hello = self.hear()
        assert isinstance(hello, Hello), hello
        return hello

    def give(self, task: str, *calls: Call, indexes: Sequence[int] | None = None) -> int:
        """Hand over a message of these calls; its token."""
        self._token += 1
        wanted = tuple(range(len(calls)) if indexes is None else indexes)
        self.process.send(Run(self._token, task, body_of(calls), wanted))
        return self._token

    def items(self, token: int, count: int) -> list[Item]:
        """The `count` items of that message, in the order in which they came."""
        items: list[Item] = []
        while len(items) < count:
            done = self.hear()
            assert isinstance(done, Done), f"{done!r}; it printed {self.process.tails()!r}"
            assert done.token == token
            items += done.items
        return items

    def run(self, task: str, *calls: Call) -> list[Item]:
        """What comes of these calls."""
        return self.items(self.give(task, *calls), len(calls))

    def one(self, task: str, *args: object, **kwargs: object) -> Item:
        """What comes of one call with these arguments."""
        (item,) = self.run(task, call(*args, **kwargs))
        return item

    def value(self, task: str, *args: object, **kwargs: object) -> object:
        """The value of one call."""
        item = self.one(task, *args, **kwargs)
        assert item.value is not None, item.error
        return values.decode(item.value)

    def error(self, task: str, *args: object, **kwargs: object) -> ErrorRecord:
        """Why one call gave no value."""
        item = self.one(task, *args, **kwargs)
        assert item.error is not None and item.value is None, item
        return item.error


def started(
    folder: Path,
    source: str,
    *,
    cores: Sequence[int] = (),
    max_value_bytes: int = 1 << 30,
    blob_quota_bytes: int = 0,
    extra: Mapping[str, str] | None = None,
) -> Worker:
    """A worker of a module with this `source`, which is written to `folder`; it has not said hello yet."""
    (folder / "user_tasks.py").write_text(source)
    scratch, blobs = folder / "scratch", folder / "blobs"
    scratch.mkdir(exist_ok=True)
    path = f"{folder}:{OUR_FOLDER}"
    variables = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **(extra or {})}
    limits = max_value_bytes, variables, blob_quota_bytes
    return Worker(WorkerProcess(1, Launch(Path(sys.executable), "user_tasks", cores, blobs, scratch, *limits)))
