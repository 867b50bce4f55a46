"""`pyfi whoami`."""

from __future__ import annotations

import click

from pyfi_hpc.cli.command import Command
from pyfi_hpc.cli.context import Platform, pass_platform
from pyfi_hpc.cli.output import Output, output_options
from pyfi_hpc.config import kinds


@click.command(
    cls=Command,
    examples=("pyfi whoami", "pyfi whoami -o json", "pyfi -d postgresql://ana@db/pyfi whoami"),
)
@output_options
@pass_platform
def whoami(platform: Platform, out: Output) -> None:
    """Show who you are to the database, and which services are meant."""
    from pyfi_hpc.db.engine import session_user

    settings = platform.settings
    out.row(
        {
            "name": session_user(platform.engine),
            "database": kinds.masked(platform.database_uri),
            "broker": kinds.masked(settings.broker.uri) or "in the database",
            "network": settings.agent.network,
            "embedded": settings.embedded,
            "state": settings.state_dir,
            "cache": settings.cache_dir,
        }
    )
