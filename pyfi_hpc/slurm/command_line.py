"""Slurm by its commands: sbatch, squeue, scancel, sinfo, and sacct where the site keeps accounts."""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from pyfi_hpc.errors import BadInput, Unavailable
from pyfi_hpc.logs import logger
from pyfi_hpc.model.status import JobStatus
from pyfi_hpc.slurm import parsing
from pyfi_hpc.slurm.environment import job_environment
from pyfi_hpc.slurm.launcher import JobId, Observation, Partition, Submission
from pyfi_hpc.slurm.states import known

log = logger()

#: Where Slurm looks for its configuration without SLURM_CONF. Source: slurm.conf(5).
DEFAULT_CONF = Path("/etc/slurm/slurm.conf")
#: Settings of AccountingStorageEnforce under which an unknown account is refused. Source: slurm.conf(5).
_ENFORCING = {"associations", "limits", "qos", "safe", "wckeys", "all"}
#: How far back a token is looked for among jobs that the controller has forgotten. Source: sacct(1), time formats.
_LATELY = "now-7days"
#: Word in a refusal → how to find what would be accepted.
_CURES: Mapping[str, str] = {
    "qos": "sacctmgr show associations user=$USER format=account,qos lists what is allowed",
    "account": "sacctmgr show associations user=$USER lists the accounts",
    "partition": "sinfo lists the partitions",
    "time": "scontrol show partition has the longest time",
    "node": "sinfo --Node --long lists what the nodes have",
    "memory": "sinfo --Node --long lists what the nodes have",
    "gres": "sinfo --format='%N %G' lists what the nodes have",
}
#: Commands that ask slurmdbd; all others ask slurmctld.
_OF_ACCOUNTING = ("sacct", "sacctmgr")


class SlurmCommands:
    """The launcher of a machine with Slurm's client commands; for this user's jobs.

    Attributes:
        queries: command → how often it was run; each is a question to slurmctld (sacct and sacctmgr: to slurmdbd).
    """

    kind = "slurm"
    #: Raw shell words, to be written into a job script as they are: two of them are quoted variables of the job.
    #: Without explicit `-N -n` a step takes the job's `-n`, and starts several agents a node. Source: srun(1).
    step: Sequence[str] = (
        "srun",
        "-N",
        '"$SLURM_JOB_NUM_NODES"',
        "-n",
        '"$SLURM_JOB_NUM_NODES"',
        "--ntasks-per-node=1",
        "--no-kill",
        "--kill-on-bad-exit=0",
        "--cpu-bind=none",
        "--gpu-bind=none",
    )

    def __init__(
        self,
        *,
        environment: Mapping[str, str] | None = None,
        patience_seconds: float = 30.0,
        submit_patience_seconds: float = 60.0,
    ) -> None:
        """Nothing is asked yet. `environment` are variables over this process's own, such as SLURM_CONF.

        A command that has not answered after `patience_seconds` is given up; sbatch has its own, longer time,
        for one that is given up leaves behind a question: was the job queued?
        """
        self.queries: Counter[str] = Counter()
        self._extra = dict(environment or {})
        self._patience, self._submit_patience = patience_seconds, submit_patience_seconds
        self._strange: set[str] = set()

    # jobs

    def submit(self, submission: Submission) -> JobId:
        printed = self._sbatch(submission, "--parsable").stdout
        job = parsing.submitted(printed)
        if job is None:
            raise self._unavailable("sbatch", f"it printed no job id but {printed.strip()[:200]!r}")
        log.info("job submitted", job=job, token=submission.token)
        return job

    def test(self, submission: Submission) -> str:
        return parsing.said(self._sbatch(submission, "--test-only").stderr)

    def _sbatch(self, submission: Submission, *options: str) -> subprocess.CompletedProcess[str]:
        arguments = (*options, *submission.arguments)
        done = self._run("sbatch", *arguments, script=submission.script, patience=self._submit_patience)
        told = parsing.said(done.stderr)
        if done.returncode == 0:
            return done
        if parsing.no_answer(told):
            raise self._unavailable("sbatch", told)
        raise _refused(told, arguments)

    def observe(self, jobs: Collection[JobId]) -> Mapping[JobId, Observation]:
        if not jobs:
            return {}
        found = parsing.by_id(self._queue())
        forgotten = sorted(set(jobs) - set(found))
        if forgotten and self._accounts_kept:
            found = parsing.by_id(self._records("--jobs", ",".join(forgotten))) | found
        return {job: found.get(job) or Observation(job, JobStatus.UNKNOWN) for job in jobs}

    def find(self, tokens: Collection[str]) -> Mapping[str, Observation]:
        if not tokens:
            return {}
        found = parsing.by_token(self._queue(), tokens)
        missing = set(tokens) - set(found)
        if missing and self._comments_kept:
            found |= parsing.by_token(self._records("--user", self._user, "--starttime", _LATELY), missing)
        return found

    def cancel(self, job: JobId) -> None:
        done = self._run("scancel", "--quiet", "--", job)
        told = parsing.said(done.stderr)
        if done.returncode == 0 or "Invalid job id" in told or "already complet" in told:
            return
        if parsing.no_answer(told):
            raise self._unavailable("scancel", told)
        raise BadInput.of("E_DENIED", "job", job, f"Slurm does not cancel the job: {told}")

    def _queue(self) -> list[parsing.Row]:
        """Every job of this user that the controller knows, ended ones too, in one question."""
        # asked by user, not by id: one id that Slurm has forgotten would be the whole answer
        separator = parsing.new_separator()
        fields = ",".join(f"{field}:0{separator}" for field in parsing.QUEUE_FIELDS)
        answer = self._answer("squeue", "--me", "--all", "--states=all", "--array", "--noheader", f"--Format={fields}")
        return self._told(parsing.queue_rows(answer, separator))

    def _records(self, *which: str) -> list[parsing.Row]:
        """The jobs that accounting knows; none while it does not answer, which says nothing about any of them."""
        separator = parsing.new_separator()
        fields = f"--format={','.join(parsing.ACCOUNTING_FIELDS)}"
        shape = ("--allocations", "--duplicates", "--noheader", "--parsable", f"--delimiter={separator}")
        try:
            answer = self._answer("sacct", *shape, fields, *which)
        except Unavailable as error:
            log.warning("Slurm's accounting does not answer", error=error.what)
            return []
        return self._told(parsing.accounting_rows(answer, separator))

    def _told(self, rows: list[parsing.Row]) -> list[parsing.Row]:
        """`rows`; a state that we have never seen is logged, once."""
        for row in rows:
            if not known(row.seen.state) and row.seen.state not in self._strange:
                self._strange.add(row.seen.state)
                log.warning("a state of Slurm that is not known here", job=row.seen.job, state=row.seen.state)
        return rows

    # the cluster

    def partitions(self) -> Sequence[Partition]:
        separator = parsing.new_separator()
        fields = "".join(f"{field}{separator}" for field in parsing.PARTITION_FIELDS)
        answer = self._answer("sinfo", "--exact", "--noconvert", "--noheader", f"--format={fields}")
        return parsing.partition_rows(answer, separator)

    def accounts(self) -> frozenset[str] | None:
        config = self._config()
        enforced = set(config.get("AccountingStorageEnforce", "").replace(" ", "").split(","))
        if not _keeps_accounts(config) or not enforced & _ENFORCING:
            return None
        which = ("show", "associations", f"user={self._user}", f"cluster={config['ClusterName']}", "format=account")
        answer = self._answer("sacctmgr", "--readonly", "--noheader", "--parsable2", *which)
        return frozenset(line.strip() for line in answer.splitlines() if line.strip())

    def cluster(self) -> str:
        return self._config()["ClusterName"]

    def _config(self) -> Mapping[str, str]:
        config = parsing.config(self._answer("scontrol", "show", "config"))
        if "ClusterName" not in config:
            raise self._unavailable("scontrol", "its configuration has no ClusterName")
        return config

    @cached_property
    def _first_config(self) -> Mapping[str, str]:
        """The configuration as first seen: what accounting a site keeps changes with a restart of everything."""
        return self._config()

    @property
    def _accounts_kept(self) -> bool:
        return _keeps_accounts(self._first_config)

    @property
    def _comments_kept(self) -> bool:
        """Whether accounting keeps comments, and with them our tokens. Source: slurm.conf(5), AccountingStoreFlags."""
        return self._accounts_kept and "job_comment" in self._first_config.get("AccountingStoreFlags", "")

    @property
    def _user(self) -> str:
        try:
            return pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            return str(os.geteuid())

    # the commands

    def _answer(self, program: str, *arguments: str) -> str:
        """What a command printed that only asks; whatever goes wrong, it was not answered."""
        done = self._run(program, *arguments, times=True)
        if done.returncode:
            raise self._unavailable(program, parsing.said(done.stderr) or f"exit status {done.returncode}")
        return done.stdout

    def _run(
        self, program: str, *arguments: str, script: str = "", patience: float = 0.0, times: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a command with `script` as its standard input; `times`: let it print times as seconds since 1970."""
        self.queries[program] += 1
        environment = job_environment(os.environ) | self._extra | ({"SLURM_TIME_FORMAT": "%s"} if times else {})
        try:
            return subprocess.run(
                (program, *arguments),
                input=script,
                env=environment,
                capture_output=True,
                timeout=patience or self._patience,
                encoding="utf-8",
                errors="replace",
            )
        except FileNotFoundError as error:
            raise _no_slurm(program) from error
        except subprocess.TimeoutExpired as error:
            raise self._unavailable(program, f"no answer within {error.timeout:g} s") from error
        except OSError as error:
            raise BadInput.of(
                "E_SUBMIT", program, shlex.join(arguments), f"{program} cannot be run: {error}"
            ) from error

    def _unavailable(self, program: str, told: str) -> Unavailable:
        conf = self._conf()
        if program in _OF_ACCOUNTING:
            peer, cure = (
                f"slurmdbd {parsing.accounting_host(conf)}",
                "sacctmgr list cluster says whether slurmdbd is up",
            )
        else:
            peer, cure = f"slurmctld {parsing.controller(conf)}", "scontrol ping says whether slurmctld is up"
        what = f"{program} got no answer from {peer.strip()}: {told}"
        return Unavailable("E_SLURM", what, at=peer.strip(), cure=cure, said=told)

    def _conf(self) -> str:
        """The configuration file, where there is one to read: it says who should have answered."""
        file = self._extra.get("SLURM_CONF") or os.environ.get("SLURM_CONF") or str(DEFAULT_CONF)
        try:
            return Path(file).read_text(errors="replace")
        except OSError:
            return ""


def _keeps_accounts(config: Mapping[str, str]) -> bool:
    # without accounting: `accounting_storage/none`, and `(null)` in newer versions
    return "slurmdbd" in config.get("AccountingStorageType", "")


def _no_slurm(program: str) -> BadInput:
    return BadInput.of(
        "E_NO_SLURM",
        "slurm.launcher",
        "slurm",
        f"{program} is not on PATH: Slurm's commands are not installed here",
        cure="run it on a login node of the cluster, or set slurm.launcher = local to run pilots on this machine",
    )


def _refused(told: str, arguments: Sequence[str]) -> BadInput:
    cure = next((cure for word, cure in _CURES.items() if word in told.lower()), None)
    line = f"sbatch {shlex.join(arguments)}"
    return BadInput("E_SUBMIT", f"Slurm refuses the job: {told}", at=line, cure=cure, said=told)
