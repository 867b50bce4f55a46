"""What holds for every test: none of the person's own settings, state or git identity reaches it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from pyfi_hpc.db.embedded import remove_below

# a shared machine is slow at times: the time of one example says nothing
settings.register_profile("pyfi", deadline=None, print_blob=True)
settings.load_profile("pyfi")

#: Fixtures for tests of every folder.
pytest_plugins = ("tests.clusters", "tests.gpus")

GIT_IDENTITY = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Test",
    "GIT_AUTHOR_EMAIL": "test@example.org",
    "GIT_COMMITTER_NAME": "Test",
    "GIT_COMMITTER_EMAIL": "test@example.org",
}


# a run that is told to end takes its servers with it, as one that is interrupted does
signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state and a cache directory of this test run's own, in the environment; the folder of both."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PYFI_")]:
            patch.delenv(name)
        patch.setenv("PYFI_HOME", str(home / "state"))
        patch.setenv("XDG_STATE_HOME", str(home / "xdg-state"))
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        for name, value in GIT_IDENTITY.items():
            patch.setenv(name, value)
        yield home
    # as root the data of an embedded server may lie outside of its state directory
    remove_below(tmp_path_factory.getbasetemp())


_LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `root` are for the superuser, those marked `cgroup` where it may also tell devices apart."""
    missing = {"root"} if os.geteuid() else set[str]()
    missing |= set() if os.access("/sys/fs/cgroup/devices", os.W_OK) else {"cgroup"}
    barred = [item for item in items if any(item.get_closest_marker(name) for name in missing)]
    if barred:
        items[:] = [item for item in items if item not in barred]
        config.hook.pytest_deselected(items=barred)
    config.stash[_LEFT_OUT] = len(barred)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many were left out for that."""
    if count := config.stash.get(_LEFT_OUT, 0):
        terminalreporter.write_line(
            f"left out, since they need root (network namespaces, device cgroups): {count} tests"
        )
