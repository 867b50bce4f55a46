"""Durable calls of functions in git repositories, run by workers pinned one per core or GPU.

Importing this package imports nothing else: workers import it inside the user's own environment, which
has none of our dependencies. The names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyfi_hpc.client.aio import AsyncClient as AsyncClient
    from pyfi_hpc.client.client import Client as Client
    from pyfi_hpc.client.futures import Future as Future
    from pyfi_hpc.client.futures import as_completed as as_completed
    from pyfi_hpc.client.progress import progress as progress
    from pyfi_hpc.worker.context import current as current

__version__ = "0.1.0"

#: Public name -> the module that has it.
_HOMES = {
    "AsyncClient": "pyfi_hpc.client.aio",
    "Client": "pyfi_hpc.client.client",
    "Future": "pyfi_hpc.client.futures",
    "as_completed": "pyfi_hpc.client.futures",
    "progress": "pyfi_hpc.client.progress",
    "current": "pyfi_hpc.worker.context",
}

__all__ = ["AsyncClient", "Client", "Future", "as_completed", "progress", "current", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
