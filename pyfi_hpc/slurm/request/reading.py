"""A script's file, on its way to what it asks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pyfi_hpc.errors import BadInput, shown
from pyfi_hpc.slurm.request.directives import Script, read_script
from pyfi_hpc.slurm.request.script import checked_setup, shell_of

#: Longer than any script that a person writes; sbatch takes 4 MiB.
MAX_BYTES = 1024 * 1024
_SYNTAX_SECONDS = 10.0


def script_from(path: str) -> Script:
    """The script at `path`, `-` for standard input: its directives are read, and its shell can read the rest.

    Raises:
        BadInput: E_NOT_FOUND, E_LIMIT, E_DIRECTIVE, or that of a directive's value.
    """
    name = "standard input" if path == "-" else shown(path)
    text = _text(path, name)
    script = read_script(text, name)
    if checked_setup(script.setup):
        _check_syntax(text, name, shell_of(script.setup))
    return script


def _text(path: str, name: str) -> str:
    try:
        with sys.stdin.buffer if path == "-" else open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        what = f"script {name!r} cannot be read: {error.strerror}"
        raise BadInput.of("E_NOT_FOUND", "SCRIPT", path, what, cure=f"ls -l {shown(str(Path(path).parent))}") from error
    if len(data) > MAX_BYTES:
        raise BadInput.of("E_LIMIT", "SCRIPT", path, f"script {name!r} is longer than {MAX_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"{name} line {line} is not text in UTF-8"
        raise BadInput("E_DIRECTIVE", what, at=f"line {line}", cure="a pilot's script is set-up for a shell") from error


def _check_syntax(text: str, name: str, shell: list[str]) -> None:
    """Refuse what the shell itself cannot read: a node would go without its set-up."""
    program = [word for word in shell if not word.startswith("-")]
    try:
        done = subprocess.run([*program, "-n"], input=text.encode(), capture_output=True, timeout=_SYNTAX_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return  # a shell that only the nodes have
    told = done.stderr.decode(errors="replace").strip().split("\n")[0]
    if done.returncode and told:
        raise BadInput("E_DIRECTIVE", f"{name} is not what its shell can read: {told}", at=name, cure=f"bash -n {name}")
