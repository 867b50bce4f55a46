"""What a client command, and by it a job, sees of the variables of the process that submits."""

from __future__ import annotations

from collections.abc import Mapping

from pyfi_hpc.config.kinds import holds_password

#: Variables of Slurm that say which cluster is meant, and who asks; all others would change what is asked.
_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")
_STRIPPED = ("SLURM_", "SLURMD_", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_", "SCONTROL_", "SACCTMGR_")


def job_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables for a command, and by sbatch for the job: none that Slurm's commands obey, no password of ours.

    Options of a submission are settled before it comes here: SBATCH_* and SLURM_* must not change them again.
    """
    return {
        name: value
        for name, value in environment.items()
        if (name in _KEPT or not name.startswith(_STRIPPED))
        and not (name.startswith("PYFI_") and holds_password(value))
    }
