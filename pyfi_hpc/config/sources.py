"""Where settings come from: files, variables, options. Each value keeps its origin."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pyfi_hpc.config.ini import SITE_FILE, Given, read_file, unknown
from pyfi_hpc.config.sections import KEYS, SECTIONS
from pyfi_hpc.errors import BadInput, shown
from pyfi_hpc.model.names import nearest

FILE_NAME = "pyfi.ini"
#: Variables that are no settings: the state directory's short name, a file of settings, what tests and checkers use.
SPECIAL = frozenset({"PYFI_HOME", "PYFI_INI", "PYFI_FAILPOINT", "PYFI_ACCEPTED_LOG"})


def user_file() -> Path:
    """Where the person's own settings live."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "pyfi" / FILE_NAME


def variable_file() -> Path | None:
    """The file that `PYFI_INI` names: what a job is given in place of secrets in its environment."""
    return Path(os.environ["PYFI_INI"]) if os.environ.get("PYFI_INI") else None


def project_file(start: Path) -> Path | None:
    """The `pyfi.ini` beside or above `start`."""
    return next((folder / FILE_NAME for folder in (start, *start.parents) if (folder / FILE_NAME).is_file()), None)


def from_files(ini: Path | None) -> Iterator[Given]:
    """All settings in files: site, user, project, then that of `PYFI_INI` and `ini`, which must be there."""
    for path in (SITE_FILE, user_file()):
        if path.exists():
            yield from read_file(path)
    named = [path for path in (variable_file(), ini) if path]
    project = project_file(Path.cwd())
    if project and not any(path.exists() and project.samefile(path) for path in named):
        _check_trusted(project)
        yield from read_file(project)
    for path in named:
        yield from read_file(path)


def from_variables(environment: Mapping[str, str]) -> Iterator[Given]:
    """All settings in variables; `PYFI_HOME` is the short name of `paths.state`."""
    known = {key.variable: name for name, key in KEYS.items()}
    if environment.get("PYFI_HOME"):
        yield Given("paths.state", environment["PYFI_HOME"], "PYFI_HOME")
    for variable in sorted(environment):
        if variable in known:
            yield Given(known[variable], environment[variable], variable)
        elif variable.startswith("PYFI_") and variable not in SPECIAL:
            _check_variable(variable, known)


def from_options(options: Mapping[str, str]) -> Iterator[Given]:
    """All settings in options: `{"database.uri": "postgresql://…"}`."""
    for name, value in options.items():
        if name not in KEYS:
            raise unknown("option", name)
        yield Given(name, value, "option")


def _check_trusted(path: Path) -> None:
    """Refuse a project file that somebody else could have left in a shared folder: settings name programs to run."""
    found = path.stat()
    if found.st_uid not in (0, os.getuid()) or found.st_mode & 0o002:
        raise BadInput(
            "E_CONFIG",
            "the settings of this folder can be changed by other users",
            at=str(path),
            cure=f"pyfi -i {path} … if you trust it",
            field="path",
            path=str(path),
        )


def _check_variable(variable: str, known: Mapping[str, str]) -> None:
    near = nearest(variable, known)
    section = variable.split("_")[1].lower()
    if section in SECTIONS:
        cure = f"did you mean {near}?" if near else "pyfi config show lists all settings"
        raise BadInput(
            "E_CONFIG", f"no setting for the variable {shown(variable)}", at=variable, cure=cure, field=variable
        )
