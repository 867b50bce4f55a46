"""One pipe as its sender knows it: greeted or not, what is gathered, what is not known to be taken. Pure."""

from __future__ import annotations

from collections import deque
from hmac import compare_digest
from typing import NamedTuple

from pyfi_hpc.pipes.protocol import (
    BATCH_BYTES,
    RECEIVER,
    SENDER,
    VERSION,
    WINDOW_ITEMS,
    Arena,
    Credit,
    Data,
    Hello,
    Passed,
    Prove,
    Welcome,
    broken,
    proof,
)
from pyfi_hpc.pipes.window import Window

#: A call whose fate the sender has to tell: token and index of its head, and its own id.
Key = tuple[int, int, bytes]


class _Batch(NamedTuple):
    calls: list[Passed]
    size: list[int]


class Sending:
    """The sender's side of one connection. A broken connection is never mended: its successor is a new one of these."""

    def __init__(self, secret: bytes, nonce: bytes) -> None:
        """`nonce` is used for this connection alone."""
        self._secret, self._nonce = secret, nonce
        self.window = Window()
        #: nothing more goes: an end has said so, the receiver does not know the secret, or the connection is gone
        self.stopped = False
        #: whether large values may go through memory
        self.shares = False
        self._gathered: dict[tuple[bytes, str], list[_Batch]] = {}
        self._sent = 0
        self._untaken: deque[tuple[int, tuple[Passed, ...]]] = deque()

    @property
    def welcome(self) -> bool:
        """Whether the receiver has answered and takes calls."""
        return self.window.items > 0 and not self.stopped

    def hello(self, pid: int, arena: Arena | None) -> Hello:
        """The first message."""
        return Hello(VERSION, self._nonce, pid, arena)

    def welcomed(self, frame: Welcome) -> Prove:
        """The receiver answered; the second message.

        Raises:
            BadInput: E_PIPE_PROTOCOL: it does not know the secret, so it is not who it should be; or it answers twice.
        """
        if self.window.items:
            raise broken("message", "WELCOME", "a receiver answers once")
        if not compare_digest(frame.proof, proof(self._secret, RECEIVER, self._nonce, frame.nonce)):
            self.stopped = True
            raise broken("proof", "WELCOME", "who listens there does not know the secret")
        self.shares = frame.shares
        self.window = Window(frame.items, frame.size)
        return Prove(proof(self._secret, SENDER, self._nonce, frame.nonce))

    def add(self, socket: bytes, task: str, call: Passed, size: int) -> None:
        """`call` goes with the next message to its target; its `size` counts against the window, which has room."""
        self.window.take(size)
        batches = self._gathered.get((socket, task))
        if batches is None:
            batches = self._gathered[socket, task] = [_Batch([], [0])]
        last = batches[-1]
        if last.size[0] >= BATCH_BYTES or len(last.calls) >= WINDOW_ITEMS:
            batches.append(last := _Batch([], [0]))
        last.calls.append(call)
        if type(call.args) is bytes:
            last.size[0] += size

    @property
    def gathering(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._gathered)

    def messages(self) -> list[Data]:
        """What has gathered, numbered; it counts as sent and not taken from here on."""
        messages = []
        for (socket, task), batches in self._gathered.items():
            for batch in batches:
                self._sent += 1
                calls = tuple(batch.calls)
                self._untaken.append((self._sent, calls))
                messages.append(Data(self._sent, socket, task, calls))
        self._gathered.clear()
        return messages

    def credited(self, frame: Credit) -> None:
        """The receiver has taken messages, or has finished calls.

        Raises:
            BadInput: E_PIPE_PROTOCOL, it cannot have.
        """
        if frame.taken > self._sent:
            raise broken("taken", frame.taken, "so much was never sent")
        self.window.give(frame.items, frame.size)
        while self._untaken and self._untaken[0][0] <= frame.taken:
            self._untaken.popleft()

    @property
    def untaken(self) -> bool:
        """Whether something was sent that the receiver has not confirmed."""
        return bool(self._untaken)

    def stop(self) -> None:
        """Add no more calls; those that were sent may still be taken."""
        self.stopped = True
        self.window.shut()

    def close(self) -> list[Key]:
        """Nothing more goes; the calls of which it is not known that the receiver has them."""
        self.stopped = True
        self.window = Window()
        waiting = [call for batches in self._gathered.values() for batch in batches for call in batch.calls]
        sent = [call for _, calls in self._untaken for call in calls]
        self._gathered.clear()
        self._untaken.clear()
        return [(call.token, call.index, call.id) for call in sent + waiting]
