"""Values that a reply has left out, being too large for it: read from their rows, those of several calls at a time."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from itertools import islice

from pyfi_hpc.client import rows
from pyfi_hpc.client.futures import Future
from pyfi_hpc.client.link import Link
from pyfi_hpc.errors import BadInput
from pyfi_hpc.wire.ids import id_text

#: Whoever asks for one value brings those of so many more, that somebody still holds: a call each would cost as much.
AHEAD = 31


class Unread:
    """Futures that are done and have no value yet, oldest first; they are let go when nobody holds them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._futures: weakref.WeakValueDictionary[bytes, Future] = weakref.WeakValueDictionary()

    def add(self, futures: Iterable[Future]) -> None:
        """These came without their values."""
        with self._lock:
            self._futures.update((future.identity, future) for future in futures)

    def value(self, link: Link, owner: str, future: Future) -> bytes:
        """The encoded value of that one, read now.

        Raises:
            BadInput: E_FORGOTTEN, it is not kept any more.
        """
        others = self._others(future)
        ids = [future.identity, *others]
        found = link.run(lambda cursor: rows.values(cursor, owner, ids))
        for identity, other in others.items():
            if identity in found:
                other.bring(found[identity])
        if future.identity not in found:
            raise BadInput.of("E_FORGOTTEN", "id", id_text(future.identity))
        return found[future.identity]

    def _others(self, future: Future) -> dict[bytes, Future]:
        """Those whose values are brought with it."""
        with self._lock:
            self._futures.pop(future.identity, None)
            first = list(islice(self._futures, AHEAD))
            popped = [(identity, self._futures.pop(identity, None)) for identity in first]
        return {identity: other for identity, other in popped if other is not None}
