"""A script for `pyfi submit`: its `#SBATCH` and `#PYFI` lines ask for resources, the rest is set-up for the nodes.

Where sbatch ignores in silence, such as a directive behind the first command, this refuses with the line's number.

Source: sbatch(1) of Slurm 22.05, and how that sbatch was seen to read quotes and comments.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyfi_hpc.errors import BadInput, shown
from pyfi_hpc.model.names import nearest
from pyfi_hpc.slurm.request.options import Given, read

_DIRECTIVE = re.compile(r"#(?P<kind>SBATCH|PYFI)(?![A-Za-z0-9_])(?P<rest>.*)")
#: `#sbatch -n 8`, `#SBTACH --mem=4G`: a word and then an option.
_ALMOST = re.compile(r"#(?P<word>[A-Za-z]{3,8})[\s:]+-{1,2}[A-Za-z]")
#: Other systems' directives, which sbatch reads as its own.
_FOREIGN = re.compile(r"#(?P<word>PBS|BSUB|\$)\s+-")
_HERE = re.compile(r"(?<!<)<<-?\s*(?P<quote>['\"\\]?)(?P<end>\w+)(?P=quote)?")


@dataclass(frozen=True, slots=True)
class Script:
    """What a script asks for, and its set-up: every line that is no directive, "" where none of them does anything."""

    sbatch: tuple[Given, ...] = ()
    pyfi: tuple[Given, ...] = ()
    setup: str = ""


def read_script(text: str, name: str) -> Script:
    """The script `name`, as people call it.

    Raises:
        BadInput: E_DIRECTIVE, or that of a directive's value, with `name` and the line.
    """
    lines = text.split("\n")
    if not lines[0].startswith("#!"):
        what = f"{name} does not begin with #! and a shell"
        raise BadInput("E_DIRECTIVE", what, at=f"line 1 {shown(lines[0])!r}", cure="make its first line #!/bin/bash")
    if "\r" in text or "\0" in text:
        line = 1 + next(number for number, line in enumerate(lines) if "\r" in line or "\0" in line)
        what = f"{name} line {line} has a carriage return or NUL in it, which shells stumble over"
        raise BadInput("E_DIRECTIVE", what, at=f"line {line}", cure=f"dos2unix {name}")
    first = _first_command(lines)
    found = dict(_directives(lines, name, first))
    body = [line for number, line in enumerate(lines, 1) if number not in found]
    alone = first > len(lines) and len(lines[0].split()) == 1
    givens = [given for each in found.values() for given in each]
    return Script(
        tuple(given for kind, given in givens if kind == "SBATCH"),
        tuple(given for kind, given in givens if kind == "PYFI"),
        "" if alone else "\n".join(body).rstrip("\n") + "\n",
    )


def _first_command(lines: Sequence[str]) -> int:
    """The number of the first line that is neither blank nor a comment; one past the end for none."""
    commands = (number for number, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#"))
    return next(commands, len(lines) + 1)


def _directives(lines: Sequence[str], name: str, first: int) -> Iterator[tuple[int, list[tuple[str, Given]]]]:
    """(line number, what it asks for) of each directive."""
    for number, line in _shell_lines(lines):
        found = _DIRECTIVE.fullmatch(line)
        if not found:
            if number < first:
                _check_comment(line, number, name)
        elif number > first:
            raise _late(lines, name, number, first)
        else:
            kind, where = found["kind"], f"{name} line {number}"
            words = _words(found["rest"], line, where)
            given = read(words, where, ours=kind == "PYFI", code="E_DIRECTIVE")
            yield number, [(kind, each) for each in given]


def _shell_lines(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The lines that the shell reads itself, with their numbers: the texts of here-documents are left out."""
    ends: list[str] = []
    for number, line in enumerate(lines, 1):
        if ends:
            if line.lstrip("\t") == ends[0]:
                ends.pop(0)
            continue
        if not line.lstrip().startswith("#"):
            ends += [found["end"] for found in _HERE.finditer(line)]
        yield number, line


def _words(rest: str, line: str, where: str) -> list[str]:
    try:
        return shlex.split(rest, comments=True)
    except ValueError as error:
        raise BadInput.of("E_DIRECTIVE", where, line, f"the quotes of the line do not fit: {error}") from error


def _late(lines: Sequence[str], name: str, number: int, first: int) -> BadInput:
    what = f"{name} line {number}: {shown(lines[number - 1])!r} comes after the first command"
    at = f"line {first} {shown(lines[first - 1].strip())!r} ended the directives"
    return BadInput("E_DIRECTIVE", what, at=at, cure=f"move line {number} above line {first}", line=number)


def _check_comment(line: str, number: int, name: str) -> None:
    """Refuse what was meant as a directive and is a comment to sbatch; `##SBATCH` and `# SBATCH` are switched off."""
    where = f"{name} line {number}"
    if _DIRECTIVE.fullmatch(line.lstrip()):
        cure = "take away the blanks before it, or write ## to switch it off"
        raise BadInput.of("E_DIRECTIVE", where, line, "a directive begins its line", cure=cure)
    if foreign := _FOREIGN.match(line):
        what = f"directives of another system, #{foreign['word']}, are not read"
        raise BadInput.of("E_DIRECTIVE", where, line, what, cure="write it as #SBATCH")
    almost = _ALMOST.match(line)
    near = nearest(almost["word"].upper(), ["SBATCH", "PYFI"]) if almost else None
    if almost and near:
        raise BadInput.of("E_DIRECTIVE", where, line, f"no directive #{almost['word']}", cure=f"did you mean #{near}?")
