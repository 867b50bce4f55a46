"""The options of `pyfi submit`, made from the table that it shares with sbatch, and what they come to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pyfi_hpc.cli.command import Command
from pyfi_hpc.cli.params import flag
from pyfi_hpc.cli.shared import together
from pyfi_hpc.config import Settings
from pyfi_hpc.errors import BadInput
from pyfi_hpc.slurm.request.asking import Asked, settled
from pyfi_hpc.slurm.request.options import OPTIONS, OURS, Given, Option, checked_extra, from_environment, unknown
from pyfi_hpc.slurm.request.reading import script_from
from pyfi_hpc.slurm.request.sbatch import PASSED, REFUSED, SHORT, Takes

# click's kinds are generic for the type checker only since 8.5
if TYPE_CHECKING:
    _Kind = click.ParamType[Any]
else:
    _Kind = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])
#: Where what is typed comes from.
LINE = "command line"
#: Where a context keeps the words behind `pyfi submit`.
TYPED = "pyfi_hpc.typed"


class Submit(Command):
    """The command, which tells of an option that sbatch alone has what to do with it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[TYPED] = tuple(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise _foreign(error.option_name) from error


def _foreign(name: str) -> BadInput:
    long = SHORT.get(name, name)
    if long in REFUSED:
        return BadInput.of("E_USAGE", "pyfi submit", name, f"a pilot cannot have {name}", cure=REFUSED[long])
    if long in PASSED:
        what = f"{name} is an option of sbatch that pyfi only passes on"
        cure = f"--slurm-arg={long}{'=VALUE' if PASSED[long] is Takes.VALUE else ''}"
        return BadInput.of("E_USAGE", "pyfi submit", name, what, cure=cure)
    return unknown(name, "pyfi submit", "E_USAGE")


class FromTable(_Kind):
    """The value of an option of the table."""

    def __init__(self, option: Option) -> None:
        self.option, self.name = option, option.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.option.convert(value, flag(param)) if isinstance(value, str) else value


def _as_option(option: Option) -> Callable[[F], F]:
    flags = "/".join(each.long for each in OPTIONS if each.field == option.field and each.constant is not None)
    if flags:
        return click.option(flags, _name(option), default=None, help=option.meaning)
    return click.option(
        *option.flags, _name(option), type=FromTable(option), metavar=option.metavar, help=option.meaning
    )


def _name(option: Option) -> str:
    return option.long.removeprefix("--").replace("-", "_")


#: The options of the table; `given_on_line` takes back what they give.
table_options = together(*(_as_option(option) for option in [*OPTIONS, *OURS] if option.constant is not False))


def given_on_line(values: dict[str, Any], extra: tuple[str, ...]) -> Iterator[Given]:
    """What the options of the command line ask for."""
    for option in [*OPTIONS, *OURS]:
        value = values.get(_name(option))
        if value is not None:
            yield Given(option.field, value, LINE)
    for word in extra:
        yield Given("extra", checked_extra(word), LINE)


def asked_for(settings: Settings, script: str | None, line: Iterator[Given]) -> Asked:
    """What settings, script, variables and command line come to; folders are whole.

    Raises:
        BadInput: as soon as one of them cannot be understood.
    """
    on_line = list(line)
    read = script_from(script) if script else None
    places = [
        _from_settings(settings),
        read.sbatch if read else (),
        from_environment(os.environ),
        read.pyfi if read else (),
        on_line,
    ]
    asked = settled(places, read.setup if read else "")
    return replace(asked, request=replace(asked.request, chdir=str(Path(asked.request.chdir or ".").absolute())))


def _from_settings(settings: Settings) -> Iterator[Given]:
    yield Given("chdir", os.getcwd(), "where you are")
    for name in ("partition", "account"):
        if value := settings.value(f"slurm.{name}"):
            yield Given(name, value, f"slurm.{name} of {settings.origins.get(f'slurm.{name}', 'default')}")
