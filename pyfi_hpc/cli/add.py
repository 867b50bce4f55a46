"""`pyfi add`: put an object into the network."""

from __future__ import annotations

import uuid
from typing import Any

import click

from pyfi_hpc.cli.command import Command, Group
from pyfi_hpc.cli.context import Platform, pass_platform
from pyfi_hpc.cli.params import Choice, Id, Seconds, Whole
from pyfi_hpc.cli.pilot_options import pilot_options, with_shape
from pyfi_hpc.cli.shared import (
    changes,
    name_option,
    one_processor,
    processor_options,
    route_option,
    shape_options,
    whole_path,
)
from pyfi_hpc.model.ordering import Ordering
from pyfi_hpc.model.status import QueueKind, QueueType


@click.group(cls=Group, aliases={"proc": "processor"})
@click.option("--id", "ident", type=Id(), help="Its id; else a new one is made.")
@pass_platform
def add(platform: Platform, ident: uuid.UUID | None) -> None:
    """Add an object to the network."""
    platform.new_id = ident


def _added(platform: Platform, kind: str, /, **values: Any) -> None:
    """Add the object and print its name and id."""
    made = getattr(platform.network, f"add_{kind}")(**changes(id=platform.new_id, **values))
    click.echo(f"{kind} {made['name']} {made['id']}")


@add.command(
    cls=Command,
    examples=(
        "pyfi add queue -n pyfi.queue1",
        "pyfi add queue -n pyfi.queue1 -t direct",
        "pyfi add queue -n news -t topic --max-length 10000",
        "pyfi add queue -n quick --kind classic",
    ),
)
@name_option
@click.option(
    "-t",
    "--type",
    "type_",
    type=Choice(QueueType, "TYPE"),
    default="direct",
    show_default=True,
    help="Whom a plug to it reaches: every task bound, or on a topic those whose binding fits.",
)
@click.option("--max-length", type=Whole(1, 10**9), help="Refuse more when so many wait.")
@click.option(
    "--kind",
    type=Choice(QueueKind, "KIND"),
    default="quorum",
    show_default=True,
    help="How RabbitMQ keeps it: classic answers sooner, is not replicated, and counts no deliveries.",
)
@pass_platform
def queue(platform: Platform, name: str, type_: str, max_length: int | None, kind: str) -> None:
    """Add a durable queue."""
    _added(platform, "queue", name=name, type=type_, max_length=max_length, kind=kind)


@add.command(
    cls=Command,
    examples=(
        "pyfi add processor -n proc1 -g https://github.com/radiantone/pyfi-processors -m pyfi.processors.sample",
        "pyfi add processor -n proc1 -g ~/work/flow -m flow.steps -t clean -br main -w 4",
        "pyfi add processor -n far -g ~/work/flow -m flow.steps -w 16 --ntasks 8 --partition main --time 2:00:00",
        "pyfi add processor -n big -g ~/work/flow -m flow.steps -cs 2 --mem 4G --timeout 10m -rs stopped",
    ),
)
@name_option
@click.option("-g", "--gitrepo", required=True, help="Address of the git repository with its code.")
@click.option("-m", "--module", required=True, help="The Python module of that repository.")
@click.option("-c", "--commit", help="The commit to pin, all 40 digits; else where the branch stands now.")
@click.option("-br", "--branch", help="The branch or tag; else the repository's own default.")
@shape_options
@pilot_options
@pass_platform
def processor(platform: Platform, name: str, gitrepo: str, **shape: Any) -> None:
    """Add a processor: code at one commit, wanted running from now on.

    It runs on nodes that are there. With an option of pilots, its scheduler also sends pilots of that shape into Slurm
    for the workers that are missing; without -w, one pilot each time that it is asked to run.
    """
    _added(platform, "processor", name=name, gitrepo=whole_path(gitrepo), **with_shape(shape))


@add.command(
    cls=Command,
    examples=(
        "pyfi add socket -n proc1.socket1 -q pyfi.queue1 -pn proc1 -t do_something",
        "pyfi add socket -n proc1.socket2 -q pyfi.queue1 -pn proc1 -t do_this --timeout 30s",
        "pyfi add socket -n proc1.alarms -q news -pn proc1 -t alarm --binding 'alarm.#'",
        "pyfi add socket -n proc1.socket3 -q pyfi.queue1 -pn proc1 -t do_this --priorities 2",
        "pyfi add socket -n proc1.ledger -q pyfi.queue1 -pn proc1 -t do_this --ordering fifo --timeout 1m",
    ),
)
@name_option
@click.option("-q", "--queue", required=True, help="The queue that invocations wait in.")
@processor_options
@click.option("-t", "--task", required=True, help="The function to run.")
@click.option("--timeout", "timeout_seconds", type=Seconds(), help="Time limit of each call.")
@click.option("--binding", metavar="PATTERN", help="The keys of a topic queue that reach it; else all.")
@click.option("--priorities", type=Whole(1, 3), help="1: calls have none, 2: some may be high, 3 (default): also low.")
@click.option(
    "--ordering",
    type=Choice(Ordering, "ORDERING"),
    help="fifo: calls run one at a time, in the order in which they were accepted; on RabbitMQ with a time limit.",
)
@pass_platform
def socket(platform: Platform, name: str, procname: str | None, procid: uuid.UUID | None, **values: Any) -> None:
    """Add a socket: one task of a processor, behind a queue."""
    _added(platform, "socket", name=name, processor=one_processor(procname, procid), **values)


@add.command(
    cls=Command,
    examples=(
        "pyfi add outlet -n proc2.outlet1 -q pyfi.queue2 -pn proc2",
        "pyfi add outlet -n proc2.outlet2 -q pyfi.queue2 -pn proc2 -t do_this",
        "pyfi add outlet -n proc2.outlet1 -q pyfi.queue2 -pi 0198c7a2-4f00-7abc-8def-001122334455",
    ),
)
@name_option
@click.option("-q", "--queue", required=True, help="The queue that invocations wait in.")
@processor_options
@click.option("-t", "--task", help="The function to run; else the processor's own task.")
@pass_platform
def outlet(platform: Platform, name: str, procname: str | None, procid: uuid.UUID | None, **values: Any) -> None:
    """Add a socket under its old name: the inbound end of a processor, for the processor's own task."""
    _added(platform, "socket", name=name, processor=one_processor(procname, procid), **values)


@add.command(
    cls=Command,
    examples=(
        "pyfi add plug -n plug1 -q pyfi.queue2 -pn proc1",
        "pyfi add plug -n plug2 -q pyfi.queue2 -pn proc1 -s proc1.socket1 -t proc2.outlet1",
        "pyfi add plug -n plug3 -q news -pn proc1 --key alarm.fire",
        "pyfi add plug -n plug4 -q pyfi.queue2 -pn proc1 --route broker",
    ),
)
@name_option
@click.option("-q", "--queue", required=True, help="The queue that results go to.")
@processor_options
@click.option("-s", "--source", help="Only results of this socket of the processor.")
@click.option("-t", "--target", help="Only to this socket of the queue.")
@click.option("--key", help="The key it sends with to a topic queue.")
@route_option
@pass_platform
def plug(platform: Platform, name: str, procname: str | None, procid: uuid.UUID | None, **values: Any) -> None:
    """Add a plug: the results of a processor go to the tasks bound to a queue."""
    _added(platform, "plug", name=name, processor=one_processor(procname, procid), **values)


@add.command(
    cls=Command,
    examples=(
        "pyfi add node -n node1 -h phoenix",
        "pyfi add --id 0198c7a2-4f00-7abc-8def-001122334455 node -n node1 -h phoenix",
        "pyfi -d postgresql://ana@db/pyfi add node -n node2 -h radiant",
    ),
)
@name_option
@click.option("-h", "--host", required=True, help="Its host name.")
@pass_platform
def node(platform: Platform, name: str, host: str) -> None:
    """Add a node by its host name, before its agent has reported it."""
    _added(platform, "node", name=name, host=host)


@add.command(
    cls=Command,
    examples=(
        "pyfi add scheduler --name sched1",
        "pyfi add scheduler -n sched1",
        "pyfi add --id 0198c7a2-4f00-7abc-8def-001122334455 scheduler -n sched1",
    ),
)
@name_option
@pass_platform
def scheduler(platform: Platform, name: str) -> None:
    """Add a scheduler; `pyfi scheduler start` serves it."""
    _added(platform, "scheduler", name=name)
