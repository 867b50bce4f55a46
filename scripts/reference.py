"""Writes docs/reference.md from the tables that the program itself works with: `python scripts/reference.py [FILE]`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import click

from pyfi_hpc.agent.commit.verdicts import MAX_RETURNS
from pyfi_hpc.cli.command import Command
from pyfi_hpc.cli.main import pyfi
from pyfi_hpc.cli.reporting import EXIT_CODES
from pyfi_hpc.config.sections import KEYS
from pyfi_hpc.config.settings import displayed
from pyfi_hpc.errors import CODES
from pyfi_hpc.model import status
from pyfi_hpc.slurm import states
from pyfi_hpc.wire import limits

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"

INTRODUCTION = """# Reference

Made by `python scripts/reference.py` from the tables that the program works with; a test holds the two together.

[Exit codes](#exit-codes) · [Settings](#settings) · [Statuses](#statuses) · [Causes](#causes) ·
[Slurm's reasons](#slurms-reasons) · [Limits](#limits) · [Error codes](#error-codes) · [Commands](#commands)"""

SETTINGS = """Later ones win: the site's `/etc/pyfi/pyfi.ini`, your own `~/.config/pyfi/pyfi.ini`, the `pyfi.ini` of the
folder you are in or above it, the files of `PYFI_INI` and `-i`, variables, options. In a file, `git.allow` is the key
`allow` of the section `[git]`.
`pyfi config show` tells the value of each, `--origin` where it comes from."""

REASONS = """What `pyfi ls jobs` says under WHY, of a job that waits or has ended. The limits of accounts and QOS, of
which Slurm has about a hundred (`AssocGrpCpuLimit`, `QOSMaxJobsPerUserLimit`, …), are put into words by their parts."""

#: Variables that are no settings, and what they do.
SPECIAL = {
    "PYFI_HOME": "a short name of `PYFI_PATHS_STATE`",
    "PYFI_INI": "a settings file, read just before that of `-i`: all that a job's environment says of passwords",
    "PYFI_ACCEPTED_LOG": "a file: clients append the id of each accepted call, for `pyfi verify --accepted`",
    "PYFI_FAILPOINT": "for tests: make a process die or stop at a named place",
}

#: What has statuses, where each may go from, in which table.
MOVES: Sequence[tuple[str, Mapping[Any, frozenset[Any]]]] = (
    ("Processor, requested", status.REQUESTED_NEXT),
    ("Processor, observed", status.PROCESSOR_NEXT),
    ("Worker", status.WORKER_NEXT),
    ("Outcome of an invocation", status.OUTCOME_NEXT),
)
#: What has statuses that go anywhere.
PLAIN: Sequence[tuple[str, type[StrEnum]]] = (
    ("Node", status.NodeStatus),
    ("Hold row", status.HoldState),
    ("Attempt", status.AttemptStatus),
    ("Queue type", status.QueueType),
)

LIMITS = {
    "one frame or message": limits.FRAME_BYTES,
    "a value that travels in its message; a larger one becomes a blob": limits.INLINE_BYTES,
    "a value inside a reply; a larger one is read from the record": limits.REPLY_INLINE_BYTES,
    "output kept of an attempt, for each stream": limits.OUTPUT_TAIL_BYTES,
}


def page() -> str:
    """The whole page."""
    parts = [
        INTRODUCTION,
        "## Exit codes",
        table(("code", "meaning"), ((str(code), meaning) for code, meaning in EXIT_CODES.items())),
        "## Settings",
        SETTINGS,
        table(("setting", "variable", "default", "meaning"), _settings()),
        "And some variables that are no settings:",
        table(("variable", "meaning"), ((f"`{name}`", meaning) for name, meaning in SPECIAL.items())),
        "## Statuses",
        "The database enforces these tables: no other status, and no other way from one to the next.",
        *_statuses(),
        "## Causes",
        "Why an attempt gave no value, and what that costs its invocation.",
        table(("cause", "what follows"), ((f"`{cause}`", _follows(cause)) for cause in status.Cause)),
        "## Slurm's reasons",
        REASONS,
        table(("reason or state", "the job", "what helps"), _reasons()),
        "## Limits",
        table(("of", "bytes"), ((what, f"{size:,}") for what, size in LIMITS.items())),
        "## Error codes",
        table(("code", "meaning"), ((f"`{code}`", meaning) for code, meaning in sorted(CODES.items()))),
        "## Commands",
        "`pyfi COMMAND --help` shows the same.",
        *_commands(),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _settings() -> Iterator[tuple[str, ...]]:
    for name, key in KEYS.items():
        default = displayed(key.default)
        yield f"`{name}`", f"`{key.variable}`", f"`{default}`" if default else "–", key.meaning


def _statuses() -> Iterator[str]:
    for title, moves in MOVES:
        yield f"### {title}"
        yield _doc(type(next(iter(moves))))
        yield table(("from", "to"), ((f"`{came}`", _listed(went)) for came, went in moves.items()))
    for title, kind in PLAIN:
        yield f"### {title}"
        yield f"{_doc(kind)} {', '.join(f'`{each}`' for each in kind)}."


def _doc(kind: type[StrEnum]) -> str:
    return inspect.cleandoc(kind.__doc__ or "").replace("\n", " ")


def _listed(members: frozenset[StrEnum]) -> str:
    order = list(type(next(iter(members)))) if members else []
    return ", ".join(f"`{each}`" for each in order if each in members) or "– (stays)"


def _follows(cause: status.Cause) -> str:
    if cause in status.NEVER_RETRIED:
        return "outcome FAILED at once: another attempt cannot mend it"
    if cause in status.SPENDS_BUDGET:
        return "one attempt of the retry budget is spent"
    return f"tried again at no cost, up to {MAX_RETURNS} times"


def _reasons() -> Iterator[tuple[str, ...]]:
    for reason, words in states.REASONS.items():
        yield f"`{reason}`", words.what, words.cure or "–"


def _commands() -> Iterator[str]:
    for path, command in _walk("pyfi", pyfi):
        ctx = click.Context(command, info_name=path)
        yield f"### `{path}`"
        yield from (" ".join(part.split()) for part in inspect.cleandoc(command.help or "").split("\n\n"))
        yield f"    {' '.join([path, *command.collect_usage_pieces(ctx)])}"
        if options := [_option(each, ctx) for each in command.params if isinstance(each, click.Option)]:
            yield table(("option", "meaning"), options)
        if isinstance(command, Command) and command.examples:
            yield "```\n" + "\n".join(command.examples) + "\n```"


def _walk(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Every command, and every group with options of its own, by its whole name."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    if any(not option.is_eager for option in command.params):
        yield path, command
    ctx = click.Context(command, info_name=path)
    for name in command.list_commands(ctx):
        found = command.get_command(ctx, name)
        assert found is not None, name
        yield from _walk(f"{path} {name}", found)


def _option(option: click.Option, ctx: click.Context) -> tuple[str, str]:
    spelt, meaning = option.get_help_record(ctx) or (", ".join(option.opts), "")
    return f"`{spelt}`", meaning.replace("  [", " [")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    target.write_text(page())
    print(f"wrote {target}")
