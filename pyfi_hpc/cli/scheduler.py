"""`pyfi scheduler`: who sends pilots into Slurm, and which nodes are whose."""

from __future__ import annotations

import signal
import threading

import click

from pyfi_hpc.cli.command import Command, Group
from pyfi_hpc.cli.context import Platform, pass_platform
from pyfi_hpc.cli.params import Seconds
from pyfi_hpc.cli.shared import only


@click.group(cls=Group)
@click.option("-n", "--name", help="The scheduler's name.")
def scheduler(name: str | None) -> None:
    """Manage schedulers: they place workers and send pilots into Slurm."""


_name = click.option("-n", "--name", help="The scheduler's name, in place of the one before the command.")
_node = click.option("--node", required=True, help="The node's name.")


def _named(name: str | None) -> str | None:
    """The name given to the command or before it; None for none."""
    context = click.get_current_context()
    before = context.parent.params.get("name") if context.parent else None
    return None if name is None and before is None else only({"-n": name, "scheduler -n": before}, "name")


def _required(name: str | None) -> str:
    return _named(name) or str(only({"scheduler -n": None}, "name"))


@scheduler.command(
    cls=Command,
    examples=(
        "pyfi scheduler -n sched1 add --node node1",
        "pyfi scheduler add -n sched1 --node node1",
        "pyfi scheduler -n sched1 add --node node2 && pyfi show scheduler sched1",
    ),
)
@_name
@_node
@pass_platform
def add(platform: Platform, name: str | None, node: str) -> None:
    """Put a node under the scheduler."""
    which = _required(name)
    row = platform.network.add_to_scheduler(which, node)
    click.echo(f"scheduler {which}: node {row['name']} added")


@scheduler.command(
    cls=Command,
    examples=(
        "pyfi scheduler -n sched1 remove --node node1",
        "pyfi scheduler remove -n sched1 --node node1",
        "pyfi scheduler -n sched1 remove --node node1 && pyfi scheduler -n sched2 add --node node1",
    ),
)
@_name
@_node
@pass_platform
def remove(platform: Platform, name: str | None, node: str) -> None:
    """Take a node from under the scheduler; what runs there goes on."""
    which = _required(name)
    row = platform.network.remove_from_scheduler(which, node)
    click.echo(f"scheduler {which}: node {row['name']} removed")


@scheduler.command(
    cls=Command,
    examples=("pyfi scheduler start -n sched1", "pyfi scheduler -n sched1 start -i 5", "pyfi scheduler start"),
)
@_name
@click.option("-i", "--interval", type=Seconds(), help="Seconds between two looks at Slurm; else as set.")
@pass_platform
def start(platform: Platform, name: str | None, interval: float | None) -> None:
    """Serve a scheduler in the foreground, until stopped; of several that serve one, one leads."""
    from pyfi_hpc.agent.logs import log_to_stderr
    from pyfi_hpc.control.pilots import Patience
    from pyfi_hpc.db import jobs as rows

    log_to_stderr()
    control = platform.control
    which = _named(name)
    found = control.database.run(lambda cursor: rows.find_or_make_scheduler(cursor, control.network, which))
    serving = control.scheduler(found, Patience(poll=interval or float(platform.settings.slurm.poll_seconds)))
    for sign in (signal.SIGTERM, signal.SIGINT):
        # from a thread: a handler runs in the midst of whatever the main thread does
        signal.signal(sign, lambda *_: threading.Thread(target=serving.stop).start())
    serving.run()
