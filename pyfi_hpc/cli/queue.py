"""`pyfi queue`: look into a queue, or empty it."""

from __future__ import annotations

import click

from pyfi_hpc.cli.command import Command, Group
from pyfi_hpc.cli.context import Platform, confirm, pass_platform
from pyfi_hpc.cli.output import Output, output_options
from pyfi_hpc.cli.params import Whole
from pyfi_hpc.cli.shared import yes_option


@click.group(cls=Group)
def queue() -> None:
    """Look into a queue, or empty it."""


@queue.command(
    cls=Command,
    examples=("pyfi queue peek pyfi.queue1", "pyfi queue peek pyfi.queue1 --count 100", "pyfi queue peek q1 -o json"),
)
@click.argument("name")
@click.option("--count", type=Whole(1, 10_000), default=10, show_default=True, help="How many calls to look at.")
@output_options
@pass_platform
def peek(platform: Platform, name: str, count: int, out: Output) -> None:
    """Show the first calls that wait in a queue; they stay where they are."""
    rows = platform.client.operations.peek(name, count)
    # ids in full: what waits is not on record yet, so other commands would not find it by its last digits
    out.rows(rows, ["id", "owner", "serial", "bytes", "redelivered"], ["error"], whole_ids=True)


@queue.command(
    cls=Command,
    examples=("pyfi queue purge pyfi.queue1", "pyfi queue purge pyfi.queue1 -y", "pyfi queue purge q1 --yes"),
)
@click.argument("name")
@yes_option
@pass_platform
def purge(platform: Platform, name: str, yes: bool) -> None:
    """Take everything that waits off a queue; each call gets the outcome CANCELLED."""
    platform.network.show("queue", name)
    waiting = 0 if yes else platform.client.operations.waiting(name)
    confirm(f"purge queue {name}: every call in the {waiting} messages that wait in it ends CANCELLED", yes)
    count = platform.client.operations.purge(name)
    click.echo(f"queue {name} purged: {count} calls cancelled")
