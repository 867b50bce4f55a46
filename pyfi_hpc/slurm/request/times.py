"""Times as Slurm writes them: a time limit, and when to begin.

Source: sbatch(1) of Slurm 22.05, `--time` and `--begin`.
"""

from __future__ import annotations

import re

from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.names import nearest

#: Ten years, more than any limit of a partition.
LONGEST_MINUTES = 10 * 525_600
_FORMS = "minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes or days-hours:minutes:seconds"
_NUMBER = "[0-9]{1,9}"
_LIMIT = re.compile(rf"(?:{_NUMBER}-{_NUMBER}(?::{_NUMBER}){{0,2}}|{_NUMBER}(?::{_NUMBER}){{0,2}})")
_SECONDS = {"days": 86_400, "hours": 3600, "minutes": 60, "seconds": 1}
_MOST = {"hours": 23, "minutes": 59, "seconds": 59}


def minutes(value: str, where: str) -> int:
    """A time limit in minutes, one that has begun counted whole; 0 for none (`0`, `UNLIMITED`).

    Slurm takes `25:61`; we ask back, since it is hardly ever what was meant.

    Raises:
        BadInput: E_TIME_FORMAT; E_RANGE for more than ten years.
    """
    if value.upper() in ("UNLIMITED", "INFINITE"):
        return 0
    if not _LIMIT.fullmatch(value):
        raise BadInput.of("E_TIME_FORMAT", where, value, cure=_FORMS)
    parts = _parts(value)
    seconds = sum(number * _SECONDS[unit] for unit, number in parts.items())
    for unit, number in list(parts.items())[1:]:
        if number > _MOST[unit]:
            cure = f"did you mean {_meant(parts, seconds)}?"
            raise BadInput.of("E_TIME_FORMAT", where, value, f"{number} {unit}", cure=cure)
    total = -(-seconds // 60)
    if total > LONGEST_MINUTES:
        what = f"at most {LONGEST_MINUTES} minutes (ten years) are wanted"
        raise BadInput.of("E_RANGE", where, value, what, cure="UNLIMITED, where the partition allows it")
    return total


def _parts(value: str) -> dict[str, int]:
    """Unit -> number, largest first: what the numbers mean hangs on a dash, and on how many there are."""
    numbers = [int(number) for number in re.split("[-:]", value)]
    if "-" in value:
        units = ["days", "hours", "minutes", "seconds"][: len(numbers)]
    else:
        units = {1: ["minutes"], 2: ["minutes", "seconds"], 3: ["hours", "minutes", "seconds"]}[len(numbers)]
    return dict(zip(units, numbers, strict=True))


def _meant(parts: dict[str, int], seconds: int) -> str:
    """`seconds` in the form that `parts` were given in."""
    if list(parts) == ["minutes", "seconds"]:
        return f"{seconds // 60}:{seconds % 60:02}, or {parts['minutes']}:{parts['seconds'] % 60:02}:00"
    rest = seconds % 86_400 if "days" in parts else seconds
    clock = f"{rest // 3600:02}:{rest % 3600 // 60:02}:{rest % 60:02}"
    return f"{seconds // 86_400}-{clock}" if "days" in parts else clock


def limit_text(total: int) -> str:
    """A time limit of `total` minutes as Slurm writes it."""
    if not total:
        return "UNLIMITED"
    days, rest = divmod(total, 24 * 60)
    clock = f"{rest // 60:02}:{rest % 60:02}:00"
    return f"{days}-{clock}" if days else clock


def begin(value: str, where: str) -> str:
    """When to begin: `16:00`, `now+1hour`, `tomorrow`, `2026-12-24T18:00:00`.

    Raises:
        BadInput: E_TIME_FORMAT.
    """
    if not _BEGIN.fullmatch(value):
        word = nearest(value.lower(), _DAYS)
        cure = f"did you mean {word}?" if word else "16:00, now+1hour, tomorrow or 2026-12-24T18:00:00"
        raise BadInput.of("E_TIME_FORMAT", where, value, "not a time to begin at as Slurm writes it", cure=cure)
    return value


_DAYS = ("now", "today", "tomorrow", "midnight", "noon", "fika", "teatime")
_DATE = "[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}|[0-9]{1,2}/[0-9]{1,2}(/[0-9]{2,4})?|[0-9]{6}"
_CLOCK = "[0-9]{1,2}:[0-9]{2}(:[0-9]{2})? ?([AP]M)?"
_BEGIN = re.compile(
    rf"now( ?\+ ?{_NUMBER} ?(second|minute|hour|day|week)?s?)?|{'|'.join(_DAYS[1:])}|{_CLOCK}|({_DATE})([T ]{_CLOCK})?",
    re.IGNORECASE,
)
