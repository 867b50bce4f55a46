"""All settings of one run, read once, with where each came from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from pyfi_hpc.config import kinds, sources
from pyfi_hpc.config.ini import Given
from pyfi_hpc.config.sections import KEYS, SECTIONS, Agent, Broker, Client, Database, Git, Paths, Retention, Slurm
from pyfi_hpc.errors import BadInput


@dataclass(frozen=True)
class Settings:
    """What this run was told; `Settings()` is all defaults, `Settings.load()` reads every source.

    Attributes:
        origins: "section.key" -> where its value comes from, for those that are not the default.
    """

    database: Database = field(default_factory=Database)
    broker: Broker = field(default_factory=Broker)
    slurm: Slurm = field(default_factory=Slurm)
    git: Git = field(default_factory=Git)
    paths: Paths = field(default_factory=Paths)
    agent: Agent = field(default_factory=Agent)
    client: Client = field(default_factory=Client)
    retention: Retention = field(default_factory=Retention)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def load(cls, ini: Path | None = None, options: Mapping[str, str] | None = None) -> Settings:
        """Read site, user and project files, those of `PYFI_INI` and `ini`, variables and `options`; later ones win.

        Raises:
            BadInput: E_CONFIG, E_CONFIG_MODE, E_DB_URI, E_BROKER_URI, E_RANGE, E_CHOICE, each with its place.
        """
        values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        origins: dict[str, str] = {}
        given = chain(sources.from_files(ini), sources.from_variables(os.environ), sources.from_options(options or {}))
        for item in given:
            section, _, name = item.key.partition(".")
            values[section][name] = converted(item)
            origins[item.key] = item.origin
        built = {section: kind(**values[section]) for section, kind in SECTIONS.items()}
        return cls(**built, origins=origins)

    @property
    def embedded(self) -> bool:
        """True when no database is named: everything runs here, in the background."""
        return not self.database.uri

    @property
    def state_dir(self) -> Path:
        """Sockets, spool, credentials, embedded Postgres, logs; not made here."""
        return self.paths.state or _xdg("XDG_STATE_HOME", "~/.local/state")

    @property
    def cache_dir(self) -> Path:
        """Git mirrors and environments; may be a shared folder."""
        return self.paths.cache or _xdg("XDG_CACHE_HOME", "~/.cache")

    @property
    def blob_dir(self) -> Path:
        """Values too large for the database."""
        return self.paths.blobs or self.cache_dir / "blobs"

    @property
    def blob_quota_bytes(self) -> int:
        """How much all of these may take; 0: what the disk has."""
        return int((self.paths.blobs_gib or 0) * 2**30)

    def check_here(self) -> None:
        """Return where this host has the files that the settings name; in embedded mode, the cores as well.

        Raises:
            BadInput: E_BROKER_URI, E_RANGE.
        """
        for name, origin in self.origins.items():
            check_here(Given(name, str(self.value(name)), origin), alone=self.embedded)

    def value(self, name: str) -> Any:
        """The value of "section.key"."""
        section, _, key = name.partition(".")
        return getattr(getattr(self, section), key)

    def shown(self) -> Iterator[tuple[str, str, str]]:
        """(name, value, origin) of every setting, secrets hidden."""
        for name in KEYS:
            yield name, displayed(self.value(name)), self.origins.get(name, "default")


def converted(item: Given) -> Any:
    """The value that somebody's text stands for.

    Raises:
        BadInput: with the place it was written at, and no password.
    """
    with _placed(item):
        return KEYS[item.key].convert(item.text)


def check_here(item: Given, *, alone: bool = False) -> None:
    """Return where this host has the files that a setting's value names, or, where it works `alone`, the cores.

    Of many hosts with the same settings this one may be none that runs anything.

    Raises:
        BadInput: as `converted`.
    """
    if item.key == "agent.cores" and alone:
        with _placed(item):
            kinds.check_cores(item.text, os.sched_getaffinity(0))
    if item.key == "broker.uri":
        with _placed(item):
            kinds.check_broker_files(kinds.broker_uri(item.text))


@contextmanager
def _placed(item: Given) -> Iterator[None]:
    try:
        yield
    except kinds.Unfit as error:
        # a port is the culprit by itself; everything else is named by its setting
        culprit = error.value if error.value.startswith("port ") else f"{item.key} {error.value}"
        raise BadInput(
            error.code, error.what, at=f"{culprit}  ({item.origin})", field=item.key, value=error.value
        ) from None


def displayed(value: object) -> str:
    """A setting's value as a person may see it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(kinds.masked(str(part)) for part in value)
    return kinds.masked(f"{value:.15g}" if isinstance(value, float) else str(value))


def _xdg(variable: str, default: str) -> Path:
    # a relative path in these variables is to be ignored, says the XDG base directory specification
    base = os.environ.get(variable, "")
    return (Path(base) if os.path.isabs(base) else Path(default).expanduser()) / "pyfi"
