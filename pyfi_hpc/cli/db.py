"""`pyfi db`: the schema."""

from __future__ import annotations

import click

from pyfi_hpc.cli.command import Command, Group
from pyfi_hpc.cli.context import Platform, confirm, pass_platform
from pyfi_hpc.cli.shared import yes_option
from pyfi_hpc.config.kinds import masked
from pyfi_hpc.errors import BadInput


@click.group(cls=Group)
def db() -> None:
    """Make the database ready, bring it up to date, or drop what is in it."""


def _uri(platform: Platform) -> str:
    if platform.settings.embedded:
        cure = f"pyfi -d postgresql://ADMIN@HOST/DATABASE db {click.get_current_context().info_name}"
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


@db.command(
    cls=Command,
    examples=(
        "pyfi db drop",
        "pyfi -d postgresql://admin@db.example/pyfi db drop --yes",
        "pyfi -i admin.ini db drop -y && pyfi -i admin.ini db init",
    ),
)
@yes_option
@pass_platform
def drop(platform: Platform, yes: bool) -> None:
    """Remove the schema and all that is on record in it; what waits in RabbitMQ stays there."""
    from pyfi_hpc.db import schema

    uri = _uri(platform)
    holds = ", ".join(f"{count} {what}{'s' if count != 1 else ''}" for what, count in schema.holds(uri).items())
    confirm(f"drop the schema of {masked(uri)} with {holds}", yes)
    schema.drop(uri)
    click.echo("the schema is dropped")
