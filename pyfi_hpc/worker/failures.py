"""Exceptions as records that can be sent, whatever the exception is made of."""

from __future__ import annotations

import os
import traceback
from types import TracebackType

from pyfi_hpc import worker
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.wire.messages import ErrorRecord

MESSAGE_CHARS = 4_000
TRACEBACK_CHARS = 65_536
_LIBRARY = os.path.dirname(os.__file__)
#: Frames of these lead to user code and tell a person nothing.
_OURS = (worker.__path__[0], os.path.join(_LIBRARY, "asyncio"), os.path.join(_LIBRARY, "importlib"))
_LEADING = (*(folder + os.sep for folder in _OURS), "<frozen importlib")
#: Refusals by us that another node, or the same a little later, may not repeat.
_MENDED_ELSEWHERE = frozenset({"E_STORAGE_FULL", "E_NOT_FOUND"})


def raised(error: BaseException) -> ErrorRecord:
    """What user code raised."""
    return ErrorRecord(_name(error), _message(error), traceback_of(error), "E_REMOTE", _cause(error))


def refused(error: BaseException) -> ErrorRecord:
    """Why we could not take the arguments or the result."""
    if isinstance(error, PyfiError):
        at = f" at {error.at}" if error.at else ""
        cause = "environment" if error.code in _MENDED_ELSEWHERE else "refused"
        cure = f": {error.cure}" if error.cure else ""
        return ErrorRecord(_name(error), _safe(error.what + at + cure, MESSAGE_CHARS), "", error.code, cause)
    if isinstance(error, MemoryError):
        return raised(error)
    return ErrorRecord(_name(error), _message(error), traceback_of(error), "E_INTERNAL", "environment")


def refusal(code: str, what: str, kind: str = "pyfi_hpc.errors.BadInput") -> ErrorRecord:
    """An error of ours that another attempt cannot mend."""
    return ErrorRecord(kind, _safe(what, MESSAGE_CHARS), "", code, "refused")


def cancelled() -> ErrorRecord:
    """The agent interrupted the call."""
    return refusal("E_CANCELLED", "the call was interrupted", "pyfi_hpc.errors.Cancelled")


def not_imported(module: str, error: BaseException, printed: bytes) -> ErrorRecord:
    """Why a module cannot be used, with the end of what it printed."""
    text = traceback_of(error, TRACEBACK_CHARS // 4)
    if printed:
        text += "\nPrinted meanwhile:\n" + printed[-4096:].decode(errors="backslashreplace")
    what = _safe(f"module {module} cannot be imported: {type(error).__name__}: {_message(error)}", MESSAGE_CHARS)
    return ErrorRecord(_name(error), what, text, "E_IMPORT", "environment")


def _cause(error: BaseException) -> str:
    if type(error).__name__ == "OutOfMemoryError":  # torch's and CuPy's; the latter is a MemoryError too
        return "gpu_oom"
    return "host_oom" if isinstance(error, MemoryError) else "user_error"


def _name(error: BaseException) -> str:
    kind = type(error)
    return _safe(f"{kind.__module__}.{kind.__qualname__}", 400)


def _message(error: BaseException) -> str:
    try:
        return _safe(str(error), MESSAGE_CHARS)
    except BaseException:  # a __str__ of user code
        return "(its message cannot be shown)"


def traceback_of(error: BaseException, limit: int = TRACEBACK_CHARS) -> str:
    """The traceback from the first frame of user code on; the end of it where it is longer than `limit`."""
    try:
        frames = _from_user_code(error.__traceback__)
        text = "".join(traceback.format_exception(type(error), error, frames))
        return _safe(text[-limit:], limit)
    except BaseException:  # as above
        return f"{_name(error)}: (its traceback cannot be shown)\n"


def _from_user_code(frames: TracebackType | None) -> TracebackType | None:
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_LEADING):
        frames = frames.tb_next
    return frames


def _safe(text: str, limit: int) -> str:
    """Text that can be sent: lone surrogates escaped, at most `limit` characters."""
    return text[:limit].encode("utf-8", "backslashreplace").decode()[:limit]
