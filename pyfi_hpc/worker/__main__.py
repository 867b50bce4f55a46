"""`ENV/bin/python -m pyfi_hpc.worker --fd 3 …`: started by an agent, never by hand."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from pyfi_hpc.worker import isolation

if TYPE_CHECKING:
    from pyfi_hpc.wire.messages import ErrorRecord

_TRACEBACK_CHARS = 20_000


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="pyfi_hpc.worker")
    parser.add_argument("--fd", type=int, required=True, help="the socket to the agent")
    parser.add_argument("--progress-fd", type=int, required=True, help="memory shared with the agent")
    parser.add_argument("--parent", type=int, required=True, help="the agent's pid")
    parser.add_argument("--module", required=True)
    parser.add_argument("--cores", default="", help="comma-separated core numbers")
    parser.add_argument("--blobs", type=Path, required=True)
    parser.add_argument("--max-value-bytes", type=int, default=1 << 30)
    return parser.parse_args()


def main() -> int:
    """Serve until told to stop."""
    options = _arguments()
    isolation.tie_to(options.parent)
    isolation.pin(int(core) for core in options.cores.split(",") if core)
    # only now: importing these takes a while, and the agent may die meanwhile
    from pyfi_hpc.wire.frames import Hello, Progress
    from pyfi_hpc.worker.calls import Runner
    from pyfi_hpc.worker.loop import Loop
    from pyfi_hpc.worker.output import Captured

    connection = socket.socket(fileno=isolation.out_of_reach(options.fd))
    progress_file = isolation.out_of_reach(options.progress_fd)
    progress = Progress(progress_file)
    os.close(progress_file)
    loop = Loop(connection, progress, Captured())
    try:
        module = importlib.import_module(options.module)
    except BaseException as error:
        loop.send(Hello(os.getpid(), platform.python_version(), _import_error(options.module, error)))
        return 1
    signal.signal(signal.SIGINT, loop.interrupt)
    loop.send(Hello(os.getpid(), platform.python_version()))
    loop.serve(Runner(module, options.blobs, options.max_value_bytes))
    # threads that user code left behind are not waited for
    os._exit(0)


def _import_error(module: str, error: BaseException) -> ErrorRecord:
    from pyfi_hpc.wire.messages import ErrorRecord

    text = "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace").decode()
    what = f"module {module} cannot be imported: {type(error).__name__}: {error}"
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    safe = what.encode("utf-8", "backslashreplace").decode()
    return ErrorRecord(kind, safe[:2000], text[-_TRACEBACK_CHARS:], "E_IMPORT", "environment")


if __name__ == "__main__":
    sys.exit(main())
