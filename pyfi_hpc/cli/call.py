"""`pyfi call`, and its old name `pyfi task run`: one invocation, and its value printed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from pyfi_hpc.cli import render
from pyfi_hpc.cli.command import Command, Group
from pyfi_hpc.cli.context import Platform, pass_platform
from pyfi_hpc.cli.output import say
from pyfi_hpc.cli.params import Choice, Id, Moment, Seconds
from pyfi_hpc.cli.shared import together
from pyfi_hpc.cli.values import arguments, as_json, as_text, keywords
from pyfi_hpc.errors import BadInput, TaskError, Unavailable, WaitTimeout
from pyfi_hpc.model.priority import Priority

if TYPE_CHECKING:
    from pyfi_hpc.client.broadcast import Broadcast
    from pyfi_hpc.client.futures import Future

#: Names that `Client.submit` keeps for itself.
_OURS = ("socket", "id", "timeout", "deadline", "priority", "delay", "at")


def _run(
    platform: Platform,
    socket: str | None,
    args: tuple[str, ...],
    kw: tuple[str, ...],
    queue: str | None,
    key: str | None,
    timeout: float | None,
    no_wait: bool,
    run_limit: float | None,
    verbose: bool,
    quiet: bool,
    items: bool,
    form: str,
    **how: Any,
) -> None:
    """Submit, wait, print; `how` are the arguments of `submit` that are no argument of the task's."""
    from pyfi_hpc.cli.waiting import made_by, value_of

    platform.as_json, platform.patience = form == "json", timeout
    if queue is not None:
        args = args if socket is None else (socket, *args)
    elif socket is None:
        raise BadInput("E_MISSING", "which socket?", at="SOCKET", cure="pyfi ls sockets", field="socket")
    values, named = arguments(args), keywords(kw)
    for name in _OURS if queue is None else (*_OURS, "queue", "key"):
        if name in named:
            raise BadInput.of("E_USAGE", "--kw", name, "an argument of this name is given by its position")
    limit = platform.settings.client.timeout_seconds if timeout is None else timeout
    if queue is not None:
        with _repeatable():
            sent = _broadcast(platform, queue, key or "", values, named, timeout=run_limit, **how)
        _print_ids(sent.values(), form) if no_wait else _print_all(platform, sent, limit, quiet, form)
        return
    assert socket is not None
    from pyfi_hpc.client.client import raise_refused

    with _repeatable():
        # not `submit`, which refuses an option where the task has a parameter of that name: here the two look different
        future, stream = platform.client.begin(socket, tuple(values), named, timeout=run_limit, **how)
        raise_refused(stream)
    if no_wait:
        _print_ids([future], form)
        return
    if items:
        _print_items(future, limit, form)
        return
    value = value_of(future, limit, platform.client, quiet=quiet, verbose=verbose)
    if form == "json":
        click.echo(render.as_json([{"id": future.id, "status": "SUCCEEDED", "value": as_json(value)}]))
    else:
        say(as_text(value))
    if verbose:
        click.echo(f"{future.id} {made_by(platform.client, future.identity)}", err=True)


@contextmanager
def _repeatable() -> Iterator[None]:
    """What was not accepted, or may not have been, says with which id it can be typed again."""
    try:
        yield
    except Unavailable as error:
        if ident := error.facts.get("id"):
            error.cure = f"the same command with --id {ident}: however often, it has one outcome"
        raise


def _print_ids(futures: Iterable[Future], form: str) -> None:
    ids = [future.id for future in futures]
    click.echo(render.as_json([{"id": each} for each in ids]) if form == "json" else "\n".join(ids))


def _broadcast(
    platform: Platform,
    queue: str,
    key: str,
    values: Iterable[object],
    named: dict[str, Any],
    *,
    delay: float | None,
    at: object,
    **how: Any,
) -> Broadcast:
    if delay is not None or at is not None:
        raise BadInput.of("E_USAGE", "--queue", queue, "a call to a whole queue starts as soon as it can")
    return platform.client.publish(queue, *values, key=key, **how, **named)


def _print_all(platform: Platform, sent: Broadcast, limit: float | None, quiet: bool, form: str) -> None:
    """A line for each task's value; the first error is raised once all have ended."""
    from pyfi_hpc.cli.waiting import value_of

    failed: BaseException | None = None
    rows: list[dict[str, Any]] = []
    for socket, future in sent.items():
        try:
            value = value_of(future, limit, platform.client, quiet=quiet)
        except TaskError as error:
            failed = failed or error
            rows.append({"id": future.id, "socket": socket, "status": future.status, "error": error.what})
            continue
        rows.append({"id": future.id, "socket": socket, "status": "SUCCEEDED", "value": as_json(value)})
        if form != "json":
            say(f"{socket}\t{as_text(value)}")
    if form == "json":
        click.echo(render.as_json(rows))
    if failed is not None:
        raise failed


def _print_items(future: Future, limit: float | None, form: str) -> None:
    """A line for each item, as it comes."""
    from pyfi_hpc.cli.waiting import told, watching

    with watching(future):
        try:
            for item in future.items(limit):
                say(json.dumps(as_json(item), ensure_ascii=False) if form == "json" else as_text(item))
        except (WaitTimeout, BadInput):
            # ours, not the task's
            raise
        except Exception as error:
            known = told(error, future)
            raise known from known.__cause__


_options = together(
    click.argument("socket", required=False),
    click.argument("args", nargs=-1, metavar="[ARGS]..."),
    click.option("--kw", multiple=True, metavar="NAME=JSON", help="An argument by its name; may be repeated."),
    click.option("--queue", metavar="QUEUE", help="Call every task bound to this queue; all words are arguments then."),
    click.option("--key", metavar="KEY", help="With --queue, of a topic queue: only those whose binding it fits."),
    click.option("--id", type=Id(), help="An id of your own: repeating the call with it makes no second outcome."),
    click.option("--priority", type=Choice(Priority, "PRIORITY"), default="normal", show_default=True,
                 help="While all wait, 8 high calls and 2 normal ones run for each low one."),
    click.option("--timeout", type=Seconds(), help="Stop waiting after this long; the work goes on (exit code 4)."),
    click.option("--no-wait", is_flag=True, help="Print its id once it is accepted, and leave it to `pyfi wait`."),
    click.option("--delay", type=Seconds(), help="Start it no sooner than this; until then the database holds it."),
    click.option("--at", type=Moment(), help="Start it no sooner than at this time: 2026-12-01T10:00, or 2h from now."),
    click.option("--deadline", type=Moment(), help="Fail it, without running it, where it has not started by then."),
    click.option("--time-limit", "run_limit", type=Seconds(), help="End an attempt that runs for longer than this."),
    click.option("-v", "--verbose", is_flag=True, help="Say who made the value; show the task's traceback."),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing while waiting."),
    click.option("--items", is_flag=True, help="Of a task that yields: each item on a line, as it comes."),
    click.option("-o", "--output", "form", type=Choice(["raw", "json"], "FORMAT"), default="raw", show_default=True,
                 help="A string as it is and anything else as JSON, or always one JSON object."),
)  # fmt: skip


@click.command(
    cls=Command,
    examples=(
        "pyfi call proc1.socket1 '\"Hello World !\"'",
        "pyfi call proc1.socket1 3 '[1, 2]' --kw limit=10 -v",
        "pyfi call proc1.socket1 '{\"a\": 1}' --timeout 5m -o json",
        "pyfi call proc1.socket1 3 --priority high",
        "pyfi call --queue pyfi.queue1 '\"Hello World !\"'",
        "pyfi call proc1.socket1 3 --delay 30s --no-wait",
    ),
)
@_options
@pass_platform
def call(platform: Platform, **given: Any) -> None:
    """Run one invocation and print its value; arguments are JSON.

    SOCKET is a socket's name; PROCESSOR.TASK does where one socket has that task. With --queue each task that is bound
    to a queue runs once: a line for each, its socket's name and its value.
    """
    _run(platform, **given)


@click.group(cls=Group)
def task() -> None:
    """Run tasks, by the original's name."""


@task.command(
    cls=Command,
    examples=(
        "pyfi task run proc1.socket1 '\"Hello World !\"'",
        "pyfi task run proc1.socket1 3 --timeout 60",
        "pyfi task run proc1.socket1 --kw limit=10",
    ),
)
@_options
@pass_platform
def run(platform: Platform, **given: Any) -> None:
    """Run one invocation and print its value: the old name of `pyfi call`."""
    _run(platform, **given)
