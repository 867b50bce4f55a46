"""Waiting for an outcome: what is said meanwhile, at Ctrl-C, and when it ended without a value."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from pyfi_hpc.client.futures import Future
from pyfi_hpc.errors import PyfiError, RemoteError, TaskError, WaitTimeout, shown
from pyfi_hpc.wire.ids import short

if TYPE_CHECKING:
    from pyfi_hpc.client.client import Client

#: Silence for longer makes people wonder.
QUIET_SECONDS = 1.0
_ON_THE_WAY = ("WANTED", "SUBMITTING", "PENDING", "RUNNING")


def value_of(future: Future, timeout: float | None, client: Client, *, quiet: bool = False) -> Any:
    """The value, waited for `timeout` seconds at most.

    Raises:
        TaskError: it ended without a value, with the task's own error in words. WaitTimeout: the work goes on.
    """
    with watching(future):
        error = _error(future, timeout, None if quiet else client)
    if error is None:
        return future.result()
    raise told(error, future) from error


def _error(future: Future, timeout: float | None, client: Client | None) -> BaseException | None:
    until = None if timeout is None else time.monotonic() + timeout
    try:
        return future.exception(QUIET_SECONDS if timeout is None else min(timeout, QUIET_SECONDS))
    except WaitTimeout:
        if timeout is not None and timeout <= QUIET_SECONDS:
            raise
    if client is not None:
        click.echo(waiting_for(future, client), err=True)
    try:
        return future.exception(None if until is None else max(0.0, until - time.monotonic()))
    except WaitTimeout as error:
        what = f"{short(future.identity)} has no outcome after {round(timeout or 0.0, 2):.10g} s; the work goes on"
        raise WaitTimeout("E_TIMEOUT", what, cure=error.cure, id=future.id) from None


def waiting_for(future: Future, client: Client) -> str:
    """What is waited for: the call, or the processor that does not take it."""
    status = future.status
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
    return "\n".join([line, *_pending(client, found["name"])])


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
    """`error` as the command line tells it: what the task raised, who ran it, where to read more."""
    notes = getattr(error, "__notes__", [])
    if isinstance(error, TaskError):
        error.at, error.cure = error.at or next(iter(notes), None), error.cure or f"pyfi logs {short(future.identity)}"
        return error
    what = f"{type(error).__name__}: {error}"
    return RemoteError(
        "E_REMOTE", what, at=next(iter(notes), None), cure=f"pyfi logs {short(future.identity)}", id=future.id
    )


def remote_traceback(error: BaseException) -> str | None:
    """The traceback of the task, as the worker wrote it."""
    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__name__ == "RemoteTraceback":
            return str(seen.args[0])
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
