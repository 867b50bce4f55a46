"""What is handed to Slurm for a job on record: the script, and the settings file that its agents read."""

from __future__ import annotations

import sys
from pathlib import Path

from pyfi_hpc.config import Settings
from pyfi_hpc.control import credentials
from pyfi_hpc.db.jobs import Wanted
from pyfi_hpc.slurm.launcher import Launcher, Submission
from pyfi_hpc.slurm.request.script import make_submission, output_pattern
from pyfi_hpc.slurm.request.slots import slots

__all__ = ["Preparer", "slots"]


class Preparer:
    """Prepares jobs with the settings of this process: what its agents may reach is what it may reach."""

    def __init__(self, settings: Settings, launcher: Launcher) -> None:
        self._settings, self._launcher = settings, launcher

    def __call__(self, wanted: Wanted) -> tuple[Submission, str | None]:
        """Write the job's settings file, make its script; see `acting.Prepare`."""
        settings = self._settings
        state = settings.state_dir.absolute()
        submission = make_submission(
            wanted.request,
            token=wanted.token,
            network=settings.agent.network,
            python=settings.slurm.python or sys.executable,
            ini=credentials.write(credentials.folder(settings), wanted.token, settings),
            step=self._launcher.step,
            processor_name=wanted.processor or "",
            state_dir=state,
        )
        # Slurm takes a path that is not whole from the job's working directory
        folder = Path(wanted.request.chdir or Path.cwd())
        return submission, str(folder / output_pattern(wanted.request, state))
