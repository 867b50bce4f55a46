"""The options of sbatch that a pilot's request does not keep by name: those passed on as they are, and those refused.

Source: sbatch(1) of Slurm 22.05, OPTIONS and INPUT ENVIRONMENT VARIABLES.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Takes(Enum):
    """What follows an option."""

    VALUE = "value"
    NOTHING = "nothing"
    MAYBE = "maybe"  # a value only behind `=`


#: Long name -> what follows it.
PASSED: Mapping[str, Takes] = {
    **dict.fromkeys(
        (
            *("--acctg-freq", "--batch", "--bb", "--bbf", "--cluster-constraint", "--container", "--core-spec"),
            *("--cores-per-socket", "--cpu-freq", "--cpus-per-gpu", "--deadline", "--delay-boot", "--distribution"),
            *("--extra-node-info", "--gpu-bind", "--gpu-freq", "--gres-flags", "--hint", "--kill-on-invalid-dep"),
            *("--licenses", "--mail-type", "--mail-user", "--mcs-label", "--mem-bind", "--mem-per-gpu", "--mincpus"),
            *("--network", "--nodefile", "--ntasks-per-core", "--ntasks-per-gpu", "--ntasks-per-node"),
            *("--ntasks-per-socket", "--open-mode", "--power", "--prefer", "--priority", "--profile", "--reservation"),
            *("--sockets-per-node", "--switches", "--thread-spec", "--threads-per-core", "--time-min", "--tmp"),
            *("--wait-all-nodes", "--wckey"),
        ),
        Takes.VALUE,
    ),
    **dict.fromkeys(
        ("--contiguous", "--hold", "--overcommit", "--oversubscribe", "--reboot", "--spread-job", "--use-min-nodes"),
        Takes.NOTHING,
    ),
    **dict.fromkeys(("--exclusive", "--get-user-env", "--nice", "--no-kill", "--propagate"), Takes.MAYBE),
}

#: Short name -> long name.
SHORT: Mapping[str, str] = {
    "-S": "--core-spec",
    "-B": "--extra-node-info",
    "-F": "--nodefile",
    "-H": "--hold",
    "-i": "--input",
    "-k": "--no-kill",
    "-L": "--licenses",
    "-m": "--distribution",
    "-M": "--clusters",
    "-O": "--overcommit",
    "-Q": "--quiet",
    "-s": "--oversubscribe",
    "-V": "--version",
    "-W": "--wait",
    "-h": "--help",
    "-v": "--verbose",
}

_COMMAND_LINE = "it says how to submit, not what: write it behind pyfi submit"
_NO_MEANING = "it means nothing to a pilot: leave it out"
_PER_NODE = "a pilot's workers share out what the nodes have: write --gpus-per-node, or --gpus"
#: Long name -> why a pilot cannot have it, and what to do.
REFUSED: Mapping[str, str] = {
    "--wrap": "a pilot runs agents, not a command: pyfi call PROCESSOR… runs the work",
    "--gpus-per-task": _PER_NODE,
    "--gpus-per-socket": _PER_NODE,
    "--clusters": "a pilot is watched in one cluster: leave it out",
    "--export-file": "what a job exports can be read by others: use --export, or the lines of the script",
    "--uid": "a job is submitted as you: leave it out",
    "--gid": "a job is submitted as you: leave it out",
    **dict.fromkeys(("--parsable", "--test-only", "--wait"), _COMMAND_LINE),
    **dict.fromkeys(("--quiet", "--verbose", "--version", "--help", "--usage", "--ignore-pbs", "--input"), _NO_MEANING),
}

#: Variable -> the option that it stands for. What sbatch reads beside these means nothing to a pilot: where its input
#: comes from, how much is said, how it is submitted.
VARIABLES: Mapping[str, str] = {
    "SBATCH_ACCOUNT": "--account",
    "SBATCH_ACCTG_FREQ": "--acctg-freq",
    "SBATCH_ARRAY_INX": "--array",
    "SBATCH_BATCH": "--batch",
    "SBATCH_CLUSTERS": "--clusters",
    "SBATCH_CONSTRAINT": "--constraint",
    "SBATCH_CONTAINER": "--container",
    "SBATCH_CORE_SPEC": "--core-spec",
    "SBATCH_CPUS_PER_GPU": "--cpus-per-gpu",
    "SBATCH_DELAY_BOOT": "--delay-boot",
    "SBATCH_DISTRIBUTION": "--distribution",
    "SBATCH_ERROR": "--error",
    "SBATCH_EXCLUSIVE": "--exclusive",
    "SBATCH_EXPORT": "--export",
    "SBATCH_GET_USER_ENV": "--get-user-env",
    "SBATCH_GPUS": "--gpus",
    "SBATCH_GPUS_PER_NODE": "--gpus-per-node",
    "SBATCH_GPUS_PER_TASK": "--gpus-per-task",
    "SBATCH_GPU_BIND": "--gpu-bind",
    "SBATCH_GPU_FREQ": "--gpu-freq",
    "SBATCH_GRES": "--gres",
    "SBATCH_GRES_FLAGS": "--gres-flags",
    "SBATCH_HINT": "--hint",
    "SBATCH_JOB_NAME": "--job-name",
    "SBATCH_MEM_BIND": "--mem-bind",
    "SBATCH_MEM_PER_CPU": "--mem-per-cpu",
    "SBATCH_MEM_PER_GPU": "--mem-per-gpu",
    "SBATCH_MEM_PER_NODE": "--mem",
    "SBATCH_NETWORK": "--network",
    "SBATCH_NO_KILL": "--no-kill",
    "SBATCH_NO_REQUEUE": "--no-requeue",
    "SBATCH_OPEN_MODE": "--open-mode",
    "SBATCH_OUTPUT": "--output",
    "SBATCH_OVERCOMMIT": "--overcommit",
    "SBATCH_PARTITION": "--partition",
    "SBATCH_POWER": "--power",
    "SBATCH_PROFILE": "--profile",
    "SBATCH_QOS": "--qos",
    "SBATCH_REQUEUE": "--requeue",
    "SBATCH_REQ_SWITCH": "--switches",
    "SBATCH_RESERVATION": "--reservation",
    "SBATCH_SIGNAL": "--signal",
    "SBATCH_SPREAD_JOB": "--spread-job",
    "SBATCH_THREADS_PER_CORE": "--threads-per-core",
    "SBATCH_THREAD_SPEC": "--thread-spec",
    "SBATCH_TIMELIMIT": "--time",
    "SBATCH_USE_MIN_NODES": "--use-min-nodes",
    "SBATCH_WAIT_ALL_NODES": "--wait-all-nodes",
    "SBATCH_WCKEY": "--wckey",
}
