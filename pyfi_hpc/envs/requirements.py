"""What a person says of the packages that a processor needs, and what is said of one that it lacks."""

from __future__ import annotations

import re

from pyfi_hpc.errors import BadInput

#: A line that is a file's name, with `-r` or without; one that the build can see is below `source/` or absolute.
_FILE = re.compile(r"\s*(?:-r\s*|--requirement[\s=]\s*)?(?!source/|/)([^\s#;@:]+\.(?:txt|in|lock|toml))\s*")
_MISSING = re.compile(r"ModuleNotFoundError: No module named '(\w+)")


def checked(text: str) -> str:
    """`text`, one requirement a line as in a requirements file.

    Raises:
        BadInput: E_USAGE, a line is the name of a file, which nobody would read.
    """
    for line in text.splitlines():
        if found := _FILE.fullmatch(line):
            what = f"requirements are packages, not a file's name: {found[1]}"
            cure = (
                "commit it as requirements.txt, which is read by itself; or name packages: -rq numpy -rq 'scipy>=1.11'"
            )
            raise BadInput.of("E_USAGE", "requirements", line, what, cure=cure)
    return text


def cure(processor: str, said: str) -> str | None:
    """What helps where a module could not be imported, which is told by `said`; None where no package is missing."""
    if not (found := _MISSING.search(said)):
        return None
    update = f"pyfi update processor {processor}"
    return (
        f"{update} -rq {found[1]}; or name it in requirements.txt of the repository, commit that, {update} -br BRANCH"
    )
