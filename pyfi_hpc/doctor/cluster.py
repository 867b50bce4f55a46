"""Slurm as far as this machine can see it, and the schedulers that ask it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial

from pyfi_hpc.config import Settings
from pyfi_hpc.doctor.findings import Finding, Mark, looked
from pyfi_hpc.errors import BadInput, Unavailable
from pyfi_hpc.slurm.command_line import DEFAULT_CONF
from pyfi_hpc.slurm.connect import launcher_for
from pyfi_hpc.slurm.launcher import Launcher, Partition


def look(settings: Settings) -> Iterator[Finding]:
    """The commands, the controller, and what the settings name; nothing more where pilots run on this machine."""
    if settings.slurm.launcher == "local":
        yield Finding(Mark.GOOD, "Slurm", "not used: pilots run on this machine (slurm.launcher is local)")
        return
    named = settings.slurm.launcher == "slurm"
    commands = list(looked("Slurm", partial(_commands, named)))
    yield from commands
    if any(finding.mark is Mark.GOOD for finding in commands):
        yield from _controller(settings, launcher_for(settings))


def _commands(named: bool) -> Iterator[Finding]:
    """sbatch, and where its configuration is; without them Slurm is missed only where the settings name it."""
    path = shutil.which("sbatch")
    missing = Mark.BAD if named else Mark.ABSENT
    if path is None:
        yield Finding(missing, "Slurm", "no sbatch here", "run it on a login node" if named else None)
    elif not _configured():
        seen = f"{path} is here, but no {DEFAULT_CONF} and no SLURM_CONF"
        yield Finding(missing, "Slurm", seen, "export SLURM_CONF=/FOLDER/slurm.conf" if named else None)
    else:
        yield Finding(Mark.GOOD, "Slurm", _version(path))


def _configured() -> bool:
    return bool(os.environ.get("SLURM_CONF") or os.environ.get("SLURM_CONF_SERVER")) or DEFAULT_CONF.exists()


def _version(path: str) -> str:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BadInput("E_NO_SLURM", f"{path} does not run: {error}", cure="apt-get install slurm-client") from error
    return done.stdout.strip()


def _controller(settings: Settings, launcher: Launcher) -> Iterator[Finding]:
    found = list(looked("slurmctld", partial(_answers, launcher)))
    yield from found
    if all(finding.mark is Mark.GOOD for finding in found):
        yield from looked("partition", partial(_partition, settings.slurm.partition, launcher))
        yield from looked("account", partial(_account, settings.slurm.account, launcher))
        yield from looked("nodes", _silent_nodes)


def _answers(launcher: Launcher) -> Iterator[Finding]:
    yield Finding(Mark.GOOD, "slurmctld", f"answers for cluster {launcher.cluster()}")


def _partition(wanted: str, launcher: Launcher) -> Iterator[Finding]:
    partitions = launcher.partitions()
    chosen = next((each for each in partitions if each.name == wanted or (not wanted and each.default)), None)
    names = ", ".join(each.name for each in partitions) or "none"
    if chosen is not None:
        yield _seen(chosen)
    elif wanted:
        cure = f"pyfi config set slurm.partition {partitions[0].name}" if partitions else "ask the administrator"
        yield Finding(Mark.BAD, "partition", f"slurm.partition is {wanted!r}, and there are: {names}", cure)
    else:
        seen = f"none is Slurm's default; there are: {names}"
        yield Finding(Mark.DOUBTFUL, "partition", seen, "pyfi config set slurm.partition NAME")


def _seen(partition: Partition) -> Finding:
    has = f"{partition.name}: {partition.nodes} nodes, up to {partition.cpus_per_node} cores and"
    seen = f"{has} {partition.gpus_per_node} GPUs each"
    if partition.up:
        return Finding(Mark.GOOD, "partition", seen)
    return Finding(Mark.DOUBTFUL, "partition", f"{partition.name} is not up: jobs wait", "sinfo")


def _silent_nodes() -> Iterator[Finding]:
    """Nodes whose slurmd does not answer slurmctld; no finding where all do."""
    command = ["sinfo", "--dead", "--noheader", "--format=%N"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable("E_SLURM", f"sinfo does not tell which nodes answer: {error}", cure="sinfo") from error
    if names := ",".join(sorted(set(done.stdout.split()))):
        yield Finding(Mark.DOUBTFUL, "nodes", f"no slurmd answers on {names}", f"scontrol show node {names}")


def _account(wanted: str, launcher: Launcher) -> Iterator[Finding]:
    accounts = launcher.accounts()
    if accounts is None or not (wanted or accounts):
        return
    told = ", ".join(sorted(accounts)) or "none"
    if wanted and wanted not in accounts:
        cure = "sacctmgr show associations user=$USER"
        yield Finding(Mark.BAD, "account", f"slurm.account is {wanted!r}, and you may charge: {told}", cure)
    else:
        yield Finding(Mark.GOOD, "account", f"{wanted or 'the default one'} of: {told}")
