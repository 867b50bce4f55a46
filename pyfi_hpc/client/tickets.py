"""Who waits for which calls to be accepted."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence

from pyfi_hpc.client.futures import Future
from pyfi_hpc.errors import BadInput, BrokerUnavailable, PyfiError
from pyfi_hpc.wire.ids import id_text

#: More ids than this are counted, not listed, in an error's text; its facts have them all.
_LISTED = 5


class Ticket:
    """A number of calls that somebody has handed over, and what the broker said of them."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._open = 0
        self._told: list[Callable[[], None]] = []
        self.refused: list[tuple[Future, PyfiError]] = []

    def add(self, calls: int) -> None:
        """So many more are on their way."""
        with self._news:
            self._open += calls

    def settle(self, calls: int, refused: Iterable[tuple[Future, PyfiError]] = ()) -> None:
        """So many are accepted or refused."""
        with self._news:
            self._open -= calls
            self.refused.extend(refused)
            if self._open:
                return
            self._news.notify_all()
            told, self._told = self._told, []
        for tell in told:
            tell()

    def tell(self, tell: Callable[[], None]) -> None:
        """Have `tell` called, from any thread, once each is accepted or refused; at once where that is so."""
        with self._news:
            if self._open:
                self._told.append(tell)
                return
        tell()

    def wait(self, seconds: float | None = None) -> bool:
        """Return once each is accepted or refused; the sender sees to it that this comes to an end. False where that
        takes more than so many seconds."""
        with self._news:
            return self._news.wait_for(lambda: not self._open, seconds)


def not_accepted(refused: list[tuple[Future, PyfiError]], every: Sequence[Future] = ()) -> PyfiError:
    """The error that names the calls which were refused, out of `every`; its cause is the first one's."""
    ids = [id_text(future.identity) for future, _ in refused]
    first = refused[0][1]
    kind = BadInput if isinstance(first, BadInput) else BrokerUnavailable
    listed = ", ".join(ids[:_LISTED]) + (f" and {len(ids) - _LISTED} more" if len(ids) > _LISTED else "")
    cure = "these may be repeated with the same ids" if kind is BrokerUnavailable else first.cure
    what = f"{len(ids)} calls are not accepted: {first.what}"
    error = kind("E_NOT_ACCEPTED", what, at=listed, cure=cure, ids=ids, futures=list(every), reason=first.code)
    error.__cause__ = first
    return error


def unsent(error: PyfiError, number: int) -> PyfiError:
    """`error`, which says that it is about input `number`, from 0: `facts["input"]`."""
    error.at = f"inputs[{number}] {error.at or ''}".rstrip()
    error.facts["input"] = number
    return error


def unsent_after(error: PyfiError, accepted: Sequence[Future]) -> PyfiError:
    """`error` of the input that comes after these, all of which are accepted: `facts["futures"]`, one for each."""
    unsent(error, len(accepted))
    error.at = f"{error.at}; the inputs before it are accepted: {len(accepted)}"
    error.facts["futures"] = list(accepted)
    return error


class AcceptedLog:
    """The file named by `PYFI_ACCEPTED_LOG`: one line for each accepted id, written after its confirm, or
    its outcome where no confirm came."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def wanted(self) -> bool:
        """Whether there is to be one."""
        return bool(self._path)

    def write(self, futures: Iterable[Future]) -> None:
        """Append their ids in one write, so that lines of several processes do not mix."""
        if not self._path:
            return
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o600)
        os.write(self._descriptor, "".join(f"{id_text(future.identity)}\n" for future in futures).encode())
