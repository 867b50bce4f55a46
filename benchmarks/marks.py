"""Processes known by a mark in their environment: a peer's daemons may have left their parents."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from pyfi_hpc.processes import end

VARIABLE = "BENCH_MARK"


def marked(mark: str) -> set[int]:
    """Our processes that were started with `BENCH_MARK` of that value."""
    wanted = f"{VARIABLE}={mark}".encode()
    found = set()
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if wanted in file.read_bytes().split(b"\0"):
                found.add(int(file.parent.name))
    return found - {os.getpid()}


def sweep(mark: str, only: Collection[int] | None = None) -> None:
    """End those that are left of them."""
    for pid in marked(mark):
        if only is None or pid in only:
            end(pid, signal.SIGTERM, patience=2.0)
