"""Waiting for an outcome: what is said meanwhile, at Ctrl-C, and when it ended without a value."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import click

from pyfi_hpc.cli.output import say
from pyfi_hpc.client import rows
from pyfi_hpc.client.futures import Future
from pyfi_hpc.errors import Cancelled, Dead, PyfiError, RemoteError, TaskError, WaitTimeout, shown
from pyfi_hpc.wire.ids import short

if TYPE_CHECKING:
    from pyfi_hpc.client.client import Client

#: Silence for longer makes people wonder.
QUIET_SECONDS = 1.0
#: What is waited for is looked at again after `QUIET_SECONDS`, and then less and less often, up to this.
LONGEST_SECONDS = 5.0
_OPEN = ("QUEUED", "WAITING", "RUNNING")
_ON_THE_WAY = ("WANTED", "SUBMITTING", "PENDING", "RUNNING")


def value_of(
    future: Future, timeout: float | None, client: Client, *, quiet: bool = False, verbose: bool = False
) -> Any:
    """The value, waited for `timeout` seconds at most. `verbose`: the task's traceback, if any, goes to stderr.

    Raises:
        TaskError: it ended without a value, with the task's own error in words. WaitTimeout: the work goes on.
    """
    with watching(future):
        error = _error(future, timeout, None if quiet else client)
    if error is None:
        return future.result()
    known = told(error, future)
    if verbose and (text := remote_traceback(known)):
        say(text, err=True)
    raise known


def made_by(client: Client, identity: bytes) -> str:
    """Who made the outcome, in one line; empty where no row tells."""
    session = client.session
    owner = session.owner
    found = session.link.run(lambda cursor: rows.provenance(cursor, owner, identity))
    return found.line() if found else ""


def _error(future: Future, timeout: float | None, client: Client | None) -> BaseException | None:
    until = None if timeout is None else time.monotonic() + timeout
    try:
        return _outcome(future, QUIET_SECONDS if timeout is None else min(timeout, QUIET_SECONDS))
    except WaitTimeout:
        if timeout is not None and timeout <= QUIET_SECONDS:
            raise
    try:
        with nullcontext() if client is None else saying(future, client):
            return _outcome(future, None if until is None else max(0.0, until - time.monotonic()))
    except WaitTimeout as error:
        what = f"{short(future.identity)} has no outcome after {round(timeout or 0.0, 2):.10g} s; the work goes on"
        raise WaitTimeout("E_TIMEOUT", what, cure=error.cure, id=future.id) from None


def _outcome(future: Future, timeout: float | None) -> BaseException | None:
    try:
        return future.exception(timeout)
    except Cancelled as error:
        return error


@contextmanager
def saying(future: Future, client: Client) -> Iterator[None]:
    """Inside, what is waited for is said on stderr: now, and again whenever it has changed."""
    said, over = waiting_for(future, client), threading.Event()
    _say(said)
    # a thread of its own: the outcome may come by the broker while the database does not answer
    threading.Thread(target=_follow, args=(future, client, said, over), name="pyfi-saying", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _follow(future: Future, client: Client, said: str, over: threading.Event) -> None:
    pause = QUIET_SECONDS
    while not over.wait(pause):
        pause = min(1.25 * pause, LONGEST_SECONDS)
        with suppress(Exception):  # a line more is worth no failure
            line = waiting_for(future, client)
            if line not in ("", said) and not over.is_set():
                _say(line)
                said = line


def _say(line: str) -> None:
    if line:
        click.echo(line, err=True)


def waiting_for(future: Future, client: Client) -> str:
    """What is waited for: the call, or the processor that does not take it; empty where the outcome is on record."""
    status = future.status
    if status not in _OPEN:
        return ""
    if status == "QUEUED" and not future.socket:  # somebody else's submit, or nobody's
        return f"waiting for {future.id}, queued or unknown"
    line = f"waiting for {short(future.identity)}, {status}"
    if status == "WAITING" and (due := client.operations.invocation(future.id)["due"]):
        return f"{line} until {due}"
    try:
        found = client.operations.behind(future.socket) if status == "QUEUED" else None
    except PyfiError:
        found = None  # what is waited for is worth a line, and no failure
    if found is None or found["ready"]:
        return line + (_tried(future, client) if status == "QUEUED" else "")
    code = (found["reason"] or {}).get("code")
    state = f"{found['status']}{f' ({code})' if code else ''}"
    if found["requested"] == "RUNNING" and found["status"] == "STOPPED":
        state = "to run"
    if found["requested"] != found["status"] and found["requested"] != "RUNNING":
        state = f"asked to be {found['requested']}"
    line = f"{line}: processor {found['name']} is {state}, no worker is ready · pyfi show processor {found['name']}"
    return "\n".join([line, *_mended(found["reason"] or {}), *_pending(client, found["name"])])


def _mended(reason: dict[str, Any]) -> list[str]:
    """Why the processor failed and what mends it, where that is known."""
    return [f"{reason['what']}\n  try: {reason['try']}"] if reason.get("try") else []


def _tried(future: Future, client: Client) -> str:
    """How its last attempt ended and when the next one is; empty where none is put off."""
    try:
        found = client.operations.invocation(future.id)
    except PyfiError:
        return ""
    if found["hold"] != "DUE" or not found["attempts"]:
        return ""
    last = found["attempts"][-1]
    why = f"{last.get('code')}: {shown(last['error'] or '', 300)}"
    return f" for another attempt at {found['due']}: the last ended with {why} · pyfi ps {short(future.identity)}"


def _pending(client: Client, processor: str) -> list[str]:
    """Where the processor's pilots stand that bring no worker yet, a line each."""
    try:
        jobs = client.network.list("job")
    except PyfiError:
        return []
    return [_stands(job) for job in jobs if job["processor"] == processor and job["status"] in _ON_THE_WAY]


def _stands(job: dict[str, Any]) -> str:
    if job["status"] == "RUNNING":
        return f"job {job['job']} runs on {job['nodes']}: {job['ready']} of {job['workers']} workers are ready"
    return f"job {job['job'] or 'not submitted yet'} waits{': ' if job['why'] else ''}{job['why']}"


def told(error: BaseException, future: Future) -> TaskError:
    """`error` as the command line tells it: what the task raised, who ran it, where to read more.

    A `TaskError` is told as it is, with its own cause; of another's telling the error is the cause.
    """
    at, cure = _ran_where(error), _more_of(error, future)
    if isinstance(error, TaskError):
        error.at, error.cure = error.at or at, error.cure or cure
        return error
    known = RemoteError("E_REMOTE", f"{type(error).__name__}: {error}", at=at, cure=cure, id=future.id)
    known.__cause__ = error
    return known


def _ran_where(error: BaseException) -> str | None:
    """What the error's notes say but the place of what was printed: who ran it, and that it is not tried again."""
    notes = [note for note in getattr(error, "__notes__", []) if not note.startswith("pyfi ")]
    return "; ".join(reversed(notes)) or None


def _more_of(error: BaseException, future: Future) -> str:
    """The command that shows the error whole, with its traceback; `pyfi logs` has only what the task printed."""
    return f"pyfi {'dead show' if isinstance(error.__context__, Dead) else 'ps'} {short(future.identity)}"


def remote_traceback(error: BaseException) -> str | None:
    """The traceback of the task, as the worker wrote it."""
    seen: BaseException | None = error
    passed: set[int] = set()
    while seen is not None and id(seen) not in passed:
        if type(seen).__name__ == "RemoteTraceback":
            return str(seen.args[0])
        passed.add(id(seen))
        seen = seen.__cause__
    return None


@contextmanager
def watching(future: Future) -> Iterator[None]:
    """Ctrl-C inside stops the watching, not the work, and says so."""
    try:
        yield
    except KeyboardInterrupt:
        line = f"Stopped watching. {short(future.identity)} still {future.status}."
        click.echo(f"\n{line} pyfi wait {future.id} · pyfi cancel {future.id}", err=True)
        click.get_current_context().exit(130)
