"""Arguments as people type them, and values as people and scripts read them."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pyfi_hpc.cli.params import parsed_json
from pyfi_hpc.errors import BadInput


def arguments(texts: Iterable[str]) -> list[Any]:
    """The values of positional arguments, each of them JSON.

    Raises:
        BadInput: E_TYPE with the position.
    """
    return [parsed_json(text, f"args[{place}]") for place, text in enumerate(texts)]


def keywords(texts: Iterable[str]) -> dict[str, Any]:
    """The values of `--kw name=json`.

    Raises:
        BadInput: E_TYPE with the name, E_USAGE for another form or a name given twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier() or name in found:
            what = "it was given before" if name in found else "--kw takes name=json"
            raise BadInput("E_USAGE", what, at=f"--kw {text}", cure="--kw limit=3 --kw name='\"x\"'", field="--kw")
        found[name] = parsed_json(value, f"--kw {name}")
    return found


def as_text(value: Any) -> str:
    """A string as it is, anything else as JSON on one line."""
    return value if isinstance(value, str) else json.dumps(as_json(value), ensure_ascii=False)


def as_json(value: Any) -> Any:
    """`value` in the types that JSON has; what JSON lacks becomes the nearest that it has."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else as_text(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((as_json(item) for item in value), key=repr)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, complex):
        return [value.real, value.imag]
    if isinstance(value, decimal.Decimal | uuid.UUID | Path):
        return str(value)
    # arrays and numpy's scalars, without importing numpy
    if hasattr(value, "tolist"):
        return as_json(value.tolist())
    return repr(value)
