"""Settings on their way to a process of ours: as variables, so that no file or option has to be read again."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pyfi_hpc.config import kinds, sources
from pyfi_hpc.config.sections import KEYS
from pyfi_hpc.config.settings import Settings


def environment(settings: Settings) -> Mapping[str, str]:
    """The environment in which `Settings.load()` gives these settings, whatever the files say.

    A password travels in it, as in the person's own: only processes of the same user can read that. One that stands in
    the file of `PYFI_INI` stays there.
    """
    ours = {key.variable for key in KEYS.values()} | {"PYFI_HOME"}
    others = {name: value for name, value in os.environ.items() if name not in ours}
    told = written(settings)
    return others | {KEYS[name].variable: text for name, text in told.items() if not _stays(settings, name, text)}


def written(settings: Settings) -> dict[str, str]:
    """Every setting, by "section.key", as a file or variable has it."""
    return {name: _text(settings.value(name)) for name in KEYS}


def _stays(settings: Settings, name: str, text: str) -> bool:
    file = sources.variable_file()
    return file is not None and kinds.holds_password(text) and settings.origins.get(name, "").startswith(f"{file} line")


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
