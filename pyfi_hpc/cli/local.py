"""`pyfi local`: the background service of embedded mode."""

from __future__ import annotations

import click

from pyfi_hpc.cli.command import Command, Group
from pyfi_hpc.cli.context import Platform, pass_platform
from pyfi_hpc.cli.output import Output, output_options


@click.group(cls=Group)
def local() -> None:
    """The service of this machine: Postgres and an agent, in the background."""


@local.command(
    cls=Command,
    examples=("pyfi local start", "PYFI_AGENT_CORES=0-3 pyfi local start", "PYFI_HOME=/tmp/try pyfi local start"),
)
@pass_platform
def start(platform: Platform) -> None:
    """Start the service; commands that need it do so by themselves."""
    from pyfi_hpc import local as service

    if not service.start(platform.settings):
        click.echo("it runs already", err=True)


@local.command(cls=Command, examples=("pyfi local status", "pyfi local status -o json", "pyfi local status -o yaml"))
@output_options
@pass_platform
def status(platform: Platform, out: Output) -> None:
    """Show whether the service runs, and where its log is."""
    from pyfi_hpc import local as service

    out.row(service.status(platform.settings))


@local.command(
    cls=Command,
    examples=("pyfi local stop", "PYFI_HOME=/tmp/try pyfi local stop", "pyfi -i my.ini local stop"),
)
@pass_platform
def stop(platform: Platform) -> None:
    """Stop the service; what waits stays queued, and data is kept."""
    from pyfi_hpc import local as service

    click.echo("stopped" if service.stop(platform.settings) else "it did not run", err=True)
