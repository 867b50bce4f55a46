"""`pyfi ls`, `pyfi show` and `pyfi delete`: the same for every kind of object."""

from __future__ import annotations

from typing import Any

import click

from pyfi_hpc.cli.columns import LISTED, Listed
from pyfi_hpc.cli.command import Command, Group
from pyfi_hpc.cli.context import Platform, confirm, pass_platform
from pyfi_hpc.cli.output import TABLE_ROWS, Output, output_options
from pyfi_hpc.cli.params import Whole
from pyfi_hpc.cli.shared import KINDS, named, object_options, yes_option

#: As good as all; the database's limits are 64 bits.
_EVERY = 2**62
_SINGULAR = {kind: listed.plural for kind, listed in LISTED.items()}
_PLURAL = {plural: kind for kind, plural in _SINGULAR.items()}


_CALLS = {"invocation": "invocations", "call": "invocations", "calls": "invocations"}


@click.group(cls=Group, aliases={**_SINGULAR, **_CALLS, "outlet": "sockets", "outlets": "sockets"})
def ls() -> None:
    """List objects."""


@click.group(cls=Group, aliases={**_PLURAL, "outlet": "socket"})
def show() -> None:
    """Show all of one object."""


@click.group(cls=Group, aliases={**_PLURAL, "outlet": "socket"})
def delete() -> None:
    """Delete an object that nothing depends on."""


def _ls(kind: str, listed: Listed) -> None:
    first = listed.columns[0]

    @ls.command(
        listed.plural,
        cls=Command,
        help=f"List {listed.meaning}.",
        examples=(
            f"pyfi ls {listed.plural}",
            f"pyfi ls {listed.plural} -o json",
            f"pyfi ls {listed.plural} --columns {','.join(listed.columns[:2])} --sort {first} --no-header",
        ),
    )
    @output_options
    @pass_platform
    def command(platform: Platform, out: Output) -> None:
        if kind == "job":
            platform.refresh_jobs()
        out.rows(platform.network.list(kind), listed.columns, listed.wide)


def _show(kind: str) -> None:
    @show.command(
        kind,
        cls=Command,
        help=f"Show all of one {kind}.",
        examples=(
            f"pyfi show {kind} {kind}1",
            f"pyfi show {kind} -n {kind}1 -o json",
            f"pyfi show {kind} --id 0198c7a2-4f00-7abc-8def-001122334455",
        ),
    )
    @object_options
    @output_options
    @pass_platform
    def command(platform: Platform, target: str | None, name: str | None, ident: Any, out: Output) -> None:
        which = named(target, name, ident)
        out.row(platform.network.show(kind, which))


def _delete(kind: str) -> None:
    @delete.command(
        kind,
        cls=Command,
        help=f"Delete a {kind}; refused while something depends on it.",
        examples=(
            f"pyfi delete {kind} {kind}1",
            f"pyfi delete {kind} -n {kind}1 -y",
            f"pyfi delete {kind} {kind}1 --cascade -y",
        ),
    )
    @object_options
    @click.option("--generation", type=Whole(1, 2**31), help="Refuse if it was changed since this one.")
    @click.option("--cascade", is_flag=True, help="Delete also what hangs on it.")
    @yes_option
    @pass_platform
    def command(
        platform: Platform, target: str | None, name: str | None, ident: Any, yes: bool, cascade: bool, **given: Any
    ) -> None:
        which = named(target, name, ident)
        platform.network.check_delete(kind, which, cascade=cascade, **given)
        confirm(f"delete {kind} {which}{' and all that hangs on it' if cascade else ''}", yes)
        platform.network.delete(kind, which, cascade=cascade, **given)
        click.echo(f"{kind} {which} deleted")


@ls.command(
    "invocations",
    cls=Command,
    examples=(
        "pyfi ls invocations",
        "pyfi ls invocations --limit 1000 --sort started",
        "pyfi ls invocations -o json --all",
    ),
)
@output_options
@pass_platform
def ls_invocations(platform: Platform, out: Output) -> None:
    """List invocations that are on record: what waits to start, what runs, and what has ended, newest first.

    100 of them, unless --limit or --all says otherwise. Calls that wait in a queue have no row yet: `pyfi queue peek`
    shows them.
    """
    most = _EVERY if out.everything else out.limit or TABLE_ROWS
    rows = platform.client.operations.invocations(most)
    out.rows(rows, ("id", "socket", "status", "due", "started", "ended", "node", "error"), ("serial", "code", "cause"))


@show.command(
    "job",
    cls=Command,
    examples=("pyfi show job 88121", "pyfi show job 88121 --script", "pyfi show job 88121 -o json"),
)
@click.argument("which", metavar="JOB")
@click.option("--script", is_flag=True, help="Print the job script as Slurm got it.")
@output_options
@pass_platform
def show_job(platform: Platform, which: str, script: bool, out: Output) -> None:
    """Show all of one Slurm job, by Slurm's id or by ours."""
    if script:
        click.echo(platform.network.job_script(which), nl=False)
    else:
        platform.refresh_jobs()
        out.row(platform.network.show("job", which))


for _kind, _listed in LISTED.items():
    _ls(_kind, _listed)
    if _kind != "job":
        _show(_kind)
for _kind in KINDS:
    _delete(_kind)
