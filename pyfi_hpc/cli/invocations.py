"""`pyfi wait`, `cancel`, `logs` and `ps`: what becomes of invocations."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from pyfi_hpc.cli.command import Command
from pyfi_hpc.cli.context import Platform, pass_platform
from pyfi_hpc.cli.output import Output, output_options, say
from pyfi_hpc.cli.params import Seconds
from pyfi_hpc.cli.values import as_json, as_text
from pyfi_hpc.errors import BadInput, PyfiError, WaitTimeout

if TYPE_CHECKING:
    from pyfi_hpc.client.futures import Future

#: How often `logs -f` looks for another attempt.
LOOK_SECONDS = 1.0


@click.command(
    cls=Command,
    examples=("pyfi wait 6f3a9c01de", "pyfi wait 6f3a9c01de 77aa01b2c3 --timeout 10m", "pyfi wait 6f3a9c01de -o json"),
)
@click.argument("ids", nargs=-1, required=True)
@click.option("--timeout", type=Seconds(), help="Stop waiting after this long; the work goes on (exit code 4).")
@click.option("-v", "--verbose", is_flag=True, help="Say who made each value; show the traceback of each task.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing while waiting.")
@output_options
@pass_platform
def wait(
    platform: Platform, ids: tuple[str, ...], timeout: float | None, verbose: bool, quiet: bool, out: Output
) -> None:
    """Wait for invocations and print their values, each on its line; exit code 1 if one has none."""
    platform.patience = timeout
    limit = platform.settings.client.timeout_seconds if timeout is None else timeout
    until = None if limit is None else time.monotonic() + limit
    futures = [platform.client.future(each) for each in ids]
    rows, first = [], None
    for future in futures:
        left = None if until is None else max(0.0, until - time.monotonic())
        row, error = _waited(platform, future, left, verbose, quiet)
        rows.append(row)
        first = first or error
        if out.form == "table" and error is None:
            say(as_text(row["value"]))
    if out.form != "table":
        out.rows(rows, ["id", "status", "value", "error"])
    if first is not None:
        raise first


def _waited(
    platform: Platform, future: Future, timeout: float | None, verbose: bool, quiet: bool
) -> tuple[dict[str, Any], PyfiError | None]:
    from pyfi_hpc.cli.waiting import made_by, value_of

    try:
        value = value_of(future, timeout, platform.client, quiet=quiet, verbose=verbose)
        if verbose:
            click.echo(f"{future.id} {made_by(platform.client, future.identity)}", err=True)
        return {"id": future.id, "status": "SUCCEEDED", "value": as_json(value), "error": None}, None
    except PyfiError as error:
        status = "QUEUED" if isinstance(error, WaitTimeout) else future.status
        return {"id": future.id, "status": status, "value": None, "error": error.what}, error


@contextmanager
def _job_meant(*idents: str) -> Iterator[None]:
    """A number that no invocation ends in was meant to be a job's; Slurm's numbers are shorter than any id shown."""
    try:
        yield
    except BadInput as error:
        digits = [each for each in idents if each.strip().isdigit() and len(each.strip()) < 10]
        if error.code != "E_NOT_FOUND" or len(digits) != len(idents):
            raise
        word = digits[0].strip()
        what = f"no job, and no invocation on record, is called {word}"
        raise BadInput.of("E_NOT_FOUND", "id", word, what, cure="pyfi ls jobs") from error


@click.command(
    cls=Command,
    examples=("pyfi cancel 6f3a9c01de", "pyfi cancel 6f3a9c01de --tree", "pyfi cancel 88121 -o json"),
)
@click.argument("ids", nargs=-1, required=True)
@click.option("--tree", is_flag=True, help="Also what follows from these along plugs, where that has not begun.")
@output_options
@pass_platform
def cancel(platform: Platform, ids: tuple[str, ...], tree: bool, out: Output) -> None:
    """Cancel invocations that are not decided yet, or jobs; what runs is stopped.

    Digits alone that are the id of a Slurm job of this network mean that job: its workers finish what they run first.
    `begun` says of a call that was cancelled whether it is known to have run.
    """
    jobs = [ident for ident in ids if platform.network.find_job(ident)]
    calls = [ident for ident in ids if ident not in jobs]
    rows = [_cancelled(platform, ident) for ident in jobs]
    with _job_meant(*calls):
        rows += platform.client.cancel(*calls, tree=tree) if calls else []
    out.rows(rows, ["id", "cancelled", "status", "begun"])


def _cancelled(platform: Platform, which: str) -> dict[str, Any]:
    from pyfi_hpc.control import submitting

    row = platform.network.cancel_job(which)
    if row["cancelled"] and submitting.turn_if_alone(platform.control, row["scheduler"]):
        row = {**platform.network.show("job", row["id"]), "cancelled": True}
    return {"id": row["job"] or row["id"], "cancelled": row["cancelled"], "status": row["status"]}


@click.command(
    cls=Command,
    examples=("pyfi logs 6f3a9c01de", "pyfi logs -f 88121", "pyfi logs 6f3a9c01de -o json"),
)
@click.argument("ident", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until the invocation, or the job, has ended.")
@output_options
@pass_platform
def logs(platform: Platform, ident: str, follow: bool, out: Output) -> None:
    """Print what an invocation's attempts, or a job, have printed.

    Of an attempt all is printed once it has ended; of a job, what it has written so far. Digits alone that are the id
    of a Slurm job of this network mean that job.
    """
    if platform.network.find_job(ident):
        from pyfi_hpc.cli import job_logs

        return job_logs.show(platform, ident, follow=follow)
    with _job_meant(ident):
        return _call_logs(platform, ident, follow, out)


def _call_logs(platform: Platform, ident: str, follow: bool, out: Output) -> None:
    if follow:
        return _follow(platform, ident)
    if out.form != "table":
        columns = ["serial", "status", "cause", "node", "started", "ended", "out", "err"]
        return out.rows(platform.client.operations.attempts(ident), columns)
    text = platform.client.operations.logs(ident)
    if not text:
        click.echo(f"nothing was printed by any attempt that has ended · pyfi ps {ident}", err=True)
    return say(text, nl=False)


def _follow(platform: Platform, ident: str) -> None:
    from pyfi_hpc.cli.waiting import watching

    future = platform.client.future(ident)
    shown: set[int] = set()
    with watching(future):
        ended = False
        while not ended:
            ended = bool(wait_for([future], timeout=LOOK_SECONDS).done)
            for attempt in platform.client.operations.attempts(future.id):
                if attempt["ended"] and attempt["serial"] not in shown:
                    shown.add(attempt["serial"])
                    say(attempt["out"] + attempt["err"], nl=False)


@click.command(
    cls=Command,
    examples=("pyfi ps", "pyfi ps 6f3a9c01de", "pyfi ps -o json"),
)
@click.argument("ident", metavar="[ID]", required=False)
@output_options
@pass_platform
def ps(platform: Platform, ident: str | None, out: Output) -> None:
    """Show the workers that are there, or all that is on record of one invocation.

    A call is said to run about a second after its start: `running` names it, with the time since when.
    """
    if ident is not None:
        return out.row(_called_so(platform.client.operations.invocation(ident), out))
    live = [row for row in platform.network.list("worker") if row["status"] not in ("EXITED", "LOST")]
    columns = [
        "processor",
        "node",
        "job",
        "cores",
        "devices",
        "pid",
        "status",
        "calls",
        "running",
        "running_since",
        "id",
    ]
    return out.rows(live, columns, ["slot", "commit", "environment", "created"])


def _called_so(row: dict[str, Any], out: Output) -> dict[str, Any]:
    """An id that the record knows nothing of is called so, in words for people."""
    nothing = row["status"] == "QUEUED" and row["hold"] is None and not row["attempts"]
    return {**row, "status": "queued or unknown"} if nothing and out.form in ("table", "wide") else row
