"""From settings to a launcher."""

from __future__ import annotations

from pyfi_hpc.config.settings import Settings
from pyfi_hpc.slurm.launcher import Launcher


def launcher_for(settings: Settings) -> Launcher:
    """The launcher that `slurm.launcher` names; `auto` is Slurm.

    Nothing is asked, started or looked for: without Slurm's commands the first use is refused with E_NO_SLURM, so
    that no pilot runs on a login node by surprise. Slurm's own library is never loaded, which ends the process where
    Slurm is not configured.
    """
    if settings.slurm.launcher == "local":
        from pyfi_hpc.slurm.local import LocalJobs

        return LocalJobs(settings.state_dir / "jobs")
    from pyfi_hpc.slurm.command_line import SlurmCommands

    return SlurmCommands()
