"""One sender as the receiver knows it: who it is, what it may send, what it is owed. Pure."""

from __future__ import annotations

from hmac import compare_digest

from pyfi_hpc.errors import BadInput
from pyfi_hpc.pipes.protocol import (
    RECEIVER,
    SENDER,
    VERSION,
    WINDOW_BYTES,
    WINDOW_ITEMS,
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


def size_of(call: Passed) -> int:
    """What a call counts in the window, in bytes."""
    args = call.args
    return len(args) if type(args) is bytes else args.size  # type: ignore[union-attr]  # a Place


class Receiving:
    """The receiver's side of one connection."""

    def __init__(self, secret: bytes, nonce: bytes, items: int = WINDOW_ITEMS, size: int = WINDOW_BYTES) -> None:
        """`nonce` is used for this connection alone; the window that will be granted."""
        self._secret, self._nonce = secret, nonce
        self._window = Window(items, size)
        self._greeting: bytes | None = None
        self._proven = False
        self._taken = self._told = 0
        self._items = self._size = 0
        self._returned: list[int] = []

    def greeted(self, frame: Hello, shares: bool) -> Welcome:
        """Answer a HELLO; `shares` when the sender's arena can be reached.

        Raises:
            BadInput: E_PIPE_PROTOCOL or E_WIRE_VERSION.
        """
        if self._greeting is not None:
            raise broken("message", "HELLO", "a sender says hello once")
        if frame.version > VERSION:
            raise BadInput.of("E_WIRE_VERSION", "version", frame.version, f"pipes of this worker speak {VERSION}")
        self._greeting = frame.nonce
        proven = proof(self._secret, RECEIVER, frame.nonce, self._nonce)
        return Welcome(self._nonce, proven, self._window.items, self._window.size, shares)

    def proved(self, frame: Prove) -> None:
        """The sender says that it knows the secret.

        Raises:
            BadInput: E_PIPE_PROTOCOL, it does not.
        """
        if self._greeting is None or self._proven:
            raise broken("message", "PROVE", "it comes once, after HELLO")
        if not compare_digest(frame.proof, proof(self._secret, SENDER, self._greeting, self._nonce)):
            raise broken("proof", "PROVE", "the sender does not know the secret")
        self._proven = True

    def arrived(self, frame: Data) -> tuple[Passed, ...]:
        """The calls of a DATA; each counts against the window until it is finished.

        Raises:
            BadInput: E_PIPE_PROTOCOL: it comes too early, twice or out of order, or goes beyond the window.
        """
        if not self._proven:
            raise broken("message", "DATA", "a sender says hello and proves itself first")
        if frame.seq != self._taken + 1:
            raise broken("seq", frame.seq, f"after {self._taken} comes {self._taken + 1}")
        count, size = len(frame.calls), sum(map(size_of, frame.calls))
        if not self._window.take_all(count, size):
            raise broken("window", f"{count} calls, {size} bytes", "a sender keeps within the window")
        self._taken = frame.seq
        return frame.calls

    def finished(self, size: int) -> None:
        """A call is done with; `size` of its bytes are free again, 0 while somebody still reads them."""
        self._items += 1
        self._size += size

    def released(self, start: int, size: int) -> None:
        """Nobody reads the `size` bytes from `start` of the sender's arena any more."""
        self._size += size
        self._returned.append(start)

    @property
    def owes(self) -> bool:
        """Whether a CREDIT has something to say."""
        return bool(self._taken > self._told or self._items or self._size)

    @property
    def owes_much(self) -> bool:
        """Whether it should be said soon: a quarter of the window's calls, or an eighth of its bytes.

        So the place of an array of 4 MB goes back at once, and the next one is written while the cache has it still.
        """
        return 4 * self._items >= self._window.items or 8 * self._size >= self._window.size

    def credit(self) -> Credit:
        """What is owed; from here on it is told."""
        frame = Credit(self._taken, self._items, self._size, tuple(self._returned))
        self._window.give(self._items, self._size)
        self._told, self._items, self._size = self._taken, 0, 0
        self._returned = []
        return frame
