"""`pyfi update`: change what is wanted of an object."""

from __future__ import annotations

from typing import Any

import click

from pyfi_hpc.cli.command import Command, Group
from pyfi_hpc.cli.context import Platform, pass_platform
from pyfi_hpc.cli.params import Choice, Seconds, Whole
from pyfi_hpc.cli.pilot_options import pilot_options, with_shape
from pyfi_hpc.cli.shared import changes, named, object_options, route_option, shape_options, whole_path
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.ordering import Ordering
from pyfi_hpc.model.status import QueueKind

#: Given back by `show`; an object that was changed since then is left alone.
generation_option = click.option("--generation", type=Whole(1, 2**31), help="Refuse if it was changed since this one.")


@click.group(cls=Group, aliases={"outlet": "socket", "proc": "processor"})
def update() -> None:
    """Change an object of the network."""


def _updated(platform: Platform, kind: str, which: Any, /, generation: int | None = None, **values: Any) -> None:
    """Change the object and print its new generation."""
    wanted = changes(**values)
    if not wanted:
        raise BadInput("E_MISSING", "nothing is to be changed", cure=f"pyfi update {kind} --help", field="changes")
    row = getattr(platform.network, f"update_{kind}")(which, **changes(generation=generation), **wanted)
    click.echo(f"{kind} {row['name']} generation {row['generation']}")


@update.command(
    cls=Command,
    examples=(
        "pyfi update queue pyfi.queue1 --max-length 5000",
        "pyfi update queue -n pyfi.queue1 --max-length 5000",
        "pyfi update queue pyfi.queue1 --max-length 5000 --generation 2",
        "pyfi update queue pyfi.queue1 --kind classic",
    ),
)
@object_options
@click.option("--max-length", type=Whole(1, 10**9), help="Refuse more when so many wait.")
@click.option("--kind", type=Choice(QueueKind, "KIND"), help="How RabbitMQ keeps it.")
@generation_option
@pass_platform
def queue(platform: Platform, target: str | None, name: str | None, ident: Any, **values: Any) -> None:
    """Change a queue."""
    _updated(platform, "queue", named(target, name, ident), **values)


@update.command(
    cls=Command,
    examples=(
        "pyfi update processor proc1 -w 8",
        "pyfi update processor proc1 -br main",
        "pyfi update processor -n proc1 -rs stopped --generation 3",
    ),
)
@object_options
@click.option("-g", "--gitrepo", help="Address of the git repository with its code.")
@click.option("-m", "--module", help="The Python module of that repository.")
@click.option("-c", "--commit", help="The commit to pin, all 40 digits.")
@click.option("-br", "--branch", help="The branch or tag to pin as it stands now.")
@shape_options
@pilot_options
@generation_option
@pass_platform
def processor(platform: Platform, target: str | None, name: str | None, ident: Any, **values: Any) -> None:
    """Change a processor; a new commit is tried by one worker first, then taken up by all."""
    values["gitrepo"] = whole_path(values["gitrepo"])
    _updated(platform, "processor", named(target, name, ident), **with_shape(values))


@update.command(
    cls=Command,
    examples=(
        "pyfi update socket proc1.socket1 -t do_this",
        "pyfi update socket proc1.socket1 --timeout 5m",
        "pyfi update socket -n proc1.socket1 --binding 'alarm.#'",
        "pyfi update socket proc1.socket1 --priorities 1",
        "pyfi update socket proc1.socket1 --ordering fifo --timeout 1m",
    ),
)
@object_options
@click.option("-t", "--task", help="The function to run.")
@click.option("--timeout", "timeout_seconds", type=Seconds(), help="Time limit of each call.")
@click.option("--binding", metavar="PATTERN", help="The keys of a topic queue that reach it.")
@click.option("--priorities", type=Whole(1, 3), help="1: calls have none, 2: some may be high, 3: also low.")
@click.option("--ordering", type=Choice(Ordering, "ORDERING"), help="fifo: calls run one at a time, in order.")
@generation_option
@pass_platform
def socket(platform: Platform, target: str | None, name: str | None, ident: Any, **values: Any) -> None:
    """Change a socket."""
    _updated(platform, "socket", named(target, name, ident), **values)


@update.command(
    cls=Command,
    examples=(
        "pyfi update plug plug1 -q pyfi.queue3",
        "pyfi update plug plug1 -s proc1.socket1 -t proc2.outlet1",
        "pyfi update plug -n plug1 --key alarm.fire",
        "pyfi update plug plug1 --route broker",
    ),
)
@object_options
@click.option("-q", "--queue", help="The queue that results go to.")
@click.option("-s", "--source", help="Only results of this socket of the processor.")
@click.option("-t", "--target", "to", help="Only to this socket of the queue.")
@click.option("--key", help="The key it sends with to a topic queue.")
@route_option
@generation_option
@pass_platform
def plug(platform: Platform, target: str | None, name: str | None, ident: Any, to: str | None, **values: Any) -> None:
    """Change a plug."""
    _updated(platform, "plug", named(target, name, ident), target=to, **values)


@update.command(
    cls=Command,
    examples=(
        "pyfi update node node1 -h radiant",
        "pyfi update node -n node1 -h radiant",
        "pyfi update node node1 -h radiant --generation 1",
    ),
)
@object_options
@click.option("-h", "--host", help="Its host name.")
@generation_option
@pass_platform
def node(platform: Platform, target: str | None, name: str | None, ident: Any, **values: Any) -> None:
    """Change a node."""
    _updated(platform, "node", named(target, name, ident), **values)
