"""`pyfi config`: see, check and store settings."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import click

from pyfi_hpc.cli.command import Command, Group
from pyfi_hpc.cli.context import Platform, pass_platform
from pyfi_hpc.cli.output import Output, output_options
from pyfi_hpc.config import Settings, set_value, user_file
from pyfi_hpc.config.sections import KEYS
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.model.names import checked_choice

#: What the wizard asks for; everything else has a default that fits most.
ASKED = ("database.uri", "broker.uri", "git.allow", "slurm.partition", "slurm.account")


#: Words that people try here.
_MEANT = {
    "get": "pyfi config show NAME",
    "ls": "pyfi config show",
    "unset": "take its line out of the file that pyfi config show NAME --origin names",
}


@click.group(cls=Group, meant=_MEANT)
def config() -> None:
    """See, check and store settings."""


@config.command(
    cls=Command,
    examples=("pyfi config show", "pyfi config show --origin", "pyfi config show database.uri -o json"),
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--origin", is_flag=True, help="Say also where each value comes from.")
@output_options
@pass_platform
def show(platform: Platform, names: tuple[str, ...], origin: bool, out: Output) -> None:
    """Show every setting, or only those named; passwords are hidden."""
    for name in names:
        checked_choice(name, KEYS, "setting")
    rows = [
        {"name": name, "value": value, "origin": place, "meaning": KEYS[name].meaning}
        for name, value, place in platform.settings.shown()
        if not names or name in names
    ]
    out.rows(rows, ["name", "value", *(["origin"] if origin else [])], ["origin", "meaning"])


@config.command(
    cls=Command,
    examples=("pyfi config check", "pyfi -i site.ini config check", "PYFI_AGENT_CORES=0-3 pyfi config check"),
)
@pass_platform
def check(platform: Platform) -> None:
    """Read all settings and say what they amount to, or what is wrong and where."""
    settings = platform.settings
    settings.check_here()
    mode = "embedded, everything on this machine" if settings.embedded else "on servers"
    click.echo(f"settings are good: {len(settings.origins)} given, {mode}")


@config.command(
    "set",
    cls=Command,
    examples=(
        "pyfi config set slurm.partition gpu",
        "pyfi config set database.uri - < uri.txt",
        "pyfi config set git.allow https://git.example.org/ --file pyfi.ini",
    ),
)
@click.argument("name")
@click.argument("value")
@click.option("--file", type=click.Path(dir_okay=False, path_type=Path), help="Store it here, not in your own file.")
@pass_platform
def set_command(platform: Platform, name: str, value: str, file: Path | None) -> None:
    """Store one setting in your own file, which only you can read; `-` reads the value from stdin."""
    before = _settings(platform)
    text = sys.stdin.read() if value == "-" else value
    store(file or platform.ini or user_file(), name, text, alone=before is not None and before.embedded)
    if before is not None and _served(before, name):
        click.echo(
            "the local service that runs read its settings at its start; for this one: pyfi local stop", err=True
        )


def _settings(platform: Platform) -> Settings | None:
    """What is set so far; None where that cannot be read, which may be what is being mended."""
    with suppress(PyfiError):
        return platform.settings
    return None


def _served(settings: Settings, name: str) -> bool:
    """Whether the setting is one that a service which runs here has read."""
    from pyfi_hpc.local.record import Records

    if not settings.embedded or name.partition(".")[0] in ("client", "database"):
        return False
    return Records(settings.state_dir).running() is not None


def store(path: Path, name: str, value: str, *, alone: bool = False) -> None:
    """Store the setting and say where."""
    section, _, key = name.partition(".")
    set_value(path, section, key, value, alone=alone)
    click.echo(f"{name} is stored in {path}", err=True)


def wizard(platform: Platform) -> None:
    """Ask for the settings that have no default to fit all; Enter keeps what is there."""
    path = platform.ini or user_file()
    platform.ini = platform.ini if platform.ini and platform.ini.exists() else None
    current = {name: value for name, value, _ in Settings.load(platform.ini, platform.options).shown()}
    for name in ASKED:
        click.echo(f"\n{name}: {KEYS[name].meaning}", err=True)
        answer = click.prompt("  value", default=current[name], show_default=bool(current[name]), err=True)
        if answer != current[name]:
            store(path, name, answer)
