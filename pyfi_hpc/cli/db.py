"""`pyfi db`: the schema."""

from __future__ import annotations

import click

from pyfi_hpc.cli.command import Command, Group
from pyfi_hpc.cli.context import Platform, pass_platform
from pyfi_hpc.errors import BadInput


@click.group(cls=Group)
def db() -> None:
    """Make the database ready and bring it up to date."""


def _uri(platform: Platform) -> str:
    if platform.settings.embedded:
        cure = "pyfi -d postgresql://ADMIN@HOST/DATABASE db init"
        raise BadInput(
            "E_MISSING", "the embedded database needs no command; name another", at="database.uri", cure=cure
        )
    return platform.settings.database.uri


@db.command(
    cls=Command,
    examples=(
        "pyfi -d postgresql://admin@db.example/pyfi db init",
        "pyfi -d postgresql://admin@db.example/pyfi db init --grant-to ana",
        "pyfi db init",
    ),
)
@click.option("--grant-to", metavar="ROLE", help="The ordinary role that everything else works as.")
@pass_platform
def init(platform: Platform, grant_to: str | None) -> None:
    """Make the schema, or bring it up to date; what is there stays."""
    from pyfi_hpc.db import schema

    click.echo(f"schema {schema.init(_uri(platform), grant_to)}")


@db.command(
    cls=Command,
    examples=(
        "pyfi db migrate",
        "pyfi -d postgresql://admin@db.example/pyfi db migrate",
        "pyfi -i admin.ini db migrate",
    ),
)
@pass_platform
def migrate(platform: Platform) -> None:
    """Bring the schema up to date with this program."""
    from pyfi_hpc.db import schema

    click.echo(f"schema {schema.migrate(_uri(platform))}")
