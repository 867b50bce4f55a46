"""From an outcome without a value to the exception that the caller sees.

    FAILED, the task raised            the task's own type, where it is builtin or the caller has imported it
    DEAD, the task raised each time    the same, noted as dead, with `Dead` as its context
    DEAD for any other cause           `Dead`, with the cause
    FAILED for any other reason        `RemoteError` under that reason's code
    CANCELLED                          `Cancelled`

A type is found by its name among the modules that are already there: nothing is imported, nothing unpickled.
"""

from __future__ import annotations

import builtins
import sys
from dataclasses import dataclass
from typing import Any

from pyfi_hpc.errors import CODES, Cancelled, Dead, RemoteError, TaskError, WorkerLost
from pyfi_hpc.model.status import Cause
from pyfi_hpc.wire.ids import id_text, short
from pyfi_hpc.wire.messages import ErrorRecord, Kind

#: Raised inside a generator or coroutine these would mean something else than that the task failed.
_CONTROL = (StopIteration, StopAsyncIteration, GeneratorExit)
_PROCESS_LOST = frozenset({Cause.SIGNAL, Cause.HOST_OOM, Cause.GPU_OOM, Cause.WORKER_LOST, Cause.AGENT_LOST})


class RemoteTraceback(Exception):
    """The traceback of the task, as the worker wrote it."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


@dataclass(frozen=True)
class Provenance:
    """Who made an outcome, as far as the rows tell."""

    socket: str = ""
    commit: str = ""
    node: str = ""
    cores: tuple[int, ...] = ()
    serial: int = 1
    attempts: int | None = None
    #: model and UUID of each
    gpus: tuple[str, ...] = ()
    job: str | None = None

    def line(self) -> str:
        """`detect.run@3f9c21d on gpu003 core 3 gpu NVIDIA H100 GPU-5a3f…, job 88121, attempt 3 of 3`."""
        words = self.socket or "?"
        if self.commit:
            words += f"@{self.commit[:7]}"
        if self.node:
            words += f" on {self.node}"
        if self.cores:
            words += f" core {','.join(map(str, self.cores))}"
        if self.gpus:
            words += f" gpu {', '.join(self.gpus)}"
        if self.job:
            words += f", job {self.job}"
        most = f" of {self.attempts}" if self.attempts is not None and self.attempts >= self.serial else ""
        return f"{words}, attempt {self.serial}{most}"


def raised(identity: bytes, kind: Kind, error: ErrorRecord | None, made_by: Provenance | None) -> BaseException:
    """The exception for an outcome of that kind."""
    record = error or ErrorRecord("", "no reason was recorded")
    exception = _exception(identity, kind, record, made_by)
    if made_by is not None:
        exception.add_note(made_by.line())
    exception.add_note(f"pyfi logs {short(identity)}")
    return exception


def _exception(identity: bytes, kind: Kind, error: ErrorRecord, made_by: Provenance | None) -> BaseException:
    if kind is Kind.CANCELLED:
        return Cancelled("E_CANCELLED", f"{short(identity)} was cancelled: {error.message}", id=id_text(identity))
    if kind is Kind.DEAD:
        return _dead(identity, error, made_by.serial if made_by else None)
    return _of_task(error) if error.code == "E_REMOTE" else _refused(identity, error)


def _dead(identity: bytes, error: ErrorRecord, attempts: int | None) -> BaseException:
    code = error.code if error.code in CODES and error.code != "E_REMOTE" else "E_DEAD"
    facts: dict[str, Any] = {
        "id": id_text(identity),
        "cause": error.cause,
        "attempts": attempts,
        "error": error.message,
    }
    what = f"{short(identity)} is dead ({error.cause}): {error.message}"
    dead = Dead(code, what, cure=f"pyfi dead show {short(identity)}", **facts)
    if error.cause == Cause.USER_ERROR and error.code == "E_REMOTE":
        own = _of_task(error)
        own.__context__ = dead
        own.add_note("every attempt that the retry budget allows has failed")
        return own
    if error.cause in _PROCESS_LOST:
        dead.__cause__ = WorkerLost("E_WORKER_LOST", error.message, cause=error.cause)
    else:
        dead.__cause__ = _traceback(error)
    return dead


def _refused(identity: bytes, error: ErrorRecord) -> TaskError:
    code = error.code if error.code in CODES else "E_REMOTE"
    refused = RemoteError(
        code, error.message, id=id_text(identity), type=error.type, message=error.message, traceback=error.traceback
    )
    refused.__cause__ = _traceback(error)
    return refused


def _of_task(error: ErrorRecord) -> BaseException:
    exception = _rebuilt(error) or RemoteError(
        "E_REMOTE",
        f"{error.type.rpartition('.')[2]}: {error.message}",
        type=error.type,
        message=error.message,
        traceback=error.traceback,
    )
    exception.__cause__ = _traceback(error)
    return exception


def _traceback(error: ErrorRecord) -> RemoteTraceback | None:
    return RemoteTraceback(error.traceback) if error.traceback else None


def _rebuilt(error: ErrorRecord) -> Exception | None:
    kind = known_type(error.type)
    if kind is None:
        return None
    try:
        exception = kind(error.message)
    except Exception:  # its constructor wants something else
        return None
    return exception if type(exception) is kind else None


def known_type(name: str) -> type[Exception] | None:
    """The exception type of that dotted name, when it is builtin or in a module that is already imported."""
    found = _builtin(name.removeprefix("builtins.")) or _imported(name)
    if isinstance(found, type) and issubclass(found, Exception) and not issubclass(found, _CONTROL):
        return found
    return None


def _builtin(name: str) -> object:
    return vars(builtins).get(name)


def _imported(name: str) -> object:
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:cut]))
        if module is not None:
            return _inside(module, parts[cut:])
    return None


def _inside(holder: object, path: list[str]) -> object:
    """Follow plain attributes of modules and classes; nothing of theirs is run."""
    for part in path:
        holder = getattr(holder, "__dict__", {}).get(part)
    return holder
