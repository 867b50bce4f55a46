"""A TCP way to a service which a test may slow down, cut in the midst of a frame, or put rubbish on."""

from __future__ import annotations

import random
import re
import socket
import struct
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

_RUBBISH = b"\xff" * 16


class FaultProxy:
    """Passes on what comes to `port`. From the service's side and towards it alike, but for `rubbish`.

    Attributes:
        delay: seconds that each piece is held back.
        sliced: how many bytes of each new connection travel one by one.
        rubbish: each connection's next piece from the service has bytes in it that nobody sent; the number left.
    """

    def __init__(self, host: str, port: int, seed: int = 16) -> None:
        self._service = host, port
        self.delay, self.sliced, self.rubbish = 0.0, 0, 0
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @classmethod
    def before(cls, uri: str) -> Self:
        """One that stands before the service of that address."""
        found = re.search(r"@([^:/@]+):(\d+)/", uri)
        assert found is not None
        return cls(found[1], int(found[2]))

    def instead(self, uri: str) -> str:
        """The address by which the service is reached through this proxy."""
        return re.sub(r"@[^:/@]+:\d+/", f"@127.0.0.1:{self.port}/", uri)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> int:
        """Reset every connection where it stands; how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for each in pair:
                _reset(each)
        return len(pairs)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    service = socket.create_connection(self._service)
                except OSError:
                    _reset(client)
                    continue
                with self._lock:
                    self._pairs.add((client, service))
                for source, target, back in ((client, service, False), (service, client, True)):
                    threading.Thread(target=self._pump, args=(source, target, back), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, back: bool) -> None:
        sliced = self.sliced
        with suppress(OSError):
            while piece := source.recv(65_536):
                if self.delay:
                    time.sleep(self.delay)
                if back and self._spends_rubbish():
                    # in the midst of it: what follows is at another place than its frame says
                    at = self._dice.randrange(len(piece))
                    piece = piece[:at] + _RUBBISH + piece[at:]
                first, piece = piece[: max(0, sliced)], piece[max(0, sliced) :]
                sliced -= len(first)
                for byte in first:
                    target.sendall(bytes([byte]))
                target.sendall(piece)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _spends_rubbish(self) -> bool:
        with self._lock:
            spends = self.rubbish > 0
            self.rubbish -= spends
            return spends


def _reset(sock: socket.socket) -> None:
    """Close it so that the other end is told of a reset."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        sock.close()
