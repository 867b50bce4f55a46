"""What Slurm's commands print, as records: text in, records out, and nothing that talks to anybody."""

from __future__ import annotations

import datetime
import re
import secrets
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pyfi_hpc.model.status import JobStatus
from pyfi_hpc.slurm.launcher import TOKEN_MARK, JobId, Observation, Partition
from pyfi_hpc.slurm.states import status_of, together

#: Fields of `squeue --Format`. Source: squeue(1).
QUEUE_FIELDS = (
    "JobArrayID", "JobID", "State", "Reason", "RestartCnt", "exit_code", "StartTime", "EndTime", "NodeList", "Comment",
)  # fmt: skip
#: Fields of `sacct --format`. Source: sacct(1).
ACCOUNTING_FIELDS = ("JobID", "JobIDRaw", "State", "ExitCode", "Start", "End", "NodeList", "Reason", "Comment")
#: Fields of `sinfo --format`: partition, up?, time limit, nodes, CPUs, MiB, generic resources. Source: sinfo(1).
PARTITION_FIELDS = ("%P", "%a", "%l", "%D", "%c", "%m", "%G")

_TOKEN = re.compile(rf"{re.escape(TOKEN_MARK)}([0-9a-f]{{32}})(?!\S)")
_NOTHING = ("", "None", "N/A", "(null)", "Unknown", "NONE", "None assigned")


def new_separator() -> str:
    """What ends a field in one query's answer: nobody can have put it into a comment or a name before.

    Neither a comma nor a percent sign is in it, nor does it begin with a digit: those mean something in formats.
    """
    return f"\x1f{secrets.token_hex(8)}\x1f"


def records(text: str, separator: str, fields: int) -> Iterator[Sequence[str]]:
    """The records of `text`, in which `separator` stands after every field and a line end after every record.

    Fields may hold line ends. What is left at the end, of an answer that was cut, is left out.
    """
    parts = text.split(separator)[:-1]
    for start in range(0, len(parts) - fields + 1, fields):
        first, *rest = parts[start : start + fields]
        yield first.lstrip("\n"), *rest


@dataclass(frozen=True, slots=True)
class Row:
    """One job as squeue or sacct tells it: an element of an array by its `88121_3`; `raw` is its own number."""

    raw: str
    seen: Observation


def queue_rows(text: str, separator: str) -> list[Row]:
    """The answer of squeue with `QUEUE_FIELDS`."""
    return [_queue_row(*fields) for fields in records(text, separator, len(QUEUE_FIELDS))]


def _queue_row(
    job: str, raw: str, state: str, reason: str, restarts: str, code: str, start: str, end: str, nodes: str, note: str
) -> Row:
    status = status_of(state)
    running, ended = status in (JobStatus.RUNNING, JobStatus.ENDING), status is JobStatus.ENDED
    seen = Observation(
        job=job,
        status=status,
        state=state,
        reason=_something(reason),
        token=token_of(note),
        restarts=int(restarts) if restarts.isdecimal() else 0,
        nodes=_something(nodes),
        exit_code=exit_code(code) if ended else None,
        # of a job that waits, squeue tells when it may start; of one cancelled before, when that was
        started=moment(start) if running or (ended and _something(nodes)) else None,
        ends_at=moment(end) if running else None,
        ended=moment(end) if ended else None,
    )
    return Row(raw, seen)


def accounting_rows(text: str, separator: str) -> list[Row]:
    """The answer of `sacct --duplicates` with `ACCOUNTING_FIELDS`: of a requeued job the last run, with the count."""
    last: dict[str, Row] = {}
    for fields in records(text, separator, len(ACCOUNTING_FIELDS)):
        row = _accounting_row(*fields)
        before = last.get(row.seen.job)
        restarts = before.seen.restarts + 1 if before else 0
        last[row.seen.job] = replace(row, seen=replace(row.seen, restarts=restarts))
    return list(last.values())


def _accounting_row(
    job: str, raw: str, state: str, code: str, start: str, end: str, nodes: str, reason: str, note: str
) -> Row:
    # a job that the records have alive and the controller does not know is not seen to run
    ended = status_of(state) is JobStatus.ENDED
    seen = Observation(
        job=job,
        status=JobStatus.ENDED if ended else JobStatus.UNKNOWN,
        state=state,
        reason=_something(reason),
        token=token_of(note),
        nodes=_something(nodes),
        exit_code=exit_code(code) if ended else None,
        started=moment(start) if _something(nodes) else None,
        ended=moment(end) if ended else None,
    )
    return Row(raw, seen)


def by_id(rows: Iterable[Row]) -> dict[JobId, Observation]:
    """Every job of `rows` under each id that may be asked for: `88121`, `88121_3`, an element's own number.

    An array as a whole, `88121`, is where its liveliest element is.
    """
    found: dict[JobId, Observation] = {}
    arrays: dict[JobId, list[Observation]] = defaultdict(list)
    for row in rows:
        base, _, element = row.seen.job.partition("_")
        if element:
            arrays[base].append(row.seen)
            found[row.raw] = row.seen
        found[row.seen.job] = row.seen
    return found | {base: _whole(base, elements) for base, elements in arrays.items()}


def _whole(base: JobId, elements: Sequence[Observation]) -> Observation:
    status = together(element.status for element in elements)
    liveliest = next(element for element in elements if element.status is status)
    restarts = max(element.restarts for element in elements)
    nodes = liveliest.nodes if len(elements) == 1 else None
    return replace(liveliest, job=base, restarts=restarts, nodes=nodes)


def by_token(rows: Iterable[Row], tokens: Iterable[str]) -> dict[str, Observation]:
    """Token → its job, of those of `tokens` that are in `rows`; of an array the whole."""
    seen: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.seen.token is not None:
            seen[row.seen.token].append(row)
    return {token: _one(seen[token]) for token in tokens if token in seen}


def _one(rows: Sequence[Row]) -> Observation:
    """The job of one token: the liveliest, should there be two, and of like ones the last."""
    found = by_id(rows)
    bases = dict.fromkeys(row.seen.job.partition("_")[0] for row in reversed(rows))
    whole = [found[base] for base in bases]
    status = together(seen.status for seen in whole)
    return next(seen for seen in whole if seen.status is status)


def token_of(comment: str) -> str | None:
    """The token that `comment` begins with; None for a job that is not ours."""
    found = _TOKEN.match(comment)
    return found[1] if found else None


def exit_code(text: str) -> str | None:
    """`3:0` from squeue's wait status 768, or from sacct's own `3:0`; None for neither. Source: wait(2)."""
    if re.fullmatch(r"\d+:\d+", text):
        return text
    if not text.isdecimal():
        return None
    return f"{int(text) >> 8 & 0xFF}:{int(text) & 0x7F}"


def moment(text: str) -> datetime.datetime | None:
    """A time that Slurm printed as seconds since 1970, or in its own form for this time zone; None for none."""
    try:
        if text.isdecimal():
            return datetime.datetime.fromtimestamp(int(text), datetime.UTC)
        return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return None


def seconds(text: str) -> int | None:
    """`days-hours:minutes:seconds` in all the forms of sbatch's --time; None for no limit, or no such form.

    Source: sbatch(1), --time: `5` minutes, `5:30`, `1:00:00`, `1-12`, `1-12:30`, `1-12:30:00`.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if found is None:
        return None
    days, first, second, third = (int(part) if part else 0 for part in found.groups())
    if found[1] or found[4]:
        return ((days * 24 + first) * 60 + second) * 60 + third
    return first * 60 + second


def partition_rows(text: str, separator: str) -> list[Partition]:
    """The answer of `sinfo --exact` with `PARTITION_FIELDS`, which has a row for each kind of node in a partition."""
    found: dict[str, Partition] = {}
    for name, up, limit, nodes, cpus, mem, gres in records(text, separator, len(PARTITION_FIELDS)):
        row = Partition(
            name=name.removesuffix("*"),
            default=name.endswith("*"),
            up=up == "up",
            nodes=_number(nodes),
            cpus_per_node=_number(cpus),
            mem_mib_per_node=_number(mem),
            gpus_per_node=gpus_of(gres),
            max_minutes=None if (limited := seconds(limit)) is None else limited // 60,
        )
        found[row.name] = _joined(found[row.name], row) if row.name in found else row
    return list(found.values())


def _joined(one: Partition, other: Partition) -> Partition:
    return replace(
        one,
        nodes=one.nodes + other.nodes,
        cpus_per_node=max(one.cpus_per_node, other.cpus_per_node),
        mem_mib_per_node=max(one.mem_mib_per_node, other.mem_mib_per_node),
        gpus_per_node=max(one.gpus_per_node, other.gpus_per_node),
    )


def gpus_of(gres: str) -> int:
    """How many GPUs a node has by its generic resources, such as `gpu:h100:4(S:0-1),gpu:1g.10gb:7,shard:16`."""
    counted = 0
    for part in re.sub(r"\([^)]*\)", "", gres).split(","):
        name, *rest = part.strip().split(":")
        if name == "gpu":
            counted += int(rest[-1]) if rest and rest[-1].isdecimal() else 1
    return counted


def config(text: str) -> Mapping[str, str]:
    """Key → value of `scontrol show config`."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {key.strip(): value.strip() for key, sign, value in pairs if sign}


def controller(conf: str) -> str:
    """Where slurmctld is by a slurm.conf, to tell a person who did not answer; "" where it does not say."""
    return _hosts(conf, "SlurmctldHost|ControlMachine")


def accounting_host(conf: str) -> str:
    """Where slurmdbd is by a slurm.conf; "" where it does not say."""
    return _hosts(conf, "AccountingStorageHost")


def _hosts(conf: str, keys: str) -> str:
    found = re.findall(rf"^\s*(?:{keys})\s*=\s*([^\s#]+)", conf, re.IGNORECASE | re.MULTILINE)
    return f"at {', '.join(found)}" if found else ""


def submitted(text: str) -> JobId | None:
    """The id that `sbatch --parsable` printed, maybe with a cluster after it; None when it printed something else."""
    found = re.fullmatch(r"(\d+)(?:;[^\n]*)?", text.strip())
    return found[1] if found else None


#: What says that no answer came, or none that holds for good. Source: slurm_errno of Slurm 22.05, errno(3).
_NO_ANSWER = re.compile(
    r"unable to (?:contact|connect|resolve)|timed out|zero bytes|communication|connection|connect failure|broken pipe"
    r"|unreachable|no route to host|standby|temporarily|try again|internal error|I/O error|authenticat|credential|munge"
    r"|incompatible version|unexpected message|header lengths|message length|unspecified error|configuration source"
    r"|configuration file|check slurm\.conf|cannot allocate memory|too many open files|interrupted system call"
    r"|not responding",
    re.IGNORECASE,
)


def no_answer(said: str) -> bool:
    """Whether a client command that failed and `said` this was not answered, rather than refused."""
    return not said or bool(_NO_ANSWER.search(said))


def said(stderr: str) -> str:
    """What a client command complained about, in one line, without its own name before each line."""
    lines = (re.sub(r"^\s*\w+: (?:(?:error|fatal|warning): )?", "", line) for line in stderr.splitlines())
    lines = (re.sub(r"^(?:Batch job submission failed|allocation failure): ", "", line).strip() for line in lines)
    return "; ".join(dict.fromkeys(line for line in lines if line))


def _something(text: str) -> str | None:
    return None if text in _NOTHING else text


def _number(text: str) -> int:
    digits = re.match(r"\d+", text)
    return int(digits[0]) if digits else 0
