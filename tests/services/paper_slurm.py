"""A Slurm on paper: keeps a launcher's promises in memory, and has the faults that a test asks for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pyfi_hpc.errors import BadInput, Unavailable
from pyfi_hpc.model.status import JobStatus
from pyfi_hpc.slurm.launcher import JobId, Observation, Partition, Submission


class PaperSlurm:
    """Jobs by id. `asked` counts the questions, by name.

    Attributes:
        answers: False: the controller is away.
        swallows: a submission is taken, and its answer lost.
        refuses: what Slurm says to the next submissions; None: they are taken.
        meanwhile: done while sbatch runs.
    """

    kind = "slurm"
    step: Sequence[str] = ("srun",)

    def __init__(self) -> None:
        self.jobs: dict[JobId, Observation] = {}
        self.asked: dict[str, int] = {}
        self.cancelled: list[JobId] = []
        self.answers, self.swallows = True, False
        self.refuses: str | None = None
        self.meanwhile: Callable[[], None] = lambda: None
        self._next = 88

    def _ask(self, name: str) -> None:
        self.asked[name] = self.asked.get(name, 0) + 1
        if not self.answers:
            raise Unavailable("E_SLURM", "the controller does not answer")

    def submit(self, submission: Submission) -> JobId:
        self._ask("submit")
        if self.refuses is not None:
            raise BadInput("E_SUBMIT", self.refuses)
        job = str(self._next)
        self._next += 1
        self.jobs[job] = Observation(job, JobStatus.PENDING, "PENDING", reason="Priority", token=submission.token)
        self.meanwhile()
        if self.swallows:
            raise Unavailable("E_SLURM", "no answer in time")
        return job

    def test(self, submission: Submission) -> str:
        return "it would start"

    def observe(self, jobs: Collection[JobId]) -> Mapping[JobId, Observation]:
        self._ask("observe")
        return {job: self.jobs.get(job, Observation(job, JobStatus.UNKNOWN)) for job in jobs}

    def find(self, tokens: Collection[str]) -> Mapping[str, Observation]:
        self._ask("find")
        return {seen.token: seen for seen in self.jobs.values() if seen.token is not None and seen.token in tokens}

    def cancel(self, job: JobId) -> None:
        self._ask("cancel")
        self.cancelled.append(job)

    def partitions(self) -> Sequence[Partition]:
        return [Partition("main", True, True, 3, 8, 8000, 4)]

    def accounts(self) -> frozenset[str] | None:
        return None

    def cluster(self) -> str:
        self._ask("cluster")
        return "paper"

    # what happens to jobs

    def becomes(self, job: JobId, state: str, status: JobStatus, **more: Any) -> None:
        """The job is in that state from now on."""
        self.jobs[job] = replace(self.jobs[job], state=state, status=status, **more)

    def runs(self, job: JobId) -> None:
        """It runs on n1."""
        self.becomes(job, "RUNNING", JobStatus.RUNNING, reason=None, nodes="n1")

    def with_token(self, token: str) -> list[JobId]:
        """The jobs that carry it."""
        return [job for job, seen in self.jobs.items() if seen.token == token]
