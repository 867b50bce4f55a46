"""What can be checked of a request before it is queued: Slurm would let it wait for ever, or refuse it without a cure.

Records in, refusals out; Slurm's answers are fetched by a launcher.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pyfi_hpc.errors import BadInput, shown
from pyfi_hpc.model.names import nearest
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.slurm.launcher import Partition
from pyfi_hpc.slurm.request.amounts import mem_mib
from pyfi_hpc.slurm.request.options import by_flag
from pyfi_hpc.slurm.request.slots import gpus_per_node, tasks, total_gpus
from pyfi_hpc.slurm.request.times import limit_text


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a partition can never satisfy a request.

    Attributes:
        asked: the option and its value, as a person writes it.
        most: what the partition has at most.
        instead: options that would do, "" where none of the partition's own can.
    """

    what: str
    asked: str
    most: str
    instead: str = ""


def check(
    request: ResourceRequest,
    partitions: Sequence[Partition],
    accounts: Collection[str] | None,
    *,
    typed: Sequence[str] = (),
    cores: bool = True,
) -> None:
    """Return when `request` names what there is and one of its partitions can satisfy it some day.

    `typed` is what stood behind `pyfi submit`, for the command that would do. Accounts None: nobody keeps them.
    `cores` False: they are shared.

    Raises:
        BadInput: E_NOT_FOUND, E_MISSING, E_UNSATISFIABLE with the most that can be had.
    """
    if request.account is not None and accounts is not None and request.account not in accounts:
        raise _not_found("account", request.account, accounts)
    chosen = _chosen(request, partitions)
    counted = request if cores else replace(request, ntasks=None, cpus_per_task=None)
    problems = [(partition, problem(counted, partition)) for partition in chosen]
    if any(found is None for _, found in problems):
        return
    partition, found = problems[0]
    assert found is not None
    raise _unsatisfiable(request, partition, found, partitions, typed)


def _chosen(request: ResourceRequest, partitions: Sequence[Partition]) -> list[Partition]:
    known = {partition.name: partition for partition in partitions}
    if request.partition is None:
        default = [partition for partition in partitions if partition.default]
        if not default:
            cure = f"pyfi submit -p {next(iter(known), 'PARTITION')}"
            raise BadInput("E_MISSING", "no partition is named, and Slurm has no default", at="--partition", cure=cure)
        return default
    names = request.partition.split(",")
    for name in names:
        if name not in known:
            raise _not_found("partition", name, known)
    return [known[name] for name in names]


def _not_found(kind: str, name: str, known: Collection[str]) -> BadInput:
    near = nearest(name, known)
    cure = f"did you mean {near!r}?" if near else f"one of {', '.join(sorted(known)) or '(none)'}"
    return BadInput.of("E_NOT_FOUND", f"--{kind}", name, f"no {kind} {shown(name)!r}", cure=cure)


def _unsatisfiable(
    request: ResourceRequest,
    partition: Partition,
    found: Problem,
    partitions: Sequence[Partition],
    typed: Sequence[str],
) -> BadInput:
    instead = found.instead
    if not instead:
        others = [other.name for other in partitions if other.up and problem(request, other) is None]
        instead = f"-p {others[0]}" if others else ""
    words = [instead, shlex.join(_without(instead.split(), typed))]
    cure = shown(" ".join(["pyfi submit", *filter(None, words)]), 300) if instead else "sinfo shows what there is"
    at = f"{found.asked}     most in {partition.name!r}: {found.most}"
    return BadInput("E_UNSATISFIABLE", found.what, at=at, cure=cure, field=found.asked.split()[0], most=found.most)


def _without(instead: Sequence[str], typed: Sequence[str]) -> Iterator[str]:
    """The words typed, but for options that `instead` gives too, and their values."""
    known = by_flag()
    flags = {flag for word in instead if word in known for flag in known[word].flags}
    words = iter(typed)
    for word in words:
        if word in flags:
            next(words, None)
        elif not any(word.startswith(f"{flag}=" if flag.startswith("--") else flag) for flag in flags):
            yield word


def problem(request: ResourceRequest, partition: Partition) -> Problem | None:
    """The first thing that no time of waiting mends; None where `partition` can satisfy it."""
    for look in (_nodes, _gpus, _cores, _memory, _time):
        if found := look(request, partition):
            return found
    return None


def _nodes(request: ResourceRequest, partition: Partition) -> Problem | None:
    if request.nodes <= partition.nodes:
        return None
    return Problem(f"{request.nodes} nodes cannot be had", f"-N {request.nodes}", f"{partition.nodes}")


def _gpus(request: ResourceRequest, partition: Partition) -> Problem | None:
    wanted = gpus_per_node(request)
    if wanted <= partition.gpus_per_node:
        return None
    name, value = next(
        (f"--{name.replace('_', '-')}", spec)
        for name in ("gpus_per_node", "gres", "gpus")
        if (spec := getattr(request, name))
    )
    total = max(total_gpus(request), wanted * request.nodes)
    most = f"{partition.gpus_per_node}"
    spread = _spread(total, partition.gpus_per_node, partition.nodes, even=True)
    instead = f"-N {spread} {name} {_with_count(name, value, total, spread)}" if spread else ""
    return Problem(f"{_many(wanted, 'GPU')} on one node cannot be had", f"{name} {value}", most, instead)


def _with_count(name: str, value: str, total: int, nodes: int) -> str:
    """`value` with as many GPUs as each of `nodes` gets; one that counts the whole job's stays."""
    return value if name == "--gpus" else re.sub(r"[0-9]+$", str(total // nodes), value)


def _spread(total: int, each: int, nodes: int, *, even: bool = False) -> int:
    """On how many nodes `total` fit, `each` a node at most; 0 where there are not enough."""
    fits = (count for count in range(1, nodes + 1) if total <= count * each and not (even and total % count))
    return next(fits, 0)


def _cores(request: ResourceRequest, partition: Partition) -> Problem | None:
    cores = request.cpus_per_task or 1
    each = partition.cpus_per_node // cores
    most = _many(partition.cpus_per_node, "core") + " a node"
    if not each:
        return Problem(
            f"{cores} cores for one task cannot be had", f"-c {cores}", most, f"-c {partition.cpus_per_node}"
        )
    count = tasks(request)
    if count <= request.nodes * each:
        return None
    spread = _spread(count, each, partition.nodes)
    what = f"{_many(count, 'task')} of {_many(cores, 'core')} on {_many(request.nodes, 'node')} cannot be had"
    return Problem(what, f"-n {count}", most, f"-N {spread} -n {count}" if spread else "")


def _memory(request: ResourceRequest, partition: Partition) -> Problem | None:
    most = f"{partition.mem_mib_per_node} MiB a node"
    if request.mem and mem_mib(request.mem) > partition.mem_mib_per_node:
        instead = f"--mem {partition.mem_mib_per_node}"
        return Problem(f"{request.mem} of memory on one node cannot be had", f"--mem {request.mem}", most, instead)
    cores = -(-tasks(request) // request.nodes) * (request.cpus_per_task or 1)
    if request.mem_per_cpu and mem_mib(request.mem_per_cpu) * cores > partition.mem_mib_per_node:
        what = f"{request.mem_per_cpu} of memory for each of {_many(cores, 'core')} on one node cannot be had"
        return Problem(
            what,
            f"--mem-per-cpu {request.mem_per_cpu}",
            most,
            f"--mem-per-cpu {int(partition.mem_mib_per_node // cores)}",
        )
    return None


def _time(request: ResourceRequest, partition: Partition) -> Problem | None:
    wanted, most = request.time_minutes, partition.max_minutes
    if wanted is None or most is None or 0 < wanted <= most:
        return None
    asked, limit = limit_text(wanted), limit_text(most)
    return Problem(f"a time limit of {asked} cannot be had", f"--time {asked}", limit, f"-t {limit}")


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def check_folders(request: ResourceRequest) -> None:
    """Return when the folders that it names are there: Slurm would fail the job, or move it elsewhere, in silence.

    Raises:
        BadInput: E_NOT_FOUND.
    """
    if request.chdir and not os.access(request.chdir, os.R_OK | os.X_OK):
        raise _no_folder("--chdir", request.chdir, Path(request.chdir))
    for flag, pattern in (("--output", request.output), ("--error", request.error)):
        folder = (Path(request.chdir or ".") / pattern).parent if pattern else None
        if folder and "%" not in str(folder) and not os.access(folder, os.W_OK | os.X_OK):
            raise _no_folder(flag, str(pattern), folder)


def _no_folder(flag: str, value: str, folder: Path) -> BadInput:
    there = "cannot be used" if folder.exists() else "is not there"
    cure = f"mkdir -p {shown(str(folder))}" if not folder.exists() else f"ls -ld {shown(str(folder))}"
    return BadInput.of("E_NOT_FOUND", flag, value, f"folder {shown(str(folder))!r} {there}", cure=cure)
