"""`pyfi demo`, as a newcomer runs it: it works, it tells the truth, and nothing of it is left."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pyfi_hpc import demo, verify
from pyfi_hpc.config import Settings
from pyfi_hpc.db.embedded import EmbeddedPostgres
from pyfi_hpc.demo import source
from pyfi_hpc.demo.code import make_repository
from pyfi_hpc.demo.stage import LocalStage
from pyfi_hpc.wire.ids import id_text, new_id

LINE = re.compile(r"sent (\d+)  done (\d+)  lost (\d+)  recorded twice (\d+)")


def settings_in(folder: Path) -> Settings:
    """Settings with a state directory of their own."""
    plain = Settings()
    return replace(plain, paths=replace(plain.paths, state=folder / "state", cache=folder / "cache"))


def processes_in(folder: Path) -> list[str]:
    """Command lines and working directories of this machine's processes that name `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            place = os.readlink(entry / "cwd")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if str(folder) in words or place.startswith(str(folder)):
            found.append(words)
    return found


@pytest.mark.slow
def test_every_call_is_recorded_once_though_a_worker_is_killed(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    environment = os.environ | {"PYFI_HOME": str(settings.state_dir)}
    program = "import sys; from pyfi_hpc import demo; sys.exit(demo.run())"

    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=180)

    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    sent, finished, lost, twice = map(int, LINE.fullmatch(lines[-1].replace(",", "")).groups())  # type: ignore[union-attr]
    files = len(source.files())
    assert files >= 300
    assert sent > files  # the merges as well
    assert (finished, lost, twice) == (sent, 0, 0)
    (killed,) = (line for line in lines if "SIGKILL" in line)
    assert re.fullmatch(rf"After \d+ of {files}: killed worker \d+ on core \d+ with SIGKILL", killed)
    assert sum(int(count) for count in re.findall(r"core \d+: (\d+)", lines[-2].replace(",", ""))) == sent
    assert any(re.search(r"\d+ calls in .* calls per second", line.replace(",", "")) for line in lines)
    assert not (settings.state_dir / "demo").exists()
    assert processes_in(settings.state_dir) == []


def test_it_fails_when_an_accepted_call_is_nowhere_on_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = verify.read_accepted
    missing = new_id()
    monkeypatch.setattr(source, "MOST_FILES", 12)
    monkeypatch.setattr(verify, "read_accepted", lambda path: honest(path) | {missing})
    monkeypatch.setattr("pyfi_hpc.demo.show.QUIET_SECONDS", 0.0)
    said = io.StringIO()

    status = demo.run(settings_in(tmp_path), said)

    assert status == 1
    lines = said.getvalue().splitlines()
    assert lines[-1].endswith("lost 1  recorded twice 0")
    assert any(line.startswith("I1: 1 accepted ids have no outcome") for line in lines)
    assert id_text(missing).replace("-", "")[-10:] in said.getvalue()


def test_a_second_demo_in_the_same_place_is_refused(tmp_path: Path) -> None:
    from pyfi_hpc.errors import BadInput

    settings = settings_in(tmp_path)
    with LocalStage(settings)._alone(), pytest.raises(BadInput, match="runs already"):
        demo.run(settings, io.StringIO())
    assert not EmbeddedPostgres(settings.state_dir / "demo").running()


def test_its_input_is_the_running_pythons_own_source() -> None:
    files = dict(source.files())
    assert 300 <= len(files) <= source.MOST_FILES
    assert "def getsource(" in files["inspect.py"]


def test_its_repository_holds_the_example(tmp_path: Path) -> None:
    commit = make_repository(tmp_path / "repository")
    assert re.fullmatch("[0-9a-f]{40}", commit)
    example = Path(__file__).parents[2] / "examples" / "analysis" / "code_analysis.py"
    assert (tmp_path / "repository" / "code_analysis.py").read_bytes() == example.read_bytes()
