"""`pyfi demo`: the main job on this machine, in a minute."""

from __future__ import annotations

import click

from pyfi_hpc.cli.command import Command
from pyfi_hpc.cli.context import Platform, pass_platform


@click.command(cls=Command, examples=("pyfi demo", "PYFI_AGENT_CORES=0-3 pyfi demo", "PYFI_HOME=/tmp/try pyfi demo"))
@pass_platform
def demo(platform: Platform) -> None:
    """Run real work on this machine, kill a worker, and check that no call is lost.

    Workers are pinned, one for each core. It needs no server and leaves nothing behind.
    """
    from pyfi_hpc.demo import run

    click.get_current_context().exit(run(platform.settings))
