"""`pyfi demo`: the main job in a minute, on this machine or on a cluster in a box."""

from __future__ import annotations

import click

from pyfi_hpc.cli.command import Command
from pyfi_hpc.cli.context import Platform, pass_platform


@click.command(cls=Command, examples=("pyfi demo", "PYFI_AGENT_CORES=0-3 pyfi demo", "pyfi demo --cluster"))
@click.option("--cluster", is_flag=True, help="On a cluster in a box, of which a node is powered off.")
@pass_platform
def demo(platform: Platform, cluster: bool) -> None:
    """Run real work on this machine, kill a worker, and check that no call is lost.

    Workers are pinned, one for each core. It needs no server and leaves nothing behind. With --cluster it needs
    Debian's packages of Slurm, RabbitMQ and Postgres: make demo-cluster installs them.
    """
    from pyfi_hpc.demo import run, run_on_cluster

    click.get_current_context().exit(run_on_cluster() if cluster else run(platform.settings))
