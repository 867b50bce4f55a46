"""The promises of a launcher: it turns a job script into an allocation, says what became of it, and gives it back."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from pyfi_hpc.model.status import JobStatus

#: Slurm's job id as it prints it: `88121`, of an array's element `88121_3`.
JobId: TypeAlias = str
#: What a job's comment starts with; the token's 32 hex digits follow, then a blank and the person's own comment.
TOKEN_MARK = "pyfi:"


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known of one job at one look.

    Attributes:
        status: ours; UNKNOWN where Slurm does not know the job (any more) or gives a state that we do not know.
        state: Slurm's own word, such as `CONFIGURING`, flags and all; "" where there is none.
        reason: Slurm's reason why it waits or ended, such as `Priority`; None for none.
        restarts: how often it was requeued.
        nodes: Slurm's compressed node list, such as `n[1-3]`; None while it has none.
        exit_code: as Slurm writes it, `0:125`; None while it runs.
    """

    job: JobId
    status: JobStatus
    state: str = ""
    reason: str | None = None
    token: str | None = None
    restarts: int = 0
    nodes: str | None = None
    exit_code: str | None = None
    started: datetime.datetime | None = None
    ends_at: datetime.datetime | None = None
    ended: datetime.datetime | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """A finished job script with the sbatch options that go with it (after `#SBATCH` lines: these win).

    `arguments` name everything but the script; the comment with the token is among them.
    """

    token: str
    script: str
    arguments: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition as far as requests are checked against it. None: no limit, or Slurm did not say.

    `gpus_per_node` and `cpus_per_node` are the most that any node of it has.
    """

    name: str
    default: bool
    up: bool
    nodes: int
    cpus_per_node: int
    mem_mib_per_node: int
    gpus_per_node: int
    max_minutes: int | None = None


class Launcher(Protocol):
    """Hands jobs to a resource manager. Each method asks it once; none waits for a job to start or end.

    Every method raises `Unavailable` (E_SLURM) when the controller does not answer: that says nothing about any job.
    """

    kind: str
    #: words that come before the agent's command in a job script: one process on each node of the allocation
    step: Sequence[str]

    def submit(self, submission: Submission) -> JobId:
        """Queue the job and return its id.

        Raises:
            BadInput: E_SUBMIT, refused for good, with Slurm's own words.
            Unavailable: E_SLURM; whether the job was queued is not known: look for its token.
        """

    def test(self, submission: Submission) -> str:
        """What Slurm says to it, and when it might start; nothing is queued (`--test-only`). Raises as submit."""

    def observe(self, jobs: Collection[JobId]) -> Mapping[JobId, Observation]:
        """Ask about all `jobs` in one query; one that Slurm does not know any more is UNKNOWN, and never left out."""

    def find(self, tokens: Collection[str]) -> Mapping[str, Observation]:
        """This user's jobs whose comments carry these tokens, live or ended lately; those not found are left out."""

    def cancel(self, job: JobId) -> None:
        """End a job; one that has ended stays as it ended, one that is not known is no error."""

    def partitions(self) -> Sequence[Partition]:
        """Every partition that this user sees."""

    def accounts(self) -> frozenset[str] | None:
        """The accounts that this user may charge; None where nobody keeps accounts."""

    def cluster(self) -> str:
        """The cluster's name."""
