"""The files of a job: where its output is, and what its agents are told."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pyfi_hpc.config import Settings
from pyfi_hpc.config.sections import Agent, Broker, Database, Git, Paths, Slurm
from pyfi_hpc.control import credentials, outputs


@pytest.mark.parametrize(
    ("pattern", "job", "filled"),
    [
        ("/s/jobs/%j.out", "88121", "/s/jobs/88121.out"),
        ("/s/%8j.out", "88121", "/s/00088121.out"),
        ("/s/%x-%u-%j.out", "7", "/s/train-ana-7.out"),
        ("/s/%A_%a.out", "7_3", "/s/7_3.out"),
        ("/s/%A_%4a.out", "7_3", "/s/7_0003.out"),
        ("/s/%A_%a.out", "7", "/s/7_*.out"),
        ("/s/%j.out", "7_3", "/s/*.out"),
        ("/s/%j-%N.out", "7", "/s/7-*.out"),
        ("/s/100%%.out", "7", "/s/100%.out"),
    ],
)
def test_slurms_patterns_are_filled_in(pattern: str, job: str, filled: str) -> None:
    assert outputs.filled(pattern, job, "train", "ana") == filled


def test_the_files_of_an_array_are_found(tmp_path: Path) -> None:
    for name in ("7_0.out", "7_1.out", "8_0.out"):
        (tmp_path / name).touch()
    pattern = f"{tmp_path}/%A_%a.out"
    assert [file.name for file in outputs.files(pattern, "7")] == ["7_0.out", "7_1.out"]
    assert [file.name for file in outputs.files(pattern, "7_1")] == ["7_1.out"]
    assert outputs.files(pattern, "9_0") == []


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A submitter's own."""
    return Settings(
        database=Database(uri="postgresql://ana:hunter2@db/pyfi"),
        broker=Broker(uri="amqp://ana:hunter2@mq/pyfi"),
        git=Git(allow=("https://git.example/", "file:///srv/git")),
        slurm=Slurm(partition="gpu"),
        agent=Agent(cores="0-3", shared_cores=True, network="lab"),
        paths=Paths(state=tmp_path / "state", cache=tmp_path / "cache"),
    )


def test_an_agent_is_told_what_its_submitter_uses(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYFI_HOME")
    told = Settings.load(credentials.write(credentials.folder(settings), "a" * 32, settings))
    assert (told.database, told.broker, told.git) == (settings.database, settings.broker, settings.git)
    assert (told.state_dir, told.cache_dir, told.blob_dir) == (
        settings.state_dir,
        settings.cache_dir,
        settings.blob_dir,
    )
    assert told.agent.network == "lab"


def test_the_cores_of_the_submitters_machine_are_not_the_nodes(settings: Settings) -> None:
    assert "cores =" not in credentials.as_ini(settings)


def test_only_its_owner_can_read_it(settings: Settings) -> None:
    folder = credentials.folder(settings)
    file = credentials.write(folder, "a" * 32, settings)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (settings.state_dir, folder, file)]
    assert modes == [0o700, 0o700, 0o600]
    assert [path.name for path in folder.iterdir()] == [file.name], "nothing else is left there"


def test_the_files_of_ended_jobs_go_and_no_others(tmp_path: Path) -> None:
    for name in (f"{'a' * 32}.ini", f"{'b' * 32}.ini", "pyfi.ini", f"{'a' * 32}.out"):
        (tmp_path / name).touch()
    assert credentials.sweep(tmp_path, lambda tokens: {token for token in tokens if token.startswith("a")}) == 1
    assert {path.name for path in tmp_path.iterdir()} == {f"{'b' * 32}.ini", "pyfi.ini", f"{'a' * 32}.out"}
    assert credentials.sweep(tmp_path / "absent", lambda tokens: tokens) == 0
