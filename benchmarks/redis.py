"""Debian's Redis in a directory and on a port of its own, for peers that keep their results there."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from pyfi_hpc.box.ports import lease_port
from pyfi_hpc.processes import until


class Redis:
    """A server that appends to its log and syncs it each second; it ends with the context."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lease = folder, lease_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self._lease.number}/0"

    @property
    def pid(self) -> int:
        """The server."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        program = shutil.which("redis-server")
        if program is None:
            raise RuntimeError("redis-server is not installed: apt-get install redis-server")
        words = f"--bind 127.0.0.1 --port {self._lease.number} --appendonly yes --appendfsync everysec".split()
        # without the limit: it ends the connection of a client that is sent many large results at once
        words += ["--client-output-buffer-limit", "pubsub", "0", "0", "0", "--save"]
        self._folder.mkdir()
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, *words, "", "--dir", str(self._folder)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if not until(self._answers, timeout=10):
            self.__exit__(None, None, None)
            raise RuntimeError(f"redis-server does not start: {(self._folder / 'log').read_text()[-500:]}")
        return self

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._lease.number), timeout=1).close()
        except OSError:
            return False
        return True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
        self._lease.release()
