"""The edge to NVIDIA's management library (NVML), through NVIDIA's own `pynvml` module, imported when first needed."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def session() -> Iterator[Any]:
    """The module `pynvml`, initialised until the end of the block; None where there is no library or no driver.

    Sessions nest, and an inner one costs little: who asks often keeps one open.
    """
    if "pynvml" not in sys.modules and not _is_there():
        yield None
        return
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _is_there() -> bool:
    """Whether this machine has the library. The module is a large one: it loads longer than all else of an agent."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def told(ask: Callable[..., T], *arguments: Any) -> T | None:
    """What the driver answers; None where it does not tell (not supported, not permitted, gone)."""
    import pynvml

    try:
        return ask(*arguments)
    except pynvml.NVMLError:
        return None


def text(value: str | bytes) -> str:
    """NVML's text: older versions of the module give bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def mib(size: int) -> int:
    """Bytes as whole MiB."""
    return size >> 20
