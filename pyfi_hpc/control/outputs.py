"""Where a job's output is: Slurm's file name patterns, filled in once the job's id is known."""

from __future__ import annotations

import re

from pyfi_hpc.db.record import Cursor

_PATTERN = re.compile(r"%(?P<width>\d*)(?P<letter>[a-zA-Z%])")


def output_of(cursor: Cursor, job: bytes, slurm_id: str) -> str | None:
    """The output's path of the job on record, now that its id is known."""
    cursor.execute("SELECT output, request ->> 'job_name', owner FROM pyfi.job WHERE id = %s::uuid", (job.hex(),))
    output, name, owner = cursor.fetchone()
    return filled(output, slurm_id, name or "", owner) if output else None


def filled(pattern: str, slurm_id: str, name: str = "", user: str = "") -> str:
    """`pattern` with the job's own words in it; what only a node or step could tell stays as it is.

    Source: sbatch(1), "filename pattern".
    """
    master, _, index = slurm_id.partition("_")
    words = {"j": slurm_id, "A": master, "a": index or "4294967294", "J": slurm_id, "x": name, "u": user, "%": "%"}

    def fill(match: re.Match[str]) -> str:
        word = words.get(match["letter"])
        if word is None:
            return match[0]
        return word.zfill(min(10, int(match["width"]))) if match["width"] and word.isdecimal() else word

    return _PATTERN.sub(fill, pattern)
