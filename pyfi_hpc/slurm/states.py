"""Slurm's states as our statuses, and its reasons in words: two tables, and nothing that talks to anybody."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pyfi_hpc.model.status import JobStatus

_P, _R, _E, _D, _U = JobStatus.PENDING, JobStatus.RUNNING, JobStatus.ENDING, JobStatus.ENDED, JobStatus.UNKNOWN

#: Base states: where a job is. Source: job_state_codes of Slurm's documentation (22.05 to 25.11); squeue(1), sacct(1).
STATES: Mapping[str, JobStatus] = {
    "PENDING": _P,
    "RUNNING": _R,
    # it keeps its allocation, or is to get it back: its processes are there
    "SUSPENDED": _R,
    "BOOT_FAIL": _D,
    "CANCELLED": _D,
    "COMPLETED": _D,
    "DEADLINE": _D,
    "FAILED": _D,
    "NODE_FAIL": _D,
    "OUT_OF_MEMORY": _D,
    "PREEMPTED": _D,
    "TIMEOUT": _D,
}

#: Flags: what happens to a job. squeue prints one in the state's place, other interfaces beside it.
#: None: it says nothing about where the job is. Source: as above.
FLAGS: Mapping[str, JobStatus | None] = {
    "COMPLETING": _E,
    "STAGE_OUT": _E,
    # 25.11: it ended, and whether it is to run again is being looked at
    "EXPEDITING": _E,
    # allocated, while its nodes boot or their prolog runs: nothing of it runs yet
    "CONFIGURING": _P,
    "POWER_UP_NODE": _P,
    # on its way back into the queue; held there in the second line
    "REQUEUED": _P,
    "REQUEUE_FED": _P,
    "REQUEUE_HOLD": _P,
    "SPECIAL_EXIT": _P,
    "RESV_DEL_HOLD": _P,
    "RESIZING": _R,
    "SIGNALING": _R,
    "STOPPED": _R,
    # a sibling in another cluster of the federation runs in its place: gone from here, alive there
    "REVOKED": _U,
    "LAUNCH_FAILED": None,
    "RECONFIG_FAIL": None,
    "UPDATE_DB": None,
}

#: squeue's compact form → the long one. Source: squeue(1), JOB STATE CODES.
COMPACT: Mapping[str, str] = {
    "BF": "BOOT_FAIL",
    "CA": "CANCELLED",
    "CD": "COMPLETED",
    "CF": "CONFIGURING",
    "CG": "COMPLETING",
    "DL": "DEADLINE",
    "F": "FAILED",
    "NF": "NODE_FAIL",
    "OOM": "OUT_OF_MEMORY",
    "PD": "PENDING",
    "PR": "PREEMPTED",
    "R": "RUNNING",
    "RD": "RESV_DEL_HOLD",
    "RF": "REQUEUE_FED",
    "RH": "REQUEUE_HOLD",
    "RQ": "REQUEUED",
    "RS": "RESIZING",
    "RV": "REVOKED",
    "S": "SUSPENDED",
    "SE": "SPECIAL_EXIT",
    "SI": "SIGNALING",
    "SO": "STAGE_OUT",
    "ST": "STOPPED",
    "TO": "TIMEOUT",
}

#: What a flag beside a state makes of it: the first of these that is among the flags wins over the state.
_ORDER = (_U, _E, _P, _R)
#: Of an array: it is where the liveliest of its elements is.
_LIVELIEST = (_R, _P, _E, _U, _D)


def status_of(state: str) -> JobStatus:
    """Our status for Slurm's words, such as `RUNNING`, `CG`, `CANCELLED by 1000` or `RUNNING+COMPLETING`.

    One word that we do not know makes it UNKNOWN, whatever stands beside it: it may say that the job lives.
    """
    names = [COMPACT.get(word, word) for word in _words_of(state)]
    if not names or any(name not in STATES and name not in FLAGS for name in names):
        return JobStatus.UNKNOWN
    flagged = {FLAGS[name] for name in names if name in FLAGS}
    said = next((status for status in _ORDER if status in flagged), None)
    return said or next((STATES[name] for name in names if name in STATES), JobStatus.UNKNOWN)


def known(state: str) -> bool:
    """Whether every word of `state` is in our tables; one that is not should be told to a person."""
    return all(COMPACT.get(word, word) in {*STATES, *FLAGS} for word in _words_of(state))


def together(statuses: Iterable[JobStatus]) -> JobStatus:
    """The status of an array whose elements have `statuses`; UNKNOWN for none."""
    found = set(statuses)
    return next((status for status in _LIVELIEST if status in found), JobStatus.UNKNOWN)


def _words_of(state: str) -> list[str]:
    # sacct adds who cancelled, and a plus sign where it had to cut
    said = re.sub(r"^(CANCELLED) by .*", r"\1", state.strip(), flags=re.IGNORECASE)
    return [word for word in re.split(r"[,+\s]+", said.upper()) if word]


@dataclass(frozen=True, slots=True)
class Words:
    """Why a job waits or ended: `what`, as a clause about the job, and what would help; "" where nothing would."""

    what: str
    cure: str = ""

    def __str__(self) -> str:
        return f"{self.what}; {self.cure}" if self.cure else self.what


_LESS = "ask for less, or wait until other jobs of it end; `sacctmgr show {0}` has the limits"

#: Slurm's reason → ours. Source: job_reason_codes of Slurm's documentation (22.05 to 25.11), squeue(1).
REASONS: Mapping[str, Words] = {
    # it waits for its turn
    "None": Words("Slurm has not looked at it yet"),
    "WaitingForScheduling": Words("Slurm has not looked at it yet"),
    "Priority": Words("other jobs come first", "a shorter time limit or fewer resources may let it slip in between"),
    "Resources": Words("it is next, and waits for nodes to become free", "a smaller request may fit sooner"),
    "Prolog": Words("its nodes are being prepared"),
    "Cleaning": Words("its previous run is still being cleaned up"),
    "SchedDefer": Words("this cluster starts no job at once"),
    "FedJobLock": Words("the clusters of the federation agree on who runs it"),
    "BurstBufferResources": Words("it waits for burst buffer space"),
    "BurstBufferStageIn": Words("its files are being copied to the burst buffer"),
    "PowerNotAvail": Words("the cluster may not draw more power now"),
    "PowerReserved": Words("the power that it needs is reserved"),
    # somebody, or something, has to come first
    "BeginTime": Words("it may not begin yet", "its begin time, or the wait after a requeue, has to pass"),
    "Dependency": Words("it waits for another job, as --dependency says"),
    "DependencyNeverSatisfied": Words("the job it depends on ended otherwise, so it never starts", "cancel it"),
    "JobHeldUser": Words("its owner holds it", "scontrol release JOB"),
    "JobHeldAdmin": Words("an administrator holds it", "only an administrator can release it"),
    "JobHoldMaxRequeue": Words("it was requeued too often and is held", "see why it ended, then scontrol release JOB"),
    # squeue's text for a job after `scontrol requeuehold`
    "job requeued in held state": Words("it was sent back into the queue and is held", "scontrol release JOB"),
    "JobArrayTaskLimit": Words(
        "as many elements of its array run as may at a time", "the number after % sets how many"
    ),
    "Licenses": Words("it waits for a license"),
    "Reservation": Words("it waits for its reservation to begin"),
    "ReservationDeleted": Words("its reservation is gone", "cancel it and submit it without --reservation"),
    # what it asks for
    "PartitionTimeLimit": Words("its time limit is longer than the partition allows", "ask for a shorter --time"),
    "PartitionNodeLimit": Words("the partition does not have that many nodes up", "ask for fewer nodes"),
    "PartitionDown": Words("its partition is down", "choose another one, or wait for an administrator"),
    "PartitionInactive": Words("its partition starts no jobs now", "choose another one, or wait"),
    "PartitionConfig": Words("it breaks a limit of its partition", "scontrol show partition has the limits"),
    "BadConstraints": Words("no node can ever satisfy it", "change what it asks for: nodes, GPUs, memory, features"),
    "Constraints": Words("no node that is up now has what --constraint asks for", "wait, or ask for other features"),
    "ReqNodeNotAvail": Words(
        "nodes it needs are down, drained, reserved or in use",
        "wait, or ask for other nodes; a shorter --time helps before a maintenance reservation",
    ),
    "MaxMemPerLimit": Words("it asks for more memory than a node or CPU may have", "ask for less memory"),
    "InvalidAccount": Words("its account is not valid", "submit it with another --account"),
    "AccountNotAllowed": Words("its account may not use the partition", "choose another account or partition"),
    "AccountingPolicy": Words("it breaks a limit of its account", _LESS.format("assoc")),
    "InvalidQOS": Words("its QOS is not valid", "submit it with another --qos"),
    "QOSNotAllowed": Words("its account or partition does not allow the QOS", "choose another --qos"),
    "QOSUsageThreshold": Words("its account has used too much for the QOS", "choose another --qos"),
    "QOSJobLimit": Words("the QOS has as many jobs as it may", _LESS.format("qos")),
    "QOSResourceLimit": Words("the QOS has all the resources that it may", _LESS.format("qos")),
    "QOSTimeLimit": Words("the QOS has used the time that it may", _LESS.format("qos")),
    "AssociationJobLimit": Words("its account has as many jobs as it may", _LESS.format("assoc")),
    "AssociationResourceLimit": Words("its account has all the resources that it may", _LESS.format("assoc")),
    "AssociationTimeLimit": Words("its account has used the time that it may", _LESS.format("assoc")),
    # how it ended
    "NonZeroExitCode": Words("its script failed", "pyfi logs JOB shows its output"),
    "TimeLimit": Words("its time limit passed", "ask for a longer --time"),
    "OutOfMemory": Words("it used more memory than it had asked for", "ask for more memory"),
    "NodeDown": Words("a node of it is down"),
    "FrontEndDown": Words("no front end node is up"),
    "JobLaunchFailure": Words("a node could not start it", "see its output and the node's slurmd log"),
    "SystemFailure": Words("Slurm, a file system or the network failed"),
    "InactiveLimit": Words("it did nothing for longer than this cluster allows"),
    "DeadLine": Words("it could not end before its --deadline"),
    "BurstBufferOperation": Words("copying its files to or from the burst buffer failed"),
    # states, where no reason says more
    "CONFIGURING": Words("its nodes are booting or being prepared"),
    "POWER_UP_NODE": Words("its nodes are being powered up"),
    "REQUEUED": Words("it is on its way back into the queue"),
    "REQUEUE_HOLD": Words("it was requeued and is held", "scontrol release JOB"),
    "SPECIAL_EXIT": Words("it ended in a way that this site sets aside, and is held", "scontrol release JOB"),
    "RESV_DEL_HOLD": Words("its reservation was deleted, and it is held", "scontrol release JOB"),
    "REVOKED": Words("another cluster of the federation runs it"),
    "SUSPENDED": Words("it is suspended: it keeps its memory and does not run"),
    "STOPPED": Words("it was stopped by a signal and keeps its CPUs"),
    "COMPLETED": Words("its script ended well"),
    "FAILED": Words("its script failed", "pyfi logs JOB shows its output"),
    "CANCELLED": Words("it was cancelled"),
    "TIMEOUT": Words("its time limit passed", "ask for a longer --time"),
    "DEADLINE": Words("it could not end before its --deadline"),
    "OUT_OF_MEMORY": Words("it used more memory than it had asked for", "ask for more memory"),
    "NODE_FAIL": Words("a node of it failed"),
    "BOOT_FAIL": Words("a node of it could not be booted"),
    "PREEMPTED": Words("a job of higher priority took its place"),
}

_GROUP = re.compile(r"(?P<whose>AssocGrp|AssocMax|QOSGrp|QOSMax|QOSMin|Max)(?P<what>[A-Z][A-Za-z]*)")
_EACH = {"PerJob": "a job", "PerNode": "a job on one node", "PerAccount": "an account"}
_THINGS = (
    ("SubmitJob", "jobs queued and running"),
    ("Job", "jobs"),
    ("RunMinutes", "minutes still to run"),
    ("Minutes", "minutes"),
    ("Wall", "run time"),
    ("Cpu", "CPUs"),
    ("Mem", "memory"),
    ("Node", "nodes"),
    ("GRES", "GPUs or other generic resources"),
    ("License", "licenses"),
    ("BB", "burst buffer space"),
    ("Billing", "billed resources"),
    ("Energy", "energy"),
)


#: Reasons that tell of an end; any other, on a job that has ended, is why it had waited before.
_OF_ENDS = frozenset(
    {
        "NonZeroExitCode", "TimeLimit", "OutOfMemory", "NodeDown", "FrontEndDown", "JobLaunchFailure", "SystemFailure",
        "InactiveLimit", "DeadLine", "BurstBufferOperation", "BadConstraints", "DependencyNeverSatisfied",
    }
)  # fmt: skip


def is_of_an_end(reason: str) -> bool:
    """Whether it tells how a job ended, not why it waited before."""
    return reason.partition(",")[0] in _OF_ENDS


def words(reason: str | None, state: str = "") -> Words | None:
    """Why a job in Slurm's `state` waits or ended, by its `reason`, else by its state; None where both say nothing.

    A reason may bring details after it, such as `ReqNodeNotAvail, UnavailableNodes:n1`, which are kept. One that we
    do not know is given back as it is.
    """
    status = status_of(state)
    told = reason if reason not in ("None", "N/A", "") else None
    if told and (status is not JobStatus.ENDED or is_of_an_end(told)):
        return _explained(told)
    found = [name for name in (COMPACT.get(word, word) for word in _words_of(state)) if name in REASONS]
    if found:
        return REASONS[found[0]]
    return REASONS["None"] if status is JobStatus.PENDING else None


def _explained(reason: str) -> Words:
    name, _, details = reason.strip("()").partition(",")
    base = REASONS.get(name.strip()) or _limit(name.strip())
    if base is None:
        return Words(reason)
    return Words(f"{base.what} ({details.strip()})", base.cure) if details.strip() else base


def _limit(name: str) -> Words | None:
    """The words for a limit of an account or a QOS, of which Slurm has about a hundred, named by one scheme."""
    found = _GROUP.fullmatch(name)
    if found is None:
        return None
    whose, what = found["whose"], found["what"]
    holder, table = ("its account", "assoc") if whose.startswith("Assoc") else ("the QOS", "qos")
    named = what.partition("Per")[0].lower()
    thing = next((told for part, told in _THINGS if part.lower() in named), "resources")
    if whose.endswith("Min"):
        return Words(f"it asks for fewer {thing} than {holder} demands", "ask for more, or choose another --qos")
    if whose.endswith("Grp"):
        return Words(f"{holder} has all the {thing} that it may", _LESS.format(table))
    one = next((told for part, told in _EACH.items() if part in what), "a person")
    return Words(f"{holder} allows {one} no more {thing}", _LESS.format(table))
