"""Environments of the peers' own, made once and kept in `benchmarks/out`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

CACHE = Path(__file__).resolve().parent / "out"


def environment_of(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of an environment that has `requirements`; made where it is missing or others were asked for.

    Raises:
        CalledProcessError: pip's words are on standard error.
    """
    folder = CACHE / name
    python, stamp = folder / "bin" / "python", folder / "requirements.txt"
    wanted = "\n".join([sys.version, *requirements])
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *requirements], check=True, stdout=sys.stderr)
        stamp.write_text(wanted)
    return python
