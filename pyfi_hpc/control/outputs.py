"""Where a job's output is: Slurm's file name patterns, filled in with the job's own words."""

from __future__ import annotations

import re
from pathlib import Path

_PATTERN = re.compile(r"%(?P<width>\d*)(?P<letter>[a-zA-Z%])")


def files(pattern: str, slurm_id: str, name: str = "", user: str = "") -> list[Path]:
    """The files that are there: one, or of an array all; `slurm_id` may name one of its elements."""
    path = Path(filled(pattern, slurm_id, name, user))
    if "*" not in path.name:
        return [path] if path.exists() else []
    # a star that was in the name before is only more to look through
    return sorted(path.parent.glob(path.name))


def filled(pattern: str, slurm_id: str, name: str = "", user: str = "") -> str:
    """`pattern` with the job's words in it, and a star for what only an element, a node or a step could tell.

    Source: sbatch(1), "filename pattern".
    """
    master, _, index = slurm_id.partition("_")
    element = master if not index else "*"  # an element's own number is known to Slurm alone
    words = {"j": element, "A": master, "a": index or "*", "J": element, "x": name or "*", "u": user or "*", "%": "%"}

    def fill(match: re.Match[str]) -> str:
        word = words.get(match["letter"], "*")
        # Slurm takes a width of at most ten. Source: as above
        return word.zfill(min(10, int(match["width"]))) if match["width"] and word.isdecimal() else word

    return _PATTERN.sub(fill, pattern)
