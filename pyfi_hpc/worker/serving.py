"""From a started process to a worker that takes calls, and its end."""

from __future__ import annotations

import importlib
import os
import socket
import sys
from types import ModuleType

from pyfi_hpc.wire.frames import Hello, Progress
from pyfi_hpc.wire.messages import ErrorRecord
from pyfi_hpc.worker import failures, isolation
from pyfi_hpc.worker.calls import Runner
from pyfi_hpc.worker.interrupts import Interrupts
from pyfi_hpc.worker.loop import Loop
from pyfi_hpc.worker.options import Options
from pyfi_hpc.worker.outbox import Outbox
from pyfi_hpc.worker.output import Captured

#: Such as 3.11.7; `platform`, which has it too, takes a while to load.
_VERSION = sys.version.split()[0]


def serve(options: Options) -> None:
    """Say hello, run calls until told to stop; ends the process where the module cannot be used."""
    connection = socket.socket(fileno=isolation.moved_high(options.fd))
    progress = Progress(descriptor := isolation.moved_high(options.progress_fd))
    os.close(descriptor)
    output, interrupts, outbox = Captured(), Interrupts(), Outbox(connection, progress)
    interrupts.install()
    loop = Loop(connection, progress, outbox, output, interrupts)
    module = _imported(options, output)
    if isinstance(module, ErrorRecord):
        outbox.send(Hello(os.getpid(), _VERSION, module))
        os._exit(1)
    interrupts.install()
    outbox.send(Hello(os.getpid(), _VERSION))
    limits = options.max_value_bytes, options.blob_quota_bytes
    loop.serve(Runner(module, options.blobs, *limits, interrupts, loop.items))
    # the agent sees the end from here on, and bounds what user code does at exit
    connection.close()


def _imported(options: Options, output: Captured) -> ModuleType | ErrorRecord:
    """The user's module on its cores, or why not. What it printed is told with an error, else dropped."""
    sys.argv[:] = [options.module]
    try:
        isolation.pin(options.cores)
        return importlib.import_module(options.module)
    except BaseException as error:  # whatever a module does when it is imported
        return failures.not_imported(options.module, error, b"".join(output.take()))
    finally:
        output.take()
        output.mend()
