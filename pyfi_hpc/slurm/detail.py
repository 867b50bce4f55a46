"""What Slurm's controller says that a job was granted on one node, where the job's environment does not say it."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
from dataclasses import dataclass

from pyfi_hpc.logs import logger

log = logger()


@dataclass(frozen=True, slots=True)
class Detail:
    """A job's share of one node. None, or empty: Slurm did not say.

    Attributes:
        cpu_ids: Slurm's own numbers for the CPUs granted; two jobs on a node have none in common.
        gpu_indexes: places of the GPUs granted among the lines of gres.conf, counted over the node's GPUs.
        ends_at: in UTC; None also for a job without a time limit.
    """

    cpu_ids: tuple[int, ...] = ()
    gpu_indexes: tuple[int, ...] | None = None
    mem_mib: int | None = None
    ends_at: datetime.datetime | None = None


def ask(job: str, node: str, *, timeout_seconds: float = 10.0) -> Detail:
    """One question to the controller; one that it does not answer leaves everything open, and is logged."""
    kept = {name: value for name, value in os.environ.items() if name != "SLURM_TIME_FORMAT"}
    command = ["scontrol", "show", "job", "-d", "-o", job]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_seconds,
            env={**kept, "TZ": "UTC"},
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("slurm does not say what the job was granted", job=job, error=str(error))
        return Detail()
    return parsed(done.stdout, node)


def parsed(text: str, node: str) -> Detail:
    """The detail in what `scontrol show job -d -o` prints with times in UTC."""
    for nodes, cpus, mem, gres in re.findall(r"\sNodes=(\S+) CPU_IDs=(\S*) Mem=(\d+) GRES=(\S*)", text):
        if in_hostlist(node, nodes):
            return Detail(numbers(cpus), _gpu_indexes(gres), int(mem) or None, _end(text))
    return Detail(ends_at=_end(text))


def _end(text: str) -> datetime.datetime | None:
    found = re.search(r"\sEndTime=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\s", text)
    return found and datetime.datetime.fromisoformat(found[1]).replace(tzinfo=datetime.UTC)


def _gpu_indexes(gres: str) -> tuple[int, ...] | None:
    """Of `gpu:a100:1(IDX:0),gpu:1g.10gb:2(IDX:1-2)`: 0, 1, 2."""
    found = re.findall(r"(?:^|,)gpu[^()]*\(IDX:([\d,-]+)\)", gres)
    return tuple(number for part in found for number in numbers(part)) if found else None


def numbers(text: str) -> tuple[int, ...]:
    """The numbers in `0-3,8`, in that order; none in the empty text."""
    ends = [part.partition("-") for part in text.split(",") if part]
    return tuple(number for low, _, high in ends for number in range(int(low), int(high or low) + 1))


def in_hostlist(node: str, hostlist: str) -> bool:
    """Whether `node` is one of `n[1-3,07],other`, as Slurm writes sets of nodes."""
    return any(_names(pattern, node) for pattern in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", hostlist))


def _names(pattern: str, node: str) -> bool:
    words = re.split(r"\[([^\]]*)\]", pattern)
    shape = "".join(r"(\d+)" if place % 2 else re.escape(word) for place, word in enumerate(words))
    found = re.fullmatch(shape, node)
    return found is not None and all(map(_within, found.groups(), words[1::2]))


def _within(number: str, ranges: str) -> bool:
    """Whether `number`, leading zeros and all, is in `1-3,07`."""
    ends = [part.partition("-") for part in ranges.split(",")]
    return any(
        int(low) <= int(number) <= int(high or low) and number == number.lstrip("0").rjust(len(low), "0")
        for low, _, high in ends
    )
