"""What runs inside the user's environment needs nothing of ours that is not there."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

import pyfi_hpc
from pyfi_hpc.envs import runner

HOME = Path(pyfi_hpc.__path__[0])
OURS = ("pyfi_hpc.worker", "pyfi_hpc.wire", "pyfi_hpc.pipes", "pyfi_hpc.errors")
#: What an environment may lack, and where it is imported when a value or a pipe needs it.
ONLY_IN = {"numpy": "wire/arrays.py", "zmq": "pipes/"}
ALLOWED = sys.stdlib_module_names | {"msgspec"}


def imported(file: Path) -> Iterator[str]:
    """Every module that the file imports, except for type checkers only."""
    tree = ast.parse(file.read_text())
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def allowed(name: str, file: Path) -> bool:
    if name.split(".")[0] == "pyfi_hpc":
        return any(f"{name}.".startswith(f"{ours}.") for ours in OURS)
    if name.split(".")[0] in ONLY_IN:
        return file.relative_to(HOME).as_posix().startswith(ONLY_IN[name.split(".")[0]])
    return name.split(".")[0] in ALLOWED


def test_workers_import_only_what_their_environment_has() -> None:
    files = [HOME / "__init__.py", HOME / "errors.py"]
    files += [file for part in ("worker", "wire", "pipes") for file in (HOME / part).rglob("*.py")]
    foreign = [
        f"{file.relative_to(HOME)}: {name}" for file in files for name in imported(file) if not allowed(name, file)
    ]

    assert len(files) > 20
    assert foreign == []


def test_a_worker_starts_from_its_own_folder_and_msgspec_alone(tmp_path: Path) -> None:
    for name, content in runner.files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "msgspec").symlink_to(Path(msgspec.__path__[0]))
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import pyfi_hpc.worker.__main__, pyfi_hpc.worker.serving;"
        " print(*sorted({name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names))"
    )

    # -I -S: neither site-packages nor the working directory
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["__main__", "msgspec", "pyfi_hpc"] or done.stdout.split() == ["msgspec", "pyfi_hpc"]
