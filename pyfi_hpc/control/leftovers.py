"""What stays on disk of jobs whose agents had no time to clear up."""

from __future__ import annotations

import shutil
from pathlib import Path


def forget_job(state_dir: Path, token: str) -> None:
    """Remove the folders of an ended job's agents: locks, scratch, spools.

    A finished value that is still spooled was never acked: its call runs again, or has.
    """
    for folder in state_dir.glob(f"nodes/*/{token}"):
        shutil.rmtree(folder, ignore_errors=True)
