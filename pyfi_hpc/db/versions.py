"""Which versions of the schema there are, and whether a database's is the one that this program works with."""

from __future__ import annotations

from pathlib import Path

from pyfi_hpc.errors import BadInput

MIGRATIONS = Path(__file__).parent / "migrations"


def revisions() -> list[str]:
    """Every version that this program knows, oldest first."""
    return sorted(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def check(version: str | None, where: str) -> None:
    """The schema of the database at `where` is the one that this program knows.

    Raises:
        BadInput: E_SCHEMA, with what is to be done.
    """
    known = revisions()
    if version is None:
        raise missing(where)
    if version not in known:
        raise newer(version)
    if version != known[-1]:
        what = f"the database's schema {version} is older than this program, which needs {known[-1]}"
        raise BadInput("E_SCHEMA", what, at=where, cure="pyfi db migrate", version=version, needed=known[-1])


def missing(where: str) -> BadInput:
    """There is none."""
    return BadInput("E_SCHEMA", "the database has no schema of ours", at=where, cure="pyfi db init")


def newer(version: str) -> BadInput:
    """It was made by a later program."""
    what = f"the database's schema {version} is newer than this program, which knows {revisions()[-1]}"
    return BadInput("E_SCHEMA", what, cure="upgrade pyfi: pip install -U pyfi-hpc", version=version)
