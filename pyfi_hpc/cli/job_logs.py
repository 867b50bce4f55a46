"""A job's output on the terminal: the file as it is, then what comes, until the job has ended."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from pyfi_hpc.cli.context import Platform
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.status import JobStatus

#: How often `logs -f` looks: on a shared file system nothing else tells of a change.
LOOK_SECONDS = 0.5


def show(platform: Platform, which: str, *, follow: bool) -> None:
    """Print what the job has written; with `follow` go on until it has ended, its last lines included.

    Raises:
        BadInput: E_NOT_FOUND, no file of its is here.
    """
    read: dict[Path, int] = {}
    told = False
    while True:
        job = platform.network.show("job", which)
        ended = job["status"] == JobStatus.ENDED
        files = _files(job, which)
        for file in files:
            read[file] = _print(file, read.get(file, 0))
        if ended or not follow:
            break
        if not read and not told:
            click.echo(f"{_name(job)} has printed nothing yet: {job['status']} {job['why']}".rstrip(), err=True)
            told = True
        _keep_up(platform, job)
        time.sleep(LOOK_SECONDS)
    if not read:
        raise BadInput.of("E_NOT_FOUND", "output", job["output"] or "", f"{_name(job)} has no output here")
    if follow and job["reason"]:
        click.echo(f"{_name(job)} ended: {job['why']}", err=True)


def _name(job: dict[str, Any]) -> str:
    return f"job {job['job'] or job['id']}"


def _files(job: dict[str, Any], which: str) -> list[Path]:
    from pyfi_hpc.control import outputs

    if not job["output"] or not job["job"]:
        return []
    slurm_id = which if "_" in which else job["job"]
    return outputs.files(job["output"], slurm_id, job["request"].get("job_name") or "", job["owner"])


def _print(file: Path, start: int) -> int:
    """Print what the file has behind `start`; how far it goes. One that was made anew is read from its beginning."""
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        opened.seek(start if size >= start else 0)
        text = opened.read()
        click.echo(text.decode(errors="replace"), nl=False)
        return opened.tell()


def _keep_up(platform: Platform, job: dict[str, Any]) -> None:
    """Where nobody leads, nobody else would see that the job has ended."""
    from pyfi_hpc.control import submitting

    submitting.turn_if_alone(platform.control, job["scheduler"])
