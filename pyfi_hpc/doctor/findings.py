"""What doctor says: one line for each thing it looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from pyfi_hpc.config import kinds
from pyfi_hpc.errors import PyfiError


class Mark(StrEnum):
    """How a thing was found: as it should be, to be looked at, in the way of work, or not there and not missed."""

    GOOD = "✓"
    DOUBTFUL = "!"
    BAD = "✗"
    ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: how `check` was found, what was seen, and one command or sentence that mends it."""

    mark: Mark
    check: str
    seen: str
    cure: str | None = None


#: Looks at one thing; raises one of our errors where it cannot.
Check = Callable[[], Iterable[Finding]]


def looked(name: str, check: Check) -> Iterator[Finding]:
    """What `check` finds; an error of ours becomes a finding too."""
    try:
        yield from check()
    except PyfiError as error:
        seen = f"{error.what} ({error.code})" + (f" at {error.at}" if error.at else "")
        # "pyfi doctor" is what whoever reads this has just done
        cure = _START.get(error.code) if error.cure == "pyfi doctor" else error.cure
        yield Finding(Mark.BAD, name, kinds.masked(seen), cure)


_START = {
    "E_DB_UNAVAILABLE": "start it, or name another: pyfi config set database.uri postgresql://USER@HOST/DATABASE",
    "E_STORAGE_FULL": "make space on the database's disk: df -h",
}
