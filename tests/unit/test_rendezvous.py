"""Where an agent's workers listen for one another."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyfi_hpc.agent.pipes import rendezvous
from pyfi_hpc.agent.pipes.rendezvous import PATH_BYTES, fresh


@pytest.fixture(autouse=True)
def near(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The node's folder for short-lived files, with a short path."""
    folder = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


def test_the_folder_is_the_agents_alone_and_is_found_again_empty(near: Path) -> None:
    folder = fresh(near / "state")
    (folder / "7").touch()

    again = fresh(near / "state")

    assert again == folder and list(again.iterdir()) == []
    assert stat.S_IMODE(again.stat().st_mode) == 0o700
    assert fresh(near / "other") != folder


def test_the_users_own_runtime_folder_is_preferred(near: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = near / "own"
    own.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(own))

    assert fresh(near / "state").parent == own


def test_a_path_that_no_socket_can_have_is_not_taken(near: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = near / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))

    folder = fresh(near / "state")

    try:
        assert len(os.fsencode(folder / "123456")) <= PATH_BYTES
    finally:
        rendezvous.remove(folder)
    assert not folder.exists()


def test_what_stands_in_the_way_is_left_alone(near: Path) -> None:
    folder = fresh(near / "state")
    folder.rmdir()
    theirs = near / "theirs"
    theirs.mkdir()
    (theirs / "precious").touch()
    folder.symlink_to(theirs)

    found = fresh(near / "state")

    assert found != folder and found.parent == near
    assert (theirs / "precious").exists()
