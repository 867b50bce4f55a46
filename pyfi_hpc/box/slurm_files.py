"""What Slurm reads: its configuration files as text, from a few facts about the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyfi_hpc.box.accounting import Database

#: Type of every GPU, as in `gpu:h100:2`.
GPU_TYPE = "h100"


@dataclass(frozen=True)
class Node:
    """One slurmd. `hostname` is what the machine that it runs on calls itself; several nodes may share one."""

    name: str
    hostname: str
    address: str
    port: int


@dataclass(frozen=True)
class Plan:
    """All that the files say; memory in MiB, and every node has the devices of `gpu_files`, in order of index."""

    name: str
    home: Path
    user: str
    controller: Node
    nodes: Sequence[Node]
    cpus: int
    mem_mib: int
    gpu_files: Sequence[Path]
    cgroups: bool = False
    database: Database | None = None
    dbd_port: int = 0
    extra: Sequence[str] = ()

    @property
    def etc(self) -> Path:
        """Where the files are."""
        return self.home / "etc"

    @property
    def conf(self) -> Path:
        """What SLURM_CONF names."""
        return self.etc / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        """Where munged is asked."""
        return self.home / "munge" / "socket"


def files(plan: Plan) -> dict[str, str]:
    """Name → text of each file below `etc`."""
    made = {"slurm.conf": slurm_conf(plan), "gres.conf": gres_conf(plan)}
    if plan.cgroups:
        made["cgroup.conf"] = CGROUP
    if plan.database:
        made["slurmdbd.conf"] = slurmdbd_conf(plan, plan.database)
    return made


def slurm_conf(plan: Plan) -> str:
    """slurm.conf, with times short enough for tests. Source: slurm.conf(5) of 22.05."""
    home, head = plan.home, plan.controller
    lines = [
        f"ClusterName={plan.name}",
        f"SlurmctldHost={head.hostname}({head.address})",
        f"SlurmctldPort={head.port}",
        f"SlurmUser={plan.user}",
        f"SlurmdUser={plan.user}",
        f"StateSaveLocation={home}/state",
        f"SlurmctldPidFile={home}/run/slurmctld.pid",
        f"SlurmctldLogFile={home}/log/slurmctld.log",
        f"SlurmdPidFile={home}/run/slurmd.%n.pid",
        f"SlurmdSpoolDir={home}/spool/%n",
        f"SlurmdLogFile={home}/log/slurmd.%n.log",
        "AuthType=auth/munge",
        # a job that is requeued waits until its credential has run out: 5 s is the least, 121 s the default
        f"AuthInfo=socket={plan.munge_socket},cred_expire=5",
        # more CPUs and memory than the machine has
        "SlurmdParameters=config_overrides",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        # a job that does not say would get all memory of its nodes
        f"DefMemPerCPU={plan.mem_mib // plan.cpus}",
        "GresTypes=gpu",
        "MpiDefault=none",
        "SwitchType=switch/none",
        "MailProg=/bin/true",
        # a node that is lost is `down` after some 9 s, and back as soon as it is up
        "SlurmdTimeout=5",
        "MessageTimeout=2",
        "ReturnToService=2",
        "CompleteWait=0",
        "KillWait=2",
        "MinJobAge=300",
        "MaxJobCount=50000",
        "MaxArraySize=20001",
        # the default delay of a batch job is 3 s, for which an idle cluster looks dead
        "SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1",
        *(_CGROUP_LINES if plan.cgroups else _PLAIN_LINES),
        *(_accounting(plan) if plan.database else _jobs_to_file(plan)),
        *(_node(plan, node) for node in plan.nodes),
        "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
        "PartitionName=gpu Nodes=ALL MaxTime=01:00:00 DefaultTime=00:10:00 State=UP",
        *plan.extra,
    ]
    return "\n".join(lines) + "\n"


#: Nothing is bound: most CPUs are only claimed.
_PLAIN_LINES = (
    "ProctrackType=proctrack/linuxproc",
    "TaskPlugin=task/none",
    "JobAcctGatherType=jobacct_gather/linux",
    "JobAcctGatherFrequency=task=5",
)
#: Limits of memory and devices are real; cores are bound only where a job asks for it.
_CGROUP_LINES = (
    "ProctrackType=proctrack/cgroup",
    "TaskPlugin=task/affinity,task/cgroup",
    "TaskPluginParam=none",
    "JobAcctGatherType=jobacct_gather/cgroup",
    "JobAcctGatherFrequency=task=5",
)
CGROUP = "CgroupPlugin=autodetect\nConstrainCores=no\nConstrainRAMSpace=yes\nConstrainDevices=yes\n"


def _node(plan: Plan, node: Node) -> str:
    gres = f" Gres=gpu:{GPU_TYPE}:{len(plan.gpu_files)}" if plan.gpu_files else ""
    where = f"NodeHostname={node.hostname} NodeAddr={node.address} Port={node.port}"
    return f"NodeName={node.name} {where} CPUs={plan.cpus} RealMemory={plan.mem_mib}{gres} State=UNKNOWN"


def _accounting(plan: Plan) -> list[str]:
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        f"AccountingStorageHost={plan.controller.address}",
        f"AccountingStoragePort={plan.dbd_port}",
        # AuthInfo is not used towards slurmdbd
        f"AccountingStoragePass={plan.munge_socket}",
        "AccountingStorageEnforce=associations,limits,qos",
        f"AccountingStorageTRES=gres/gpu,gres/gpu:{GPU_TYPE}",
        "PreemptType=preempt/qos",
        "PreemptMode=REQUEUE",
        "PriorityType=priority/multifactor",
        "PriorityWeightQOS=1000",
    ]


def _jobs_to_file(plan: Plan) -> list[str]:
    return [
        "AccountingStorageType=accounting_storage/none",
        "JobCompType=jobcomp/filetxt",
        f"JobCompLoc={plan.home}/log/jobs",
    ]


def gres_conf(plan: Plan) -> str:
    """gres.conf: one line a device, so that the index of a GPU is the place of its file.

    The files must be character devices, or Slurm gives no CUDA_VISIBLE_DEVICES. Source: gres.conf(5).
    """
    names = ",".join(node.name for node in plan.nodes)
    lines = [f"NodeName={names} Name=gpu Type={GPU_TYPE} File={file}" for file in plan.gpu_files]
    return "\n".join(["AutoDetect=off", *lines]) + "\n"


def slurmdbd_conf(plan: Plan, database: Database) -> str:
    """slurmdbd.conf, with a password: for nobody else's eyes. Source: slurmdbd.conf(5)."""
    head = plan.controller
    lines = [
        f"DbdHost={head.hostname}",
        f"DbdAddr={head.address}",
        f"DbdPort={plan.dbd_port}",
        f"SlurmUser={plan.user}",
        "AuthType=auth/munge",
        f"AuthInfo=socket={plan.munge_socket}",
        f"LogFile={plan.home}/log/slurmdbd.log",
        f"PidFile={plan.home}/run/slurmdbd.pid",
        "StorageType=accounting_storage/mysql",
        "StorageHost=127.0.0.1",
        f"StoragePort={database.port}",
        "StorageUser=slurm",
        f"StoragePass={database.password}",
        "StorageLoc=slurm_acct",
    ]
    return "\n".join(lines) + "\n"
