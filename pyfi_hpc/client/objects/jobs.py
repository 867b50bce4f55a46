"""Jobs in Slurm: looked at, and asked to end. They are made by `control.submitting` and by schedulers."""

from __future__ import annotations

from typing import Any

from pyfi_hpc.client.objects.common import Record, Tools
from pyfi_hpc.db import job_listing
from pyfi_hpc.errors import BadInput


def every(tools: Tools) -> list[Record]:
    """Every job, newest first."""
    return job_listing.every(_cursor(tools), tools.network.name)


def find(tools: Tools, which: str) -> Record | None:
    """The job that Slurm's id, ours or the token `which` means; None for none."""
    return job_listing.find(_cursor(tools), tools.network.name, which)


def script(tools: Tools, which: str) -> str:
    """The job script as Slurm got it. Raises E_NOT_FOUND."""
    return job_listing.script(_cursor(tools), _found(tools, which)["token"])


def cancel(tools: Tools, which: str) -> Record:
    """Ask the job to end: its agents drain, then Slurm ends it. One that has ended stays as it ended.

    Raises:
        BadInput: E_NOT_FOUND; E_USAGE, one element of an array is Slurm's to cancel.
    """
    found = _found(tools, which)
    if "_" in which and found["job"] != which:
        what = f"{which} is an element of job {found['job']}, which is cancelled as a whole"
        raise BadInput.of("E_USAGE", "job", which, what, cure=f"scancel {which}, or pyfi cancel {found['job']}")
    asked = job_listing.ask_cancel(_cursor(tools), found["token"])
    return {**job_listing.one(_cursor(tools), found["token"]), "cancelled": asked}


def _found(tools: Tools, which: str) -> Record:
    found = find(tools, which)
    if found is None:
        raise job_listing.unknown(which)
    return found


def _cursor(tools: Tools) -> Any:
    return tools.session.connection().connection.cursor()
