"""Store one setting in a file, leaving every other line as its author wrote it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pyfi_hpc.config import ini
from pyfi_hpc.config.sections import KEYS
from pyfi_hpc.config.settings import check_here, converted
from pyfi_hpc.errors import BadInput

_CONTINUED = re.compile(r"[ \t]+\S")


def set_value(path: Path, section: str, key: str, value: str, *, alone: bool = False) -> None:
    """Make `[section] key = value` in the file at `path`, which only its owner can read afterwards.

    `alone`: this host is the one that the settings are for, so it must have the cores that they name.

    Raises:
        BadInput: E_CONFIG for an unknown setting or a file that is broken already; the codes of the value's kind, also
            where a file that the value names cannot be used on this host.
    """
    name = f"{section}.{ini.spelled(key)}"
    if name not in KEYS:
        raise ini.unknown(str(path), name)
    line = " ".join(value.split())
    given = ini.Given(name, line, "value")
    converted(given)
    check_here(given, alone=alone)
    lines: list[str] = []
    if path.exists():
        path.chmod(0o600)
        list(ini.read_file(path))
        lines = path.read_text("utf-8").splitlines()
    _replace(path.resolve(), "\n".join(_edited(lines, section, KEYS[name].name, line)) + "\n")


def _edited(lines: list[str], section: str, key: str, value: str) -> list[str]:
    start = next((number for number, line in enumerate(lines) if line.startswith(f"[{section}]")), None)
    if start is None:
        return [*lines, *([""] if lines else []), f"[{section}]", f"{key} = {value}"]
    end = next((number for number in range(start + 1, len(lines)) if lines[number].startswith("[")), len(lines))
    for number in range(start + 1, end):
        if ini.spelled(re.split("[=:]", lines[number], maxsplit=1)[0]) == key:
            after = number + 1
            while after < end and _CONTINUED.match(lines[after]):
                after += 1
            return [*lines[:number], f"{key} = {value}", *lines[after:]]
    return [*lines[: start + 1], f"{key} = {value}", *lines[start + 1 :]]


def _replace(path: Path, text: str) -> None:
    """Write the whole file or none of it; mkstemp's mode is 0600 from the first byte."""
    import tempfile

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise BadInput("E_CONFIG", f"settings: {error.strerror}", at=str(path), field="path") from error
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(name, path)
