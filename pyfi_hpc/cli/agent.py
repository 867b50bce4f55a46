"""`pyfi agent`: the daemon of a node."""

from __future__ import annotations

from typing import Any

import click

from pyfi_hpc.cli.command import Command, Group
from pyfi_hpc.cli.context import Platform, pass_platform
from pyfi_hpc.cli.params import Name
from pyfi_hpc.cli.shared import object_options, only, together


@click.group(cls=Group)
def agent() -> None:
    """Serve a node: start workers, hand them calls."""


def _serve(platform: Platform, network: str | None, **given: Any) -> None:
    from pyfi_hpc.agent.main import run as serve

    status = serve(platform.settings, network=network or platform.settings.agent.network, **given)
    click.get_current_context().exit(status)


_options = together(
    click.option("-h", "--host", help="The node's name, in place of this machine's."),
    click.option("--cores", help="Cores to use, such as 0-3,8; else all it may use."),
    click.option("--network", type=Name(), help="The network to serve."),
    click.option("--respawn", is_flag=True, help="Start the agent again when it dies."),
    click.option("--job", metavar="TOKEN", help="Serve the slots of the job that this runs in; job scripts say it."),
    click.option("--unsafe", is_flag=True, help="Serve a database that may lose what it has committed."),
)


@agent.command(
    cls=Command,
    examples=("pyfi agent run", "pyfi agent run --respawn", "pyfi agent run --cores 0-3 -h node1"),
)
@_options
@pass_platform
def run(platform: Platform, **given: Any) -> None:
    """Serve this node in the foreground, until stopped."""
    _serve(platform, **given)


@agent.command(
    cls=Command,
    examples=("pyfi agent stop node1", "pyfi agent stop -n node1", "pyfi agent stop node1 && pyfi ls agents"),
)
@object_options
@click.option("-h", "--host", help="The same as NAME, as `pyfi agent start` has it.")
@pass_platform
def stop(platform: Platform, target: str | None, name: str | None, ident: Any, host: str | None) -> None:
    """Ask a node's agent to end: what runs is finished, what waits is given back."""
    row = platform.network.stop_agent(only({"NAME": target, "--name": name, "--host": host, "--id": ident}, "name"))
    click.echo(f"node {row['name']}: its agent drains and ends")


@agent.command(
    cls=Command,
    examples=("pyfi agent start", "pyfi agent start --respawn", "pyfi agent start --cores 0-3 -h node1"),
)
@_options
@pass_platform
def start(platform: Platform, **given: Any) -> None:
    """Serve this node in the foreground: the original's name of `pyfi agent run`."""
    _serve(platform, **given)
