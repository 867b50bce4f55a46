"""What values of sbatch's options look like: from the text that a person wrote to the value of a `ResourceRequest`.

Each converter takes the text and the place it was written at (`--time`, `train.sh line 3: --time`), and names both
where it refuses.

Source: sbatch(1) of Slurm 22.05.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

from pyfi_hpc.errors import BadInput, shown
from pyfi_hpc.model.names import checked_choice
from pyfi_hpc.model.request import Per

#: (text, where it was written) -> value; raises BadInput.
Converter: TypeAlias = Callable[[str, str], Any]

#: sbatch keeps it in 16 bits.
MAX_SIGNAL_SECONDS = 65_535
_LONGEST_TEXT = 1024
_SIGNALS = frozenset(
    {
        *("HUP", "INT", "QUIT", "ABRT", "KILL", "ALRM", "TERM", "USR1", "USR2"),
        *("CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU"),
    }
)
_DEPENDENCIES = ("after", "afterany", "afterok", "afternotok", "aftercorr", "afterburstbuffer", "singleton")
_JOB = r"[0-9]+(_([0-9]+|\*))?"


def text(value: str, where: str) -> str:
    """One line of text, not empty.

    Raises:
        BadInput: E_USAGE.
    """
    if not value.strip() or not value.isprintable() or len(value) > _LONGEST_TEXT:
        what = f"one line of 1 to {_LONGEST_TEXT} printable characters is wanted"
        raise BadInput.of("E_USAGE", where, value, what)
    return value


def words(value: str, where: str) -> str:
    """Text without blanks: names, a list of names, an expression.

    Raises:
        BadInput: E_USAGE.
    """
    if any(char.isspace() for char in text(value, where)):
        raise BadInput.of("E_USAGE", where, value, "blanks have no place here: names are separated by commas")
    return value


def whole(low: int, high: int) -> Converter:
    """A whole number from `low` to `high`."""

    def convert(value: str, where: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", value) or not low <= int(value) <= high:
            raise BadInput.of("E_RANGE", where, value, f"a whole number from {low} to {high} is wanted")
        return int(value)

    return convert


def nodes(value: str, where: str) -> int:
    """How many nodes; `2-2` is 2.

    Raises:
        BadInput: E_RANGE.
    """
    found = re.fullmatch(r"(?P<low>[0-9]+)-(?P<high>[0-9]+)", value)
    if found and found["low"] != found["high"]:
        what = "a pilot asks for a number of nodes, not for a range"
        raise BadInput.of("E_RANGE", where, value, what, cure=f"-N {shown(found['high'])}")
    return int(whole(1, 100_000)(found["low"] if found else value, where))


def signal_seconds(value: str, where: str) -> int:
    """How long before the time limit the warning of `[B:]USR2@120` comes; sbatch's own default is 60 seconds.

    Only the time counts: a pilot is always warned by USR2 to its batch shell, which makes its agents drain.

    Raises:
        BadInput: E_USAGE, E_CHOICE, E_RANGE.
    """
    found = re.fullmatch(r"(?:(?P<to>B):)?(?P<name>[A-Za-z0-9]+)(?:@(?P<seconds>.*))?", value)
    if not found:
        what = "a signal is written B:USR2@120, and reservations (R:) are not overlapped"
        raise BadInput.of("E_USAGE", where, value, what, cure="--drain-before 120")
    if not found["name"].isdecimal():
        checked_choice(found["name"].upper().removeprefix("SIG"), sorted(_SIGNALS), where)
    return int(seconds_before(found["seconds"] if found["seconds"] is not None else "60", where))


#: How long before the time limit a pilot begins to drain, in seconds.
seconds_before = whole(1, MAX_SIGNAL_SECONDS)


def dependency(value: str, where: str) -> str:
    """What must be first: `afterok:88121:88122,after:88123+5`, `singleton`.

    Raises:
        BadInput: E_CHOICE, E_USAGE.
    """
    for part in re.split(r"[,?]", words(value, where)):
        kind, _, jobs = part.partition(":")
        if re.fullmatch(_JOB, kind):
            continue
        checked_choice(kind, _DEPENDENCIES, where)
        if kind != "singleton" and not re.fullmatch(rf"{_JOB}(\+[0-9]+)?(:{_JOB}(\+[0-9]+)?)*", jobs):
            raise BadInput.of("E_USAGE", where, value, f"{kind} is followed by job ids", cure=f"{kind}:88121")
    return value


def export(value: str, where: str) -> str:
    """Variables that the job gets: `ALL`, `NONE`, `ALL,NAME=value`.

    Raises:
        BadInput: E_ARGUMENT for a setting of ours: Slurm shows a job's command line to everybody.
    """
    for part in text(value, where).split(","):
        name = part.partition("=")[0]
        if name.startswith("PYFI_"):
            what = f"{shown(name)} is a setting of pyfi, and what a job exports can be read by others"
            raise BadInput.of("E_ARGUMENT", where, name, what, cure="pyfi config set, or a settings file")
    return value


def per(value: str, where: str) -> Per:
    """What makes a worker: core, gpu, mig or task.

    Raises:
        BadInput: E_CHOICE.
    """
    return Per(checked_choice(value, list(Per), where))
