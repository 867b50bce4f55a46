"""`pyfi node`: take nodes out of service for a while, and back."""

from __future__ import annotations

from typing import Any

import click

from pyfi_hpc.cli.command import Command, Group
from pyfi_hpc.cli.context import Platform, pass_platform
from pyfi_hpc.cli.shared import named, object_options


@click.group(cls=Group)
def node() -> None:
    """Take a node out of service, or back into it."""


@node.command(
    cls=Command,
    examples=("pyfi node drain node1", "pyfi node drain -n node1", "pyfi node drain node1 && pyfi ls workers"),
)
@object_options
@pass_platform
def drain(platform: Platform, target: str | None, name: str | None, ident: Any) -> None:
    """Want a node empty: its workers finish what they have and end, and no others start there."""
    row = platform.network.drain_node(named(target, name, ident))
    click.echo(f"node {row['name']} drains: {row['workers']} workers end with the calls that they have")


@node.command(
    cls=Command,
    examples=("pyfi node resume node1", "pyfi node resume -n node1", "pyfi node resume node1 && pyfi ls nodes"),
)
@object_options
@pass_platform
def resume(platform: Platform, target: str | None, name: str | None, ident: Any) -> None:
    """Let a drained node take work again."""
    row = platform.network.resume_node(named(target, name, ident))
    click.echo(f"node {row['name']} takes work again")
