"""`pyfi dead`: invocations whose retry budget is spent, kept for a person to look at."""

from __future__ import annotations

import click

from pyfi_hpc.cli.command import Command, Group
from pyfi_hpc.cli.context import Platform, confirm, pass_platform
from pyfi_hpc.cli.output import Output, output_options
from pyfi_hpc.cli.shared import only, yes_option
from pyfi_hpc.cli.values import as_json


@click.group(cls=Group, aliases={"list": "ls"})
def dead() -> None:
    """Look at dead invocations, requeue or drop them."""


def _chosen(platform: Platform, ids: tuple[str, ...], everything: bool) -> list[str]:
    """The ids that were given, or those of all dead ones."""
    only({"ID": ids or None, "--all": everything or None}, "id")
    return [row["id"] for row in platform.client.operations.dead()] if everything else list(ids)


@dead.command(cls=Command, examples=("pyfi dead ls", "pyfi dead ls -o json", "pyfi dead ls --sort since --limit 10"))
@output_options
@pass_platform
def ls(platform: Platform, out: Output) -> None:
    """List dead invocations, newest first, with why they died."""
    out.rows(platform.client.operations.dead(), ["id", "socket", "cause", "attempts", "since", "error"], ["returns"])


@dead.command(
    cls=Command, examples=("pyfi dead show 6f3a9c01de", "pyfi dead show 6f3a9c01de -o json", "pyfi dead show 0c01de")
)
@click.argument("ident", metavar="ID")
@output_options
@pass_platform
def show(platform: Platform, ident: str, out: Output) -> None:
    """Show one dead invocation with its arguments, attempts and last traceback."""
    row = platform.client.operations.dead_show(ident)
    out.row({**row, "args": as_json(row["args"]), "kwargs": as_json(row["kwargs"])})


@dead.command(
    cls=Command,
    examples=("pyfi dead requeue 6f3a9c01de", "pyfi dead requeue 6f3a9c01de 77aa01b2c3", "pyfi dead requeue --all"),
)
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every dead invocation of yours.")
@pass_platform
def requeue(platform: Platform, ids: tuple[str, ...], everything: bool) -> None:
    """Send dead invocations again, with a new retry budget."""
    done = platform.client.operations.requeue(_chosen(platform, ids, everything))
    click.echo(f"{len(done)} requeued")


@dead.command(
    cls=Command,
    examples=("pyfi dead drop 6f3a9c01de", "pyfi dead drop 6f3a9c01de 77aa01b2c3 -y", "pyfi dead drop --all -y"),
)
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every dead invocation of yours.")
@yes_option
@pass_platform
def drop(platform: Platform, ids: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Let go of what is kept to requeue dead invocations; that they died stays on record."""
    chosen = _chosen(platform, ids, everything)
    confirm(f"drop the arguments of {len(chosen)} dead invocations", yes)
    done = platform.client.operations.drop(chosen)
    click.echo(f"{len(done)} dropped")
