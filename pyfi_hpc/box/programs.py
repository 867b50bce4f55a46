"""Where the programs of Debian's packages are, also for a person without sbin in PATH."""

from __future__ import annotations

import os
import shutil

from pyfi_hpc.errors import Unavailable

#: Program → its package in Debian 12.
PACKAGES = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurmdbd": "slurmdbd slurm-wlm-mysql-plugin",
    "srun": "slurm-client slurm-wlm-basic-plugins",
    "sacctmgr": "slurm-client",
    "munged": "munge",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
    "mariadb": "mariadb-client",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
}


def search_path() -> str:
    """PATH with the folders of daemons."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def program(name: str) -> str:
    """The path of a program of `PACKAGES`.

    Raises:
        Unavailable: it is not installed.
    """
    if (path := shutil.which(name, path=search_path())) is None:
        cure = f"apt-get install --no-install-recommends {PACKAGES[name]}"
        raise Unavailable("E_NO_SLURM", f"{name} is not installed", cure=cure)
    return path
