"""Large arguments are stored beside their caller, several at once: each waits for the disk most of its time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pyfi_hpc.client.packing import Packer
from pyfi_hpc.errors import PyfiError, Unavailable
from pyfi_hpc.wire.blobs import Content

#: So many are written at once, and so many more wait, before whoever brings another has to wait.
WRITERS, WAITING = 4, 12


class Storing:
    """For callers on any thread; ends with `close`."""

    def __init__(self, packer: Packer) -> None:
        self._packer = packer
        self._room = threading.BoundedSemaphore(WRITERS + WAITING)
        self._pool = ThreadPoolExecutor(WRITERS, thread_name_prefix="pyfi-storing")

    def put(self, contents: Sequence[Content], then: Callable[[PyfiError | None], None]) -> None:
        """Have these stored, and `then` called on another thread: they are durable, or why not."""
        self._room.acquire()
        try:
            self._pool.submit(self._store, contents, then)
        except BaseException:
            self._room.release()
            raise

    def _store(self, contents: Sequence[Content], then: Callable[[PyfiError | None], None]) -> None:
        error: PyfiError | None = None
        try:
            for content in contents:
                self._packer.keep(content)
        except PyfiError as found:
            error = found
        except Exception as found:
            code = "E_DENIED" if isinstance(found, PermissionError) else "E_INTERNAL"
            error = Unavailable(code, f"the arguments cannot be stored: {found}", cure="pyfi doctor")
        finally:
            self._room.release()
        then(error)

    def close(self) -> None:
        """Return once all are stored."""
        self._pool.shutdown()
