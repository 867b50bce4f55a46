"""The options that pyfi and sbatch have in common: one table, from which everything about them is made.

From it come the options of `pyfi submit`, the reading of `#SBATCH` words and `SBATCH_*` variables, and the sbatch line.

Source: sbatch(1) of Slurm 22.05.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyfi_hpc.errors import BadInput, shown
from pyfi_hpc.model.names import nearest
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.slurm.request import amounts, kinds, times
from pyfi_hpc.slurm.request.sbatch import PASSED, REFUSED, SHORT, VARIABLES, Takes


@dataclass(frozen=True, slots=True)
class Option:
    """One option: where its value goes, and how it is read and written.

    Attributes:
        flags: the letter first, where there is one; the last is the long name that is rendered.
        field: of `ResourceRequest`.
        constant: the value that a flag without one stands for; None: a value follows.
        written: the value as sbatch takes it.
    """

    flags: tuple[str, ...]
    field: str
    convert: kinds.Converter
    metavar: str
    meaning: str
    constant: bool | None = None
    written: Callable[[Any], str] = str

    @property
    def long(self) -> str:
        """The long name."""
        return self.flags[-1]


def _flag(value: str, where: str) -> bool:
    raise AssertionError(f"{where} takes no value, and got {value!r}")


_COUNT = kinds.whole(1, 1_000_000)

OPTIONS: Sequence[Option] = (
    Option(("-J", "--job-name"), "job_name", kinds.text, "NAME", "The job's name."),
    Option(("-p", "--partition"), "partition", kinds.words, "NAME", "The partition, or several: the first that can."),
    Option(("-A", "--account"), "account", kinds.words, "NAME", "The account to charge."),
    Option(("-q", "--qos"), "qos", kinds.words, "NAME", "The quality of service."),
    Option(("-t", "--time"), "time_minutes", times.minutes, "TIME", "Time limit: 10 (minutes), 1:30:00, 2-12.",
           written=times.limit_text),
    Option(("-N", "--nodes"), "nodes", kinds.nodes, "N", "How many nodes; else one."),
    Option(("-n", "--ntasks"), "ntasks", _COUNT, "N", "How many tasks, one worker each; else one a node."),
    Option(("-c", "--cpus-per-task"), "cpus_per_task", kinds.whole(1, 65_536), "N", "Cores of each task."),
    Option(("--mem",), "mem", amounts.memory, "SIZE", "Memory of each node: 4G."),
    Option(("--mem-per-cpu",), "mem_per_cpu", amounts.memory, "SIZE", "Memory of each core, in place of --mem."),
    Option(("-G", "--gpus"), "gpus", amounts.gpus(1_000_000), "[TYPE:]N", "GPUs of the whole job, a worker each."),
    Option(("--gpus-per-node",), "gpus_per_node", amounts.gpus(1024), "[TYPE:]N", "GPUs of each node, a worker each."),
    Option(("--gres",), "gres", amounts.gres, "LIST", "Generic resources of each node: gpu:2."),
    Option(("-C", "--constraint"), "constraint", kinds.text, "LIST", "Features that the nodes must have."),
    Option(("-w", "--nodelist"), "nodelist", kinds.words, "NODES", "Nodes that must be among them."),
    Option(("-x", "--exclude"), "exclude", kinds.words, "NODES", "Nodes that must not be among them."),
    Option(("-d", "--dependency"), "dependency", kinds.dependency, "LIST", "Jobs that come first: afterok:88121."),
    Option(("-a", "--array"), "array", amounts.array, "INDEXES", "One such job for each index: 0-3."),
    Option(("-b", "--begin"), "begin", times.begin, "TIME", "Not before: 16:00, now+1hour."),
    Option(("-o", "--output"), "output", kinds.text, "FILE", "Where its output goes, %j for the job's id."),
    Option(("-e", "--error"), "error", kinds.text, "FILE", "Where its errors go; else with the output."),
    Option(("-D", "--chdir"), "chdir", kinds.text, "FOLDER", "Its working directory; else this one."),
    Option(("--export",), "export", kinds.export, "LIST", "Variables that it gets: ALL, NONE or names."),
    Option(("--requeue",), "requeue", _flag, "", "Queue it again when its node fails; so it is.", constant=True),
    Option(("--no-requeue",), "requeue", _flag, "", "Let it end when its node fails.", constant=False),
    Option(("--signal",), "signal_seconds", kinds.signal_seconds, "B:SIG@SECONDS",
           "When to drain, as sbatch writes it; only the time counts.", written=lambda seconds: f"B:USR2@{seconds}"),
    Option(("--comment",), "comment", kinds.text, "TEXT", "A comment, behind pyfi's own."),
)  # fmt: skip

#: What `#PYFI` lines and the command line have beside; `processor` is no field of the request.
OURS: Sequence[Option] = (
    Option(("--processor",), "processor", kinds.words, "NAME", "The processor whose workers it brings."),
    Option(("--per",), "per", kinds.per, "WHAT", "One worker per core, gpu, mig or task."),
    Option(("--drain-before",), "signal_seconds", kinds.seconds_before, "SECONDS",
           "How long before its time limit it takes no more work; else 120."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Given:
    """One thing that was asked for, and where: `train.sh line 3`, `SBATCH_TIMELIMIT`, `command line`.

    `field` is one of `ResourceRequest`, or `processor`; of `extra`, the value is one word for sbatch.
    """

    field: str
    value: Any
    origin: str


def by_flag(options: Sequence[Option] = OPTIONS) -> dict[str, Option]:
    """Flag -> option."""
    return {flag: option for option in options for flag in option.flags}


def read(words: Sequence[str], origin: str, *, ours: bool, code: str = "E_USAGE") -> Iterator[Given]:
    """What the words of a directive ask for, in getopt's forms: `-N2`, `-N 2`, `--nodes=2`, `--nodes 2`.

    `ours`: our own options may stand here too. `code` is that of words which cannot be understood.

    Raises:
        BadInput: `code`, or that of a value, with `origin`.
    """
    known = by_flag([*OPTIONS, *(OURS if ours else ())])
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, value = _name_and_value(word, origin, code)
        option = known.get(name)
        takes = _takes(option) if option else _passed(name, origin, ours, code)
        if takes is Takes.VALUE and value is None:
            if not rest:
                raise BadInput.of(code, origin, word, f"a value is missing behind {name}")
            value = rest.pop(0)
        elif takes is Takes.NOTHING and value is not None:
            raise BadInput.of(code, origin, word, f"{name} takes no value")
        yield _given(option, name, value, origin)


def _name_and_value(word: str, origin: str, code: str) -> tuple[str, str | None]:
    if word.startswith("--") and len(word) > 2:
        name, equals, value = word.partition("=")
        return name, value if equals else None
    if word.startswith("-") and len(word) > 1 and word[1] != "-":
        return word[:2], word[2:] or None
    raise BadInput.of(code, origin, word, f"{shown(word)!r} is no option", cure="a value with blanks is put in quotes")


def _takes(option: Option) -> Takes:
    return Takes.VALUE if option.constant is None else Takes.NOTHING


def _passed(name: str, origin: str, ours: bool, code: str) -> Takes:
    """What follows an option that is sbatch's alone."""
    long = SHORT.get(name, name)
    if long in PASSED:
        return PASSED[long]
    if long in REFUSED:
        raise BadInput.of(code, origin, name, f"a pilot cannot have {name}", cure=REFUSED[long])
    if not ours and name in by_flag(OURS):
        raise BadInput.of(
            code, origin, name, f"{name} is pyfi's own option", cure="write it in a line that begins with #PYFI"
        )
    raise unknown(name, origin, code, ours=ours)


def unknown(name: str, origin: str, code: str, *, ours: bool = True) -> BadInput:
    """The refusal of an option that neither sbatch nor we have, with the nearest that there is."""
    names = [*by_flag([*OPTIONS, *(OURS if ours else ())]), *PASSED]
    near = nearest(name, [flag for flag in names if flag.startswith("--") == name.startswith("--")])
    cure = f"did you mean {near}?" if near and len(near) > 2 else "pyfi submit --help"
    return BadInput.of(code, origin, name, f"no option {shown(name)!r}", cure=cure)


def _given(option: Option | None, name: str, value: str | None, origin: str) -> Given:
    if option is None:
        long = SHORT.get(name, name)
        return Given("extra", long if value is None else f"{long}={kinds.text(value, f'{origin}: {name}')}", origin)
    if option.constant is not None:
        return Given(option.field, option.constant, origin)
    assert value is not None
    return Given(option.field, option.convert(value, f"{origin}: {name}"), origin)


def from_environment(environment: Mapping[str, str]) -> Iterator[Given]:
    """What sbatch's input variables ask for.

    Raises:
        BadInput: with the variable's name.
    """
    known = by_flag()
    for variable in sorted(VARIABLES.keys() & environment.keys()):
        long, value = VARIABLES[variable], environment[variable]
        takes = _takes(known[long]) if long in known else PASSED.get(long, Takes.VALUE)
        if takes is Takes.VALUE or (takes is Takes.MAYBE and value not in ("", "yes")):
            yield from read([f"{long}={value}"], variable, ours=False)
        elif switched_on(value):
            yield from read([long], variable, ours=False)


def switched_on(value: str) -> bool:
    """Whether a variable for an option without value enables it. Source: sbatch(1), INPUT ENVIRONMENT VARIABLES."""
    return value in ("", "yes") or (value.isdecimal() and int(value) != 0)


def checked_extra(word: str, where: str = "--slurm-arg") -> str:
    """A further option of sbatch, in one word.

    Raises:
        BadInput: E_USAGE for one that we have ourselves, that a pilot cannot have, or that is no option.
    """
    name, value = _name_and_value(kinds.text(word, where), where, "E_USAGE")
    long = SHORT.get(name, name)
    if name in by_flag([*OPTIONS, *OURS]):
        raise BadInput.of(
            "E_USAGE", where, word, f"{name} is an option of pyfi submit itself", cure=f"pyfi submit {shown(word)}"
        )
    if long in REFUSED:
        raise BadInput.of("E_USAGE", where, word, f"a pilot cannot have {name}", cure=REFUSED[long])
    if PASSED.get(long) is Takes.VALUE and value is None:
        raise BadInput.of("E_USAGE", where, word, f"a value is missing behind {name}", cure=f"--slurm-arg={long}=VALUE")
    return word


def arguments(request: ResourceRequest) -> list[str]:
    """`request` as options of sbatch, each in one word; the further ones last, so that they win."""
    found = []
    for option in OPTIONS:
        value = getattr(request, option.field)
        if value is None or (option.constant is not None and value is not option.constant):
            continue
        found.append(option.long if option.constant is not None else f"{option.long}={option.written(value)}")
    return [*found, *request.extra]


#: Fields of the request that are no options.
NO_OPTIONS = frozenset({"per", "extra", "setup"})
assert {field.name for field in dataclasses.fields(ResourceRequest)} - NO_OPTIONS == {each.field for each in OPTIONS}
