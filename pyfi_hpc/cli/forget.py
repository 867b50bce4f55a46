"""`pyfi forget`: values that nobody is to read any more."""

from __future__ import annotations

import click

from pyfi_hpc.cli.command import Command
from pyfi_hpc.cli.context import Platform, confirm, pass_platform
from pyfi_hpc.cli.output import Output, output_options
from pyfi_hpc.cli.shared import yes_option


@click.command(
    cls=Command,
    examples=("pyfi forget 6f3a9c01de", "pyfi forget 6f3a9c01de 77aa01b2c3 -y", "pyfi forget 6f3a9c01de -y -o json"),
)
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@yes_option
@output_options
@pass_platform
def forget(platform: Platform, ids: tuple[str, ...], yes: bool, out: Output) -> None:
    """Clear the values of invocations for good; their ids stay used.

    A large value's file goes later: once nothing refers to it, and no sooner than retention.outcomes_days and 7 days
    after it was written.
    """
    confirm(f"clear the values of {len(ids)} invocations for good", yes)
    out.rows(platform.client.forget(*ids), ["id", "forgotten", "status"])
