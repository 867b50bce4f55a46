"""Both kinds of launcher, as the contract suite uses them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pyfi_hpc.model.status import JobStatus
from pyfi_hpc.slurm.launcher import JobId, Launcher, Observation, Submission
from tests.support import eventually

#: For a job to end on a machine that does much else.
PATIENCE = 30.0


def new_token() -> str:
    """A token nobody has used."""
    return secrets.token_hex(16)


@dataclass
class Service:
    """A launcher, a folder for what its jobs write, and how many jobs it keeps, whoever sent them."""

    kind: str
    launcher: Launcher
    folder: Path
    count: Callable[[], int]
    sent: list[JobId] = field(default_factory=list)

    def submission(
        self, body: str, *options: str, token: str | None = None, note: str = "", name: str = "test"
    ) -> Submission:
        """A script with `body`; what it prints goes to `output` in the folder."""
        token = token or new_token()
        arguments = [
            f"--comment=pyfi:{token} {note}",
            f"--job-name={name}",
            f"--chdir={self.folder}",
            f"--output={self.folder}/output",
            *options,
        ]
        return Submission(token, f"#!/bin/bash\n{body}\n", arguments)

    def submit(self, body: str, *options: str, token: str | None = None, note: str = "", name: str = "test") -> JobId:
        """Submit it; its id."""
        job = self.launcher.submit(self.submission(body, *options, token=token, note=note, name=name))
        self.sent.append(job)
        return job

    def look(self, job: JobId) -> Observation:
        """One job at one look."""
        return self.launcher.observe([job])[job]

    def until(self, job: JobId, *statuses: JobStatus) -> Observation:
        """The job once it has one of `statuses`."""

        def there() -> Observation:
            seen = self.look(job)
            assert seen.status in statuses, seen
            return seen

        return eventually(there, timeout=PATIENCE)

    def running(self, job: JobId) -> Observation:
        """The job once it runs."""
        return self.until(job, JobStatus.RUNNING)

    def ended(self, job: JobId) -> Observation:
        """The job once it has ended."""
        return self.until(job, JobStatus.ENDED)

    @property
    def output(self) -> str:
        """What jobs have printed so far."""
        file = self.folder / "output"
        return file.read_text() if file.exists() else ""
