"""Why an agent ends, how long its calls may go on, and what is said of those that could not finish."""

from __future__ import annotations

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


def _usable(seconds: float) -> float:
    return max(0.0, seconds - min(MARGIN_SECONDS, seconds / 2))
