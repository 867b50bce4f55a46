"""What a person gets who installs the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in a wheel built from a copy of the working tree, as nothing may be left in it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    for name in ("pyfi_hpc", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("slurm", "brokers", "tui"):
        (source / name).symlink_to((ROOT / name).readlink())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "out", "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (source / "out").glob("*.whl")
    return set(zipfile.ZipFile(built).namelist())


def test_every_file_of_the_package_is_in_it(wheel: set[str]) -> None:
    files = [path for path in (ROOT / "pyfi_hpc").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    wanted = {str(path.relative_to(ROOT)) for path in files}
    assert {"pyfi_hpc/errors.py", "pyfi_hpc/py.typed", "pyfi_hpc/slurm/__init__.py"} <= wanted
    assert wanted - wheel == set()


def test_it_brings_one_top_level_package_and_the_command(wheel: set[str]) -> None:
    info = {name for name in wheel if name.split("/")[0].endswith(".dist-info")}
    assert {name.split("/")[0] for name in wheel - info} == {"pyfi_hpc"}
    assert any(name.endswith("entry_points.txt") for name in info)
    assert any(name.endswith("LICENSE") for name in info)


def test_the_links_at_the_top_are_relative_and_lead_to_the_package() -> None:
    for name in ("slurm", "brokers", "tui"):
        link = ROOT / name
        assert link.readlink() == Path("pyfi_hpc") / name
        assert link.resolve() == (ROOT / "pyfi_hpc" / name).resolve()


def test_importing_the_package_imports_none_of_our_dependencies() -> None:
    program = "import sys; before = set(sys.modules); import pyfi_hpc; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    foreign = {name.split(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names
    assert foreign == {"pyfi_hpc"}


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    import pyfi_hpc

    with pytest.raises(AttributeError, match="no attribute 'nothing_of_ours'"):
        _ = pyfi_hpc.nothing_of_ours
