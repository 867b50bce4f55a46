"""`pyfi proc`: say what processors are to do from now on."""

from __future__ import annotations

from typing import Any

import click

from pyfi_hpc.cli.command import Command, Group
from pyfi_hpc.cli.context import Platform, confirm, pass_platform
from pyfi_hpc.cli.params import Id, Name
from pyfi_hpc.cli.shared import named, object_options, yes_option

#: Verb -> what its help says.
VERBS = {
    "start": "Start a processor: it is wanted running from now on.",
    "stop": "Stop a processor: running calls end first, waiting ones stay in their queues.",
    "restart": "Restart a processor's workers, one first and then the others, with nothing lost.",
    "pause": "Pause a processor: its workers stay but take no more calls.",
    "resume": "Resume a paused processor.",
}


@click.group(cls=Group)
@click.option("--id", "ident", type=Id(), help="Id of the processor, in place of its name.")
@pass_platform
def proc(platform: Platform, ident: Any) -> None:
    """Run or manage processors."""
    platform.new_id = ident


def _which(platform: Platform, target: str | None, name: str | None, ident: Any) -> Any:
    return named(target, name, ident or platform.new_id)


def _verb(verb: str, meaning: str) -> None:
    @proc.command(
        verb,
        cls=Command,
        help=meaning,
        examples=(
            f"pyfi proc {verb} proc1",
            f"pyfi proc {verb} -n proc1",
            f"pyfi proc --id 0198c7a2-4f00-7abc-8def-001122334455 {verb}",
        ),
    )
    @object_options
    @pass_platform
    def command(platform: Platform, target: str | None, name: str | None, ident: Any) -> None:
        which = _which(platform, target, name, ident)
        row = getattr(platform.network, verb)(which)
        click.echo(f"processor {row['name']} {row['requested_status']}")
        platform.act_on_jobs()


for _name, _meaning in VERBS.items():
    _verb(_name, _meaning)


@proc.command(
    cls=Command,
    examples=(
        "pyfi proc move proc1 -h node2",
        "pyfi proc move -n proc1 -h node2",
        "pyfi proc move proc1 -h node2 && pyfi ps",
    ),
)
@object_options
@click.option("-h", "--host", required=True, type=Name(), help="The node that it is to run on, by its name or host.")
@pass_platform
def move(platform: Platform, target: str | None, name: str | None, ident: Any, host: str) -> None:
    """Move a processor to another node: workers there are ready before those elsewhere end."""
    row = platform.network.move(_which(platform, target, name, ident), host)
    click.echo(f"processor {row['name']} moves to {row['host']}")


@proc.command(
    cls=Command,
    examples=("pyfi proc remove proc1", "pyfi proc remove -n proc1 -y", "pyfi proc remove proc1 --discard -y"),
)
@object_options
@click.option("--discard", is_flag=True, help="Cancel what still waits for it, each call on record.")
@yes_option
@pass_platform
def remove(platform: Platform, target: str | None, name: str | None, ident: Any, discard: bool, yes: bool) -> None:
    """Remove a processor for good, once no call waits for it."""
    which = _which(platform, target, name, ident)
    confirm(f"remove processor {which}{' and cancel its waiting calls' if discard else ''}", yes)
    row = platform.network.remove(which, discard=discard)
    click.echo(f"processor {row['name']} {row['requested_status']}")
    platform.act_on_jobs()
