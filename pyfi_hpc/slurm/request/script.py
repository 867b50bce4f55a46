"""The job script of a pilot: one template, every value quoted, nothing secret in it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

from pyfi_hpc.errors import BadInput, shown
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.slurm.launcher import TOKEN_MARK, Submission
from pyfi_hpc.slurm.request.options import arguments

#: How long before the time limit a pilot begins to drain. Slurm may warn up to 60 s early and end it some seconds late.
DRAIN_SECONDS = 120
#: The set-up travels as one argument of the step. Source: MAX_ARG_STRLEN of Linux, 128 KiB.
MAX_SETUP_BYTES = 100_000
#: Further options that a pilot has unless its request says otherwise, by long name.
_UNLESS = {"--no-kill": "--no-kill", "--open-mode": "--open-mode=append"}
_SHELLS = frozenset({"bash", "sh", "dash", "ksh", "zsh"})
_MARK = re.compile(r"@([A-Z]+)@")
_PLAIN = re.compile(r"[\w@%+=:,./~-]+", re.ASCII)


def make_submission(
    request: ResourceRequest,
    *,
    token: str,
    network: str,
    python: str,
    ini: Path,
    step: Sequence[str],
    processor_name: str,
    state_dir: Path,
) -> Submission:
    """The finished script and the sbatch options for one pilot.

    `python` is the interpreter on the nodes and `ini` the job's settings file there. `step` are the launcher's words
    before the agent's command; the shell expands them. `state_dir` must have a folder `jobs` where the output goes.

    Raises:
        BadInput: E_LIMIT, a set-up that is too long; E_DIRECTIVE, one that no shell runs; E_USAGE, a value of more than
            one line.
    """
    options = arguments(with_defaults(request, token, processor_name, state_dir))
    for option in options:
        if not option.isprintable():
            raise BadInput.of("E_USAGE", "request", option, "an option of sbatch is one line of printable characters")
    agent = [python, "-P", "-m", "pyfi_hpc.agent.main", "--respawn", "--network", network, "--job", token]
    grant = f"export SLURM_CPUS_PER_TASK={request.cpus_per_task}" if request.cpus_per_task else "# one core a task"
    setup = checked_setup(request.setup)
    values = {
        "DIRECTIVES": "\n".join(f"#SBATCH {_directive(option)}" for option in options),
        "PROCESSOR": f"processor {shown(processor_name)!r}",
        "INI": shlex.quote(str(ini)),
        "SETUP": setup or "# (none)",
        "GRANT": grant,
        "AGENT": shlex.join(agent),
        "STEP": " ".join(step),
        "SHELL": shlex.join(shell_of(setup)),
    }
    return Submission(token, _filled(values), tuple(options))


def with_defaults(request: ResourceRequest, token: str, processor_name: str, state_dir: Path) -> ResourceRequest:
    """`request` with what a pilot has unless a person said otherwise."""
    given = {word.partition("=")[0] for word in request.extra}
    extra = [word for name, word in _UNLESS.items() if name not in given]
    return replace(
        request,
        job_name=request.job_name or f"pyfi-{processor_name}",
        output=request.output or output_pattern(request, state_dir),
        requeue=True if request.requeue is None else request.requeue,
        signal_seconds=request.signal_seconds or DRAIN_SECONDS,
        comment=f"{TOKEN_MARK}{token}{f' {request.comment}' if request.comment else ''}",
        extra=(*extra, *request.extra),
    )


def output_pattern(request: ResourceRequest, state_dir: Path) -> str:
    """Where the job's output goes, with Slurm's `%` patterns in it. Source: sbatch(1), "filename pattern"."""
    if request.output:
        return request.output
    name = "%A_%a.out" if request.array else "%j.out"
    return f"{str(state_dir / 'jobs').replace('%', '%%')}/{name}"


def checked_setup(setup: str) -> str:
    """`setup`, when it can travel.

    Raises:
        BadInput: E_LIMIT, E_DIRECTIVE.
    """
    if len(setup.encode(errors="surrogateescape")) > MAX_SETUP_BYTES:
        what = f"the set-up is longer than {MAX_SETUP_BYTES} bytes"
        raise BadInput("E_LIMIT", what, at="script", cure="put it into a file that the nodes see: source FILE")
    if "\0" in setup or "\r" in setup:
        what = "the set-up has NUL or carriage return characters in it, which shells stumble over"
        raise BadInput("E_DIRECTIVE", what, at="script", cure="dos2unix FILE")
    shell_of(setup)
    return setup.rstrip("\n")


def shell_of(setup: str) -> list[str]:
    """The shell that runs it: as its `#!` line says, else bash.

    Raises:
        BadInput: E_DIRECTIVE, the line names something else.
    """
    first = setup.partition("\n")[0]
    if not first.startswith("#!"):
        return ["/bin/bash"]
    words = first[2:].split()
    if not any(Path(word).name in _SHELLS for word in words[:2]):
        what = "a pilot's script is set-up for a shell: the agents are started behind it"
        cure = "begin it with #!/bin/bash; the work itself is run by pyfi call"
        raise BadInput("E_DIRECTIVE", what, at=f"line 1 {shown(first)!r}", cure=cure)
    return words


def _directive(option: str) -> str:
    """`option` as a word of a `#SBATCH` line: sbatch takes a backslash for an escape, in all quotes."""
    if _PLAIN.fullmatch(option):
        return option
    name, equals, value = option.partition("=")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}{equals}"{escaped}"'


def _filled(values: dict[str, str]) -> str:
    template = (resources.files("pyfi_hpc.slurm.request") / "pilot.sbatch").read_text()
    # a line that ends the text early cannot be told from its end
    end = "PYFI_END"
    lines = {line for value in values.values() for line in value.split("\n")}
    while end in lines:
        end += "_"
    # one pass: a mark inside of a value stays as it is
    return _MARK.sub(lambda mark: {**values, "END": end}[mark[1]], template)
