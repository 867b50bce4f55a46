"""Kinds of value on the command line: each refuses with our code, the option and the value."""

from __future__ import annotations

import datetime
import json
import re
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.names import checked_choice, checked_name

# click's kinds are generic for the type checker only since 8.5
if TYPE_CHECKING:
    _Kind = click.ParamType[Any]
else:
    _Kind = click.ParamType

_MIB = {"": 1, "M": 1, "G": 1024, "T": 1024 * 1024}


def flag(param: click.Parameter | None) -> str:
    """The name that the person knows the parameter by."""
    if param is None:
        return "value"
    return param.opts[-1] if isinstance(param, click.Option) else (param.name or "").upper()


class Name(_Kind):
    """A name for a new object."""

    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return checked_name(value, flag(param))


class Whole(_Kind):
    """A whole number in a range."""

    name = "N"

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if not re.fullmatch(r"-?[0-9]{1,18}", value) or not self.low <= int(value) <= self.high:
            what = f"a whole number from {self.low} to {self.high} is wanted"
            raise BadInput.of("E_RANGE", flag(param), value, what)
        return int(value)


class Seconds(_Kind):
    """A time in seconds, or with s, m, h or d behind it."""

    name = "SECONDS"
    FORM = re.compile(r"(?P<number>[0-9]{1,9}(\.[0-9]{1,6})?)(?P<unit>[smhd]?)")
    _UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}  # noqa: RUF012

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        found = self.FORM.fullmatch(value)
        if not found:
            raise BadInput.of("E_RANGE", flag(param), value, "a time such as 90, 1.5m or 2h is wanted")
        return float(found["number"]) * self._UNITS[found["unit"]]


class Moment(_Kind):
    """A time as 2026-12-01T10:00, of this machine where it names no zone; or seconds from now, as `Seconds` reads."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime.datetime:
        if isinstance(value, datetime.datetime):
            return value
        if Seconds.FORM.fullmatch(value):
            later = datetime.timedelta(seconds=Seconds().convert(value, param, ctx))
            return datetime.datetime.now(datetime.UTC) + later
        try:
            return datetime.datetime.fromisoformat(value)
        except ValueError:
            what = "a time such as 2026-12-01T10:00, or 90, 1.5m or 2h from now, is wanted"
            raise BadInput.of("E_RANGE", flag(param), value, what) from None


class Memory(_Kind):
    """An amount of memory in MiB, or with G or T behind it, as Slurm reads it."""

    name = "MEM"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(?P<number>[0-9]{1,9})(?P<unit>[MGT]?)(i?B)?", value, re.IGNORECASE)
        mib = int(found["number"]) * _MIB[found["unit"].upper()] if found else 0
        if not found or mib < 64:
            what = f"{mib} MiB, as Slurm reads it, cannot start Python" if found else "an amount such as 4G is wanted"
            cure = f"{found['number']}G?" if found and mib else None
            raise BadInput.of("E_RANGE", flag(param), value, what, cure=cure)
        return mib


class Choice(_Kind):
    """One of some words, in any case; a misspelt one is refused with the nearest."""

    def __init__(self, choices: Iterable[str], name: str) -> None:
        self.choices, self.name = [str(choice) for choice in choices], name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        same = [choice for choice in self.choices if choice.lower() == str(value).lower()]
        return same[0] if same else checked_choice(str(value), self.choices, flag(param))

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(choice.lower() for choice in self.choices)}]"


class Id(_Kind):
    """A whole id: any UUID but the nil one."""

    name = "ID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> uuid.UUID:
        if isinstance(value, uuid.UUID):
            return value
        try:
            found = uuid.UUID(value)
        except ValueError:
            found = uuid.UUID(int=0)
        if not found.int:
            raise BadInput.of("E_ID", flag(param), value, "an id is a UUID, and not the nil one")
        return found


class Json(_Kind):
    """A value as JSON: '"text"', 3, '[1, 2]'."""

    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return parsed_json(value, flag(param)) if isinstance(value, str) else value


def parsed_json(text: str, field: str) -> Any:
    """The value that `text` is as JSON.

    Raises:
        BadInput: E_TYPE, with the way to write a string.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        plain = re.fullmatch(r"[\w .,:/!?-]*", text)
        cure = f"a string is written '\"{text}\"' in the shell" if plain else 'numbers, "strings", [lists], {objects}'
        raise BadInput.of("E_TYPE", field, text, "arguments are JSON, and this is none", cure=cure) from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
