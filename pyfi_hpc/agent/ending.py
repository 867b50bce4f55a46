"""Why an agent ends, how long its calls may go on, and what is said of those that could not finish."""

from __future__ import annotations

import math

import msgspec

from pyfi_hpc.model.status import Cause

#: How long calls may go on where nothing ends the agent itself.
DRAIN_SECONDS = 30.0
#: What an agent needs for its last commits, before Slurm kills it.
MARGIN_SECONDS = 5.0


class Ending(msgspec.Struct, frozen=True):
    """A drain: what has not finished within `seconds` is given back at no cost, for `cause`."""

    cause: Cause
    seconds: float


#: A person asked, or another agent serves in its place.
ASKED = Ending(Cause.DRAINED, DRAIN_SECONDS)
SUPERSEDED = Ending(Cause.PREEMPTED, DRAIN_SECONDS)


def near_time_limit(seconds_left: float | None) -> Ending:
    """The job's time limit is near, or Slurm warned of it (USR2): calls may use what is left."""
    return Ending(Cause.WALLTIME, DRAIN_SECONDS if seconds_left is None else _usable(seconds_left))


def told_by_slurm(kill_wait_seconds: float, seconds_left: float | None) -> Ending:
    """TERM in a job: it was cancelled, requeued or preempted, or its time is over; KILL follows after KillWait."""
    over = seconds_left is not None and seconds_left <= MARGIN_SECONDS
    seconds = min(DRAIN_SECONDS, _usable(kill_wait_seconds))
    return Ending(Cause.WALLTIME if over else Cause.PREEMPTED, seconds)


class Course:
    """Whether an agent serves or drains, and when Slurm ends its job; seconds of the monotonic clock.

    Attributes:
        why: of a drain, what was said of it; None: it serves.
    """

    def __init__(self) -> None:
        self.why: Ending | None = None
        self._drained_by = math.inf
        self._job_ends: float | None = None

    @property
    def serves(self) -> bool:
        return self.why is None

    def end(self, why: Ending, now: float) -> bool:
        """It is to end, for a reason that may leave it less time than another one did; True: it served until now."""
        first, until = self.serves, now + why.seconds
        if until < self._drained_by:
            self.why, self._drained_by = why, until
        return first

    def out_of_time(self, now: float) -> bool:
        """What still runs is to be given back."""
        return now > self._drained_by

    def know_limit(self, seconds_left: float | None, now: float) -> None:
        """The job may run for so many seconds; None: nobody knows of a limit."""
        self._job_ends = None if seconds_left is None else now + seconds_left

    def seconds_left(self, now: float) -> float | None:
        return None if self._job_ends is None else self._job_ends - now

    def near_limit(self, now: float, seconds: float) -> bool:
        """It serves, and its job has less than so many seconds."""
        return self.serves and self._job_ends is not None and now > self._job_ends - seconds


def _usable(seconds: float) -> float:
    return max(0.0, seconds - min(MARGIN_SECONDS, seconds / 2))
