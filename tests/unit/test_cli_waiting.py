"""Waiting for an outcome: how an error is told, and what is said meanwhile."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from pyfi_hpc.cli import waiting
from pyfi_hpc.cli.call import _print_items
from pyfi_hpc.cli.waiting import remote_traceback, value_of
from pyfi_hpc.client.remote import Provenance, raised
from pyfi_hpc.errors import Cancelled, TaskError, WaitTimeout
from pyfi_hpc.wire.messages import ErrorRecord, Kind

IDENTITY = b"i" * 16
#: Who waits quietly asks nobody.
_NOBODY: Any = None


def ended(error: BaseException) -> Any:
    """A call that ended with `error`."""

    def fail(timeout: float | None) -> None:
        raise error

    return SimpleNamespace(identity=IDENTITY, id="i", exception=lambda timeout: error, items=fail)


FAILED = [
    (Kind.ERROR, "ValueError", "E_REMOTE", ""),
    (Kind.ERROR, "somebodys.own.Error", "E_REMOTE", ""),
    (Kind.DEAD, "ValueError", "E_REMOTE", "user_error"),
    (Kind.DEAD, "somebodys.own.Error", "E_REMOTE", "user_error"),
    (Kind.DEAD, "pyfi_hpc.errors.Dead", "E_DEAD", "timeout"),
    (Kind.ERROR, "x", "E_TYPE", "refused"),
]


@pytest.mark.parametrize(("kind", "name", "code", "cause"), FAILED)
@pytest.mark.parametrize("by_items", [False, True])
def test_the_tasks_traceback_outlives_the_telling(
    kind: Kind, name: str, code: str, cause: str, by_items: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    future = ended(raised(IDENTITY, kind, ErrorRecord(name, "no", "Traceback …", code, cause), None))
    with pytest.raises(TaskError) as told:
        _print_items(future, None, "raw") if by_items else value_of(future, None, _NOBODY, quiet=True)

    assert remote_traceback(told.value) == "Traceback …"
    with pytest.raises(TaskError):
        value_of(future, None, _NOBODY, quiet=True, verbose=True)
    assert capsys.readouterr().err == "Traceback …\n"
    # its own cause, it would be followed for ever
    assert told.value.__cause__ is not told.value


def test_a_lost_worker_leaves_no_traceback() -> None:
    future = ended(raised(IDENTITY, Kind.DEAD, ErrorRecord("x", "SIGKILL", "", "E_WORKER_LOST", "signal"), None))
    with pytest.raises(TaskError) as told:
        value_of(future, None, _NOBODY, quiet=True)

    assert remote_traceback(told.value) is None


@pytest.mark.parametrize(("kind", "name", "code", "cause"), FAILED)
def test_a_failed_call_points_to_where_its_traceback_is(kind: Kind, name: str, code: str, cause: str) -> None:
    made_by = Provenance("p.work", node="host1")
    future = ended(raised(IDENTITY, kind, ErrorRecord(name, "no", "Traceback …", code, cause), made_by))
    with pytest.raises(TaskError) as told:
        value_of(future, None, _NOBODY, quiet=True)

    assert told.value.at is not None and told.value.at.startswith("p.work on host1, attempt 1")
    shows = "dead show" if kind is Kind.DEAD else "ps"
    assert told.value.cure == f"pyfi {shows} 6969696969"


def test_a_cancelled_call_points_to_its_record() -> None:
    def exception(timeout: float | None) -> None:
        raise raised(IDENTITY, Kind.CANCELLED, ErrorRecord("x", "cancelled by ana", "", "E_CANCELLED"), None)

    future: Any = SimpleNamespace(identity=IDENTITY, id="i", exception=exception)
    with pytest.raises(Cancelled) as told:
        value_of(future, None, _NOBODY, quiet=True)

    assert (told.value.at, told.value.cure) == (None, "pyfi ps 6969696969")


class Moving:
    """A call whose status moves on with each look; it is done at the look after the last."""

    identity, id, socket = IDENTITY, "whole-id", "p.work"

    def __init__(self, *statuses: str) -> None:
        self._left, self._done = list(statuses), threading.Event()

    @property
    def status(self) -> str:
        if not self._left:
            self._done.set()
            return "SUCCEEDED"
        return self._left.pop(0)

    def exception(self, timeout: float | None) -> None:
        if timeout == waiting.QUIET_SECONDS:
            raise WaitTimeout("E_TIMEOUT", "not yet")
        assert self._done.wait(60)

    def result(self) -> int:
        return 7


def test_what_is_waited_for_is_said_again_when_it_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "QUIET_SECONDS", 0.01)
    ready = {"ready": 1}
    operations = SimpleNamespace(behind=lambda socket: ready, invocation=lambda id: {"due": "10:00"})
    future: Any = Moving("WAITING", "WAITING", "QUEUED", "QUEUED", "RUNNING", "RUNNING", "RUNNING")
    client: Any = SimpleNamespace(operations=operations)

    assert value_of(future, None, client) == 7

    assert capsys.readouterr().err.splitlines() == [
        "waiting for 6969696969, WAITING until 10:00",
        "waiting for 6969696969, QUEUED",
        "waiting for 6969696969, RUNNING",
    ]
