"""One call: arguments in, value or error out. Whatever user code does, an answer comes back."""

from __future__ import annotations

import asyncio
import inspect
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from pyfi_hpc.errors import PyfiError
from pyfi_hpc.wire import blobs, values
from pyfi_hpc.wire.ids import id_text
from pyfi_hpc.wire.limits import INLINE_BYTES
from pyfi_hpc.wire.messages import Call, ErrorRecord
from pyfi_hpc.worker import context

_TRACEBACK_CHARS = 65_536
_MESSAGE_CHARS = 4_000


class Runner:
    """Runs calls of one module's functions."""

    def __init__(self, module: ModuleType, folder: Path, max_value_bytes: int) -> None:
        self._module, self._folder, self._max_value_bytes = module, folder, max_value_bytes
        self._resolve = partial(blobs.get, folder)
        self._tasks: dict[str, Callable[..., Any] | ErrorRecord] = {}

    def run(self, task: str, call: Call) -> tuple[bytes | None, ErrorRecord | None]:
        """(value, None) or (None, error) of one call."""
        found = self._tasks.get(task)
        if found is None:
            found = self._tasks[task] = self._task(task)
        if isinstance(found, ErrorRecord):
            return None, found
        if call.deadline is not None and time.time() > call.deadline:
            return None, refused("builtins.TimeoutError", "its deadline passed before it could start", "E_TIMEOUT")
        try:
            args, kwargs = values.decode_arguments(call.args, resolve=self._resolve)
        except PyfiError as error:
            return None, _refusal(error)
        context.enter(context.Invocation(id_text(call.id), call.serial, task))
        try:
            result = found(*args, **kwargs)
        except BaseException as error:
            return None, failure(error)
        return self._encoded(result)

    def _task(self, task: str) -> Callable[..., Any] | ErrorRecord:
        function = getattr(self._module, task, None)
        if not callable(function) or task.startswith("_"):
            what = f"module {self._module.__name__} has no task {task!r}"
            return refused("pyfi_hpc.errors.BadInput", what, "E_TASK_NOT_FOUND")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            what = f"task {task!r} is a generator: return a list"
            return refused("pyfi_hpc.errors.BadInput", what, "E_TYPE")
        if inspect.iscoroutinefunction(function):
            return lambda *args, **kwargs: asyncio.run(function(*args, **kwargs))
        return function  # type: ignore[no-any-return]

    def _encoded(self, result: object) -> tuple[bytes | None, ErrorRecord | None]:
        try:
            value = values.encode(result, where="result")
            if len(value) > self._max_value_bytes:
                what = f"the result has {len(value)} bytes, at most {self._max_value_bytes} are kept"
                return None, refused("pyfi_hpc.errors.BadInput", what, "E_LIMIT")
            if len(value) > INLINE_BYTES:
                reference = blobs.put(self._folder, value)
                value = values.encode_blob(reference.digest, reference.size)
        except PyfiError as error:
            return None, _refusal(error)
        except BaseException as error:
            return None, failure(error)
        return value, None


def refused(kind: str, what: str, code: str) -> ErrorRecord:
    """An error that another attempt cannot mend."""
    return ErrorRecord(kind, what[:_MESSAGE_CHARS], "", code, "refused")


def _refusal(error: PyfiError) -> ErrorRecord:
    at = f" at {error.at}" if error.at else ""
    cause = "environment" if error.code == "E_STORAGE_FULL" else "refused"
    return ErrorRecord(_name(error), f"{error.what}{at}"[:_MESSAGE_CHARS], "", error.code, cause)


def failure(error: BaseException) -> ErrorRecord:
    """What a call that raised `error` gives instead of a value."""
    if isinstance(error, KeyboardInterrupt):
        return refused("pyfi_hpc.errors.Cancelled", "the call was interrupted", "E_CANCELLED")
    cause = "host_oom" if isinstance(error, MemoryError) else "user_error"
    return ErrorRecord(_name(error), _message(error), _traceback(error), "E_REMOTE", cause)


def _name(error: BaseException) -> str:
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return _safe(str(error))[:_MESSAGE_CHARS]
    except BaseException:
        return "(its message cannot be shown)"


def _traceback(error: BaseException) -> str:
    try:
        # the first frame is ours
        frames = error.__traceback__.tb_next if error.__traceback__ else None
        text = "".join(traceback.format_exception(type(error), error, frames))
    except BaseException:
        text = f"{_name(error)}: (its traceback cannot be shown)\n"
    return _safe(text)[-_TRACEBACK_CHARS:]


def _safe(text: str) -> str:
    """Text that can be sent: lone surrogates escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
