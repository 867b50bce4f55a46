"""What every kind of launcher promises (`pyfi_hpc.slurm.launcher`), shown on each of them."""

from __future__ import annotations

import dataclasses
import datetime
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyfi_hpc.box.slurm import SlurmCluster
from pyfi_hpc.config.settings import Settings
from pyfi_hpc.errors import BadInput, Unavailable
from pyfi_hpc.model.status import JobStatus
from pyfi_hpc.processes import alive
from pyfi_hpc.slurm import marks
from pyfi_hpc.slurm.command_line import SlurmCommands
from pyfi_hpc.slurm.connect import launcher_for
from pyfi_hpc.slurm.launcher import Launcher, Observation, Partition, Submission
from pyfi_hpc.slurm.local import LocalJobs
from pyfi_hpc.slurm.states import words
from tests.services.launcher_support import PATIENCE, Service, new_token
from tests.support import eventually

KINDS = ("local", "slurm")
LIVE = (JobStatus.PENDING, JobStatus.RUNNING)


@pytest.fixture(params=KINDS)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """A launcher of each kind; what a test leaves behind is cancelled."""
    made = local(tmp_path) if request.param == "local" else slurm_of(request.getfixturevalue("slurm"), tmp_path)
    yield made
    for job in made.sent:
        made.launcher.cancel(job)
    eventually(lambda: all(seen.status not in LIVE for seen in made.launcher.observe(made.sent).values()))


def local(folder: Path) -> Service:
    """The launcher of this machine."""
    jobs = folder / "jobs"

    def count() -> int:
        return len(list(jobs.iterdir())) if jobs.exists() else 0

    return Service("local", LocalJobs(jobs, grace_seconds=1.0), folder, count)


def slurm_of(cluster: SlurmCluster, folder: Path) -> Service:
    """The launcher of a cluster."""
    launcher = SlurmCommands(environment=cluster.environment)
    folder.chmod(0o777)

    def count() -> int:
        return len(cluster.ask("squeue", "--noheader", "--states=all").splitlines())

    return Service("slurm", launcher, folder, count)


def test_a_job_runs_and_its_exit_code_is_known(service: Service) -> None:
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=2)
    job = service.submit("echo ran; exit 3")
    seen = service.ended(job)
    assert (seen.job, seen.state, seen.exit_code, seen.restarts) == (job, "FAILED", "3:0", 0)
    assert seen.started is not None and seen.ended is not None
    assert before <= seen.started <= seen.ended <= datetime.datetime.now(datetime.UTC)
    assert service.output == "ran\n"


def test_a_job_that_ends_well_says_so(service: Service) -> None:
    seen = service.ended(service.submit("true"))
    assert (seen.state, seen.exit_code) == ("COMPLETED", "0:0")


def test_a_job_that_runs_has_nodes_and_an_end_in_sight(service: Service) -> None:
    seen = service.running(service.submit("sleep 600", "--time=5"))
    assert seen.nodes
    assert seen.started is not None and seen.ends_at is not None
    assert seen.ends_at - seen.started == datetime.timedelta(minutes=5)
    assert (seen.exit_code, seen.ended) == (None, None)


def test_all_jobs_are_seen_in_one_look(service: Service) -> None:
    jobs = [service.submit("sleep 600") for _ in range(3)]
    assert {job: seen.job for job, seen in service.launcher.observe(jobs).items()} == {job: job for job in jobs}


@pytest.mark.parametrize("unknown", ["987654", "987654_3"])
def test_a_job_that_is_not_known_is_unknown_and_not_left_out(service: Service, unknown: str) -> None:
    job = service.submit("sleep 600")
    seen = service.launcher.observe([unknown, job])
    assert seen[unknown] == Observation(unknown, JobStatus.UNKNOWN)
    assert seen[job].status in LIVE


def test_nothing_is_seen_when_nothing_is_asked(service: Service) -> None:
    assert (service.launcher.observe([]), service.launcher.find([])) == ({}, {})


def test_a_live_job_is_found_by_its_token(service: Service) -> None:
    token, other = new_token(), new_token()
    job = service.submit("sleep 600", token=token)
    service.submit("sleep 600")
    found = service.launcher.find([token, other])
    assert {key: seen.job for key, seen in found.items()} == {token: job}
    assert (found[token].token, found[token].status in LIVE) == (token, True)


def test_a_job_that_ended_lately_is_found_by_its_token(service: Service) -> None:
    token = new_token()
    job = service.submit("true", token=token)
    service.ended(job)
    assert service.launcher.find([token])[token].job == job


@pytest.mark.parametrize(
    "hostile",
    [
        "a|b;c,d e",
        "line\nfeed\n1|2|3",
        "tab\tand \x1f and \x1e",
        "'quo\"tes' $HOME `id` \\",
        "%i %T",
        "pyfi:" + "0" * 32,
    ],
)
def test_no_comment_or_name_misleads(service: Service, hostile: str) -> None:
    token = new_token()
    job = service.submit("sleep 600", token=token, note=hostile, name=hostile)
    other = service.submit("sleep 600")
    seen = service.launcher.observe([job, other])
    assert [(seen[each].job, seen[each].status in LIVE) for each in (job, other)] == [(job, True), (other, True)]
    assert service.launcher.find([token])[token].job == job


def test_a_cancelled_job_ends(service: Service) -> None:
    job = service.submit("sleep 600")
    service.running(job)
    service.launcher.cancel(job)
    assert service.ended(job).state.startswith("CANCELLED")


def test_a_job_that_does_not_listen_ends_too(service: Service) -> None:
    job = service.submit("trap '' TERM; echo deaf; while true; do sleep 0.1; done")
    eventually(lambda: service.output == "deaf\n", timeout=PATIENCE)
    service.launcher.cancel(job)
    assert service.ended(job).state.startswith("CANCELLED")


def test_a_job_that_has_ended_stays_as_it_ended(service: Service) -> None:
    job = service.submit("exit 3")
    ended = service.ended(job)
    service.launcher.cancel(job)
    assert service.look(job) == ended


def test_to_cancel_a_job_that_is_not_known_is_no_error(service: Service) -> None:
    service.launcher.cancel("987654")


def test_the_output_goes_where_it_was_asked_to(service: Service) -> None:
    job = service.submit("echo hello", f"--output={service.folder}/100%%-%x-%j.out", name="mine")
    service.ended(job)
    assert (service.folder / f"100%-mine-{job}.out").read_text() == "hello\n"


@pytest.mark.parametrize(
    "option", ["--partition=nowhere", "--time=soon", "--dependency=afterok:987654x", "--begin=never"]
)
def test_a_refused_submission_changes_nothing(service: Service, option: str) -> None:
    token, before = new_token(), service.count()
    with pytest.raises(BadInput) as refused:
        service.submit("true", option, token=token)
    assert refused.value.code == "E_SUBMIT"
    assert service.launcher.find([token]) == {}
    assert service.count() == before


def test_a_script_that_names_no_interpreter_is_refused(service: Service) -> None:
    submission = service.submission("true")
    without = type(submission)(submission.token, "echo hello\n", submission.arguments)
    with pytest.raises(BadInput) as refused:
        service.launcher.submit(without)
    assert refused.value.code == "E_SUBMIT"


def test_a_trial_queues_nothing_and_says_when_it_might_start(service: Service) -> None:
    before = service.count()
    assert "start" in service.launcher.test(service.submission("true"))
    assert service.count() == before


def test_a_trial_is_refused_as_a_submission_is(service: Service) -> None:
    with pytest.raises(BadInput) as refused:
        service.launcher.test(service.submission("true", "--partition=nowhere"))
    assert refused.value.code == "E_SUBMIT"


def test_a_job_sees_no_password_of_ours(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYFI_DATABASE_URI", "postgresql://me:secret@db/pyfi")
    monkeypatch.setenv("PYFI_GREETING", "hello")
    service.ended(service.submit("env | grep ^PYFI_ | grep -v ^PYFI_JOB"))
    assert "hello" in service.output
    assert "secret" not in service.output


def test_there_is_a_partition_to_ask(service: Service) -> None:
    partitions = service.launcher.partitions()
    [default] = [partition for partition in partitions if partition.default]
    assert default.up and default.nodes >= 1 and default.cpus_per_node >= 1 and default.mem_mib_per_node > 0


def test_where_nobody_keeps_accounts_there_are_none(service: Service) -> None:
    assert service.launcher.accounts() is None


def test_the_cluster_has_a_name(service: Service) -> None:
    assert service.launcher.cluster()


# of Slurm


@pytest.fixture
def cluster_service(slurm: SlurmCluster, tmp_path: Path) -> Iterator[Service]:
    """The launcher of the cluster that all tests share."""
    made = slurm_of(slurm, tmp_path)
    yield made
    slurm.clear()


def queries(launcher: Launcher) -> Counter[str]:
    """What a launcher has asked so far."""
    assert isinstance(launcher, SlurmCommands)
    return Counter(launcher.queries)


def test_slurm_is_asked_once_however_many_jobs_there_are(cluster_service: Service) -> None:
    jobs = [cluster_service.submit("sleep 600") for _ in range(10)]
    before = queries(cluster_service.launcher)
    cluster_service.launcher.observe(jobs[:1])
    cluster_service.launcher.observe(jobs)
    assert queries(cluster_service.launcher) - before == Counter(squeue=2)


def test_slurm_is_asked_for_its_accounting_once(cluster_service: Service) -> None:
    launcher, before = cluster_service.launcher, queries(cluster_service.launcher)
    for _ in range(3):
        launcher.observe(["987654"])
    assert queries(launcher) - before == Counter(squeue=3, scontrol=1)


def test_a_job_that_waits_says_why(cluster_service: Service) -> None:
    job = cluster_service.submit("true", "--hold")
    seen = cluster_service.until(job, JobStatus.PENDING)
    assert (seen.reason, seen.started, seen.nodes) == ("JobHeldUser", None, None)
    assert str(words(seen.reason, seen.state)) == "its owner holds it; scontrol release JOB"


def test_a_requeued_job_has_restarted(slurm: SlurmCluster, cluster_service: Service) -> None:
    job = cluster_service.submit("sleep 600", "--requeue")
    cluster_service.running(job)
    slurm.run("scontrol", "requeue", job)
    again = cluster_service.until(job, JobStatus.PENDING)
    assert (again.restarts, again.exit_code, again.ended) == (1, None, None)


def test_a_job_requeued_and_held_has_not_ended(slurm: SlurmCluster, cluster_service: Service) -> None:
    job = cluster_service.submit("sleep 600", "--requeue")
    cluster_service.running(job)
    slurm.run("scontrol", "requeuehold", job)
    seen = cluster_service.until(job, JobStatus.PENDING)
    assert str(words(seen.reason, seen.state)) == "it was sent back into the queue and is held; scontrol release JOB"


def test_a_suspended_job_still_has_its_nodes(slurm: SlurmCluster, cluster_service: Service) -> None:
    job = cluster_service.submit("echo up; sleep 600")
    # suspended before its script has begun, a job takes a cancellation only much later
    eventually(lambda: cluster_service.output == "up\n", timeout=PATIENCE)
    slurm.run("scontrol", "suspend", job)
    seen = eventually(lambda: seen if (seen := cluster_service.look(job)).state == "SUSPENDED" else None)
    assert seen is not None and (seen.status, bool(seen.nodes)) == (JobStatus.RUNNING, True)


def test_each_element_of_an_array_is_a_job(cluster_service: Service) -> None:
    token = new_token()
    array = cluster_service.submit("sleep 600", "--array=0-3%2", token=token)
    cluster_service.running(array)
    elements = [f"{array}_{index}" for index in range(4)]
    eventually(lambda: statuses(cluster_service, elements) == {JobStatus.RUNNING: 2, JobStatus.PENDING: 2})
    assert cluster_service.launcher.find([token])[token].job == array
    cluster_service.launcher.cancel(f"{array}_0")
    cluster_service.ended(f"{array}_0")
    assert cluster_service.look(array).status is JobStatus.RUNNING
    cluster_service.launcher.cancel(array)
    cluster_service.ended(array)
    assert statuses(cluster_service, elements) == {JobStatus.ENDED: 4}


def statuses(service: Service, jobs: list[str]) -> Counter[JobStatus]:
    """How many of `jobs` have each status."""
    return Counter(seen.status for seen in service.launcher.observe(jobs).values())


def test_the_step_starts_one_process_on_each_node(cluster_service: Service) -> None:
    step = " ".join(cluster_service.launcher.step)
    job = cluster_service.submit(f"{step} printenv SLURMD_NODENAME", "--nodes=3", "--ntasks=12", "--cpus-per-task=2")
    assert cluster_service.ended(job).exit_code == "0:0"
    assert sorted(line for line in cluster_service.output.splitlines() if line.startswith("n")) == ["n1", "n2", "n3"]


def test_the_step_has_all_gpus_of_its_node(cluster_service: Service) -> None:
    step = " ".join(cluster_service.launcher.step)
    job = cluster_service.submit(f"{step} printenv SLURM_STEP_GPUS", "--nodes=2", "--gpus-per-node=2")
    cluster_service.ended(job)
    assert [line for line in cluster_service.output.splitlines() if line[0].isdecimal()] == ["0,1", "0,1"]


def test_variables_of_the_submitter_do_not_change_a_submission(
    cluster_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SBATCH_PARTITION": "nowhere", "SBATCH_HOLD": "1", "SQUEUE_USERS": "nobody"}.items():
        monkeypatch.setenv(name, value)
    assert cluster_service.ended(cluster_service.submit("true")).state == "COMPLETED"


def test_the_partitions_are_those_of_the_cluster(cluster_service: Service) -> None:
    main, gpu = cluster_service.launcher.partitions()
    assert main == Partition("main", True, True, 3, 8, 8000, 4, None)
    assert gpu == Partition("gpu", False, True, 3, 8, 8000, 4, 60)


def test_without_slurms_commands_nothing_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    launcher = launcher_for(Settings())
    with pytest.raises(BadInput) as refused:
        launcher.submit(Submission(new_token(), "#!/bin/bash\n"))
    assert (refused.value.code, refused.value.exit_code) == ("E_NO_SLURM", 2)
    assert "slurm.launcher" in str(refused.value)


# of a controller that does not answer

METHODS: Mapping[str, Callable[[Launcher], object]] = {
    "submit": lambda launcher: launcher.submit(Submission(new_token(), "#!/bin/bash\ntrue\n", ["--hold"])),
    "test": lambda launcher: launcher.test(Submission(new_token(), "#!/bin/bash\ntrue\n")),
    "observe": lambda launcher: launcher.observe(["1"]),
    "find": lambda launcher: launcher.find([new_token()]),
    "cancel": lambda launcher: launcher.cancel("987654"),
    "partitions": lambda launcher: launcher.partitions(),
    "accounts": lambda launcher: launcher.accounts(),
    "cluster": lambda launcher: launcher.cluster(),
}


@pytest.fixture(scope="module")
def frail() -> Iterator[SlurmCluster]:
    """A cluster whose controller is killed and stalled."""
    with SlurmCluster(nodes=1) as cluster:
        yield cluster


@pytest.fixture
def killed(frail: SlurmCluster) -> Iterator[SlurmCluster]:
    """The cluster without its controller."""
    frail.kill_slurmctld()
    yield frail
    bring_back(frail)


@pytest.fixture
def stalled(frail: SlurmCluster) -> Iterator[SlurmCluster]:
    """The cluster with a controller that takes connections and does not answer."""
    frail.stall("slurmctld")
    yield frail
    frail.resume("slurmctld")
    bring_back(frail)


def bring_back(cluster: SlurmCluster) -> None:
    """The controller answers."""
    cluster.start_slurmctld()
    eventually(lambda: cluster.run("squeue", check=False).returncode == 0, timeout=PATIENCE)


def refusals(launcher: Launcher) -> dict[str, str]:
    """What each method raises, all of them asked at once; "" for one that answers."""

    def refusal(ask: Callable[[Launcher], object]) -> str:
        try:
            ask(launcher)
        except Unavailable as error:
            return f"{error.code} 127.0.0.1" if "127.0.0.1" in str(error) else error.code
        return ""

    with ThreadPoolExecutor(len(METHODS)) as pool:
        return dict(zip(METHODS, pool.map(refusal, METHODS.values()), strict=True))


def test_without_its_controller_every_method_is_unavailable_and_names_it(killed: SlurmCluster) -> None:
    launcher = SlurmCommands(environment=killed.environment)
    assert refusals(launcher) == dict.fromkeys(METHODS, "E_SLURM 127.0.0.1")


def save(cluster: SlurmCluster, job: str) -> None:
    """The job is on the controller's disk: it writes every few seconds, and killed before, it forgets the job."""
    mark = new_token()
    cluster.run("scontrol", "update", f"jobid={job}", f"comment={mark}")
    file = cluster.home / "state" / "job_state"
    eventually(lambda: mark.encode() in file.read_bytes(), timeout=PATIENCE)


@pytest.mark.parametrize("patience", [0.5, 30.0], ids=["we give up first", "Slurm gives up first"])
def test_with_a_stalled_controller_every_method_is_unavailable(stalled: SlurmCluster, patience: float) -> None:
    launcher = SlurmCommands(
        environment=stalled.environment, patience_seconds=patience, submit_patience_seconds=patience
    )
    assert refusals(launcher) == dict.fromkeys(METHODS, "E_SLURM 127.0.0.1")


def test_a_submission_that_was_given_up_is_found_by_its_token(frail: SlurmCluster, tmp_path: Path) -> None:
    service, token = slurm_of(frail, tmp_path), new_token()
    hasty = SlurmCommands(environment=frail.environment, submit_patience_seconds=0.5)
    frail.stall("slurmctld")
    try:
        with pytest.raises(Unavailable):
            hasty.submit(service.submission("true", "--hold", token=token))
    finally:
        frail.resume("slurmctld")
    # it had been sent, and Slurm takes it though nobody waits for the answer
    eventually(lambda: service.launcher.find([token]), timeout=PATIENCE)
    frail.clear()


def test_a_controller_that_was_away_says_again_how_its_jobs_are(frail: SlurmCluster, tmp_path: Path) -> None:
    service = slurm_of(frail, tmp_path)
    job = service.submit("sleep 600")
    service.running(job)
    save(frail, job)
    frail.kill_slurmctld()
    with pytest.raises(Unavailable):
        service.look(job)
    bring_back(frail)
    assert service.running(job).job == job
    frail.clear()


def test_a_controller_that_lost_its_state_has_not_ended_a_job(frail: SlurmCluster, tmp_path: Path) -> None:
    service = slurm_of(frail, tmp_path)
    token = new_token()
    job = service.submit("sleep 600", token=token)
    service.running(job)
    frail.kill_slurmctld()
    frail.lose_state()
    bring_back(frail)
    assert service.look(job) == Observation(job, JobStatus.UNKNOWN)
    assert service.launcher.find([token]) == {}


def test_ids_that_are_given_out_again_are_told_apart_by_their_tokens(frail: SlurmCluster, tmp_path: Path) -> None:
    service = slurm_of(frail, tmp_path)
    frail.clear()
    frail.kill_slurmctld()
    frail.lose_state()
    bring_back(frail)
    first, second = new_token(), new_token()
    before = service.submit("true", "--hold", token=first)
    frail.kill_slurmctld()
    frail.lose_state()
    bring_back(frail)
    after = service.submit("true", "--hold", token=second)
    assert after == before
    assert service.look(before).token == second
    frail.clear()


# of a site that keeps accounts


@pytest.fixture(scope="module")
def kept() -> Iterator[SlurmCluster]:
    """A cluster with accounting, which keeps comments too."""
    with SlurmCluster(nodes=1, accounting=True, extra=["AccountingStoreFlags=job_comment"]) as cluster:
        yield cluster


def forget(cluster: SlurmCluster) -> None:
    """The controller does not know any job any more."""
    cluster.kill_slurmctld()
    cluster.lose_state()
    bring_back(cluster)


def test_accounting_tells_how_a_job_ended_that_slurm_forgot(kept: SlurmCluster, tmp_path: Path) -> None:
    service, token = slurm_of(kept, tmp_path), new_token()
    job = service.submit("exit 3", token=token, note="a|b\nc")
    array = service.submit("exit 4", "--array=0-1")
    ended = service.ended(job)
    service.ended(array)
    # accounting hears of everything a little later, and of an element's number after its end
    asked = ("sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID,State", f"--jobs={job},{array}")
    all_of_them = {f"{each}|FAILED" for each in (job, f"{array}_0", f"{array}_1")}
    eventually(lambda: set(kept.ask(*asked).splitlines()) == all_of_them, timeout=PATIENCE)
    forget(kept)
    before = queries(service.launcher)
    seen = service.launcher.observe([job, array, f"{array}_1", "987654"])
    assert seen[job] == dataclasses.replace(ended, reason=None)
    assert (seen[f"{array}_1"].exit_code, seen[array].exit_code) == ("4:0", "4:0")
    assert seen["987654"].status is JobStatus.UNKNOWN
    assert queries(service.launcher) - before == Counter(squeue=1, scontrol=1, sacct=1)
    assert service.launcher.find([token])[token].job == job


def test_the_accounts_are_those_of_the_user(kept: SlurmCluster) -> None:
    assert "lab" in (SlurmCommands(environment=kept.environment).accounts() or ())


@pytest.mark.parametrize(("option", "cure"), [("--account=nobody", "accounts"), ("--qos=nothing", "qos")])
def test_an_account_or_qos_that_is_not_allowed_is_refused(
    kept: SlurmCluster, tmp_path: Path, option: str, cure: str
) -> None:
    with pytest.raises(BadInput) as refused:
        slurm_of(kept, tmp_path).submit("true", option)
    assert refused.value.code == "E_SUBMIT"
    assert cure in str(refused.value.cure)


def test_without_its_accounting_a_job_is_unknown_and_the_others_are_seen(kept: SlurmCluster, tmp_path: Path) -> None:
    service = slurm_of(kept, tmp_path)
    job = service.submit("true", "--hold")
    kept.stall("slurmdbd")
    try:
        launcher = SlurmCommands(environment=kept.environment, patience_seconds=2)
        seen = launcher.observe([job, "987654"])
        assert (seen[job].status, seen["987654"].status) == (JobStatus.PENDING, JobStatus.UNKNOWN)
        with pytest.raises(Unavailable) as refused:
            launcher.accounts()
        assert "slurmdbd at" in str(refused.value)
    finally:
        kept.resume("slurmdbd")
    kept.clear()


# of this machine


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Service]:
    """The launcher of this machine."""
    made = local(tmp_path)
    yield made
    for job in made.sent:
        made.launcher.cancel(job)
        made.ended(job)


SUBMITTER = """
import os, signal, sys
from pathlib import Path
from pyfi_hpc.slurm.launcher import Submission
from pyfi_hpc.slurm.local import LocalJobs
script = "#!/bin/bash\\nuntil [ -e $0.go ]; do sleep 0.05; done; exit 7\\n"
print(LocalJobs(Path(sys.argv[1])).submit(Submission("a" * 32, script)), flush=True)
os.kill(0, signal.SIGKILL)
"""


def test_a_local_job_outlives_its_submitter_and_all_of_its_group(here: Service) -> None:
    jobs = here.folder / "jobs"
    done = subprocess.run(
        [sys.executable, "-c", SUBMITTER, str(jobs)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert done.returncode == -signal.SIGKILL
    job = done.stdout.strip()
    assert here.running(job).token == "a" * 32
    (jobs / job / "script.go").touch()
    assert here.ended(job).exit_code == "7:0"


def test_a_local_job_knows_its_number_and_its_end(here: Service) -> None:
    job = here.submit("echo $PYFI_JOB_ID $PYFI_JOB_ENDS_AT", "--time=5")
    seen = here.ended(job)
    number, ends_at = here.output.split()
    assert seen.started is not None
    assert (number, abs(int(ends_at) - seen.started.timestamp() - 300) < 60) == (job, True)


def test_a_local_job_ends_when_its_time_is_up(here: Service) -> None:
    seen = here.ended(here.submit("sleep 600", "--time=0:01"))
    assert (seen.state, seen.ends_at) == ("TIMEOUT", None)
    assert seen.started is not None and seen.ended is not None
    assert seen.ended - seen.started >= datetime.timedelta(seconds=1)


def test_a_local_job_is_warned_before_its_time_is_up(here: Service) -> None:
    body = "trap 'echo warned; exit 5' USR2; sleep 600 & wait"
    seen = here.ended(here.submit(body, "--time=10", "--signal=B:USR2@599"))
    assert (seen.state, seen.exit_code, here.output) == ("FAILED", "5:0", "warned\n")


def test_what_a_local_job_leaves_behind_ends_with_it(here: Service) -> None:
    job = here.submit("setsid sleep 600 & echo $!; exit 0")
    assert here.ended(job).state == "COMPLETED"
    assert not alive(int(here.output))


def test_a_local_job_whose_supervisor_was_killed_has_ended_with_all_of_it(here: Service) -> None:
    job = here.submit("echo $$; while true; do sleep 0.1; done")
    script = int(eventually(lambda: here.output))
    mark = marks.read(here.folder / "jobs" / job / marks.RUNNING)
    assert mark is not None
    os.kill(mark["pid"], signal.SIGKILL)
    assert here.ended(job).state == "NODE_FAIL"
    eventually(lambda: not alive(script))


def test_a_process_that_got_the_number_of_a_dead_supervisor_is_left_alone(here: Service) -> None:
    job = here.submit("sleep 600")
    here.running(job)
    file = here.folder / "jobs" / job / marks.RUNNING
    mark = marks.read(file)
    assert mark is not None
    # of two processes that start within one tick, the number alone tells which is which
    eventually(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK") > mark["ticks"] + 1)
    other = subprocess.Popen(["sleep", "600"])
    try:
        marks.write(file, {**mark, "pid": other.pid})
        assert here.look(job).state == "NODE_FAIL"
        here.launcher.cancel(job)
        assert alive(other.pid)
    finally:
        other.kill()
        other.wait()
    marks.write(file, mark)


def test_a_local_job_of_another_machine_is_unknown(here: Service) -> None:
    job = here.submit("sleep 600")
    file = here.folder / "jobs" / job / marks.RUNNING
    mark = marks.read(file)
    assert mark is not None
    marks.write(file, {**mark, "boot": "another", "host": "elsewhere"})
    assert here.look(job).status is JobStatus.UNKNOWN
    marks.write(file, {**mark, "boot": "an earlier one"})
    assert here.look(job).state == "NODE_FAIL"
    marks.write(file, mark)


def test_a_local_job_that_cannot_start_says_why(here: Service) -> None:
    seen = here.ended(here.submit("true", "--chdir=/nowhere/at/all"))
    assert (seen.state, "/nowhere/at/all" in str(seen.reason)) == ("FAILED", True)


@pytest.mark.parametrize("option", ["--array=0-3", "--nodes=2", "-N 4", "-p gpu"])
def test_what_takes_a_cluster_is_refused_here(here: Service, option: str) -> None:
    with pytest.raises(BadInput) as refused:
        here.submit("true", *option.split())
    assert refused.value.code == "E_SUBMIT"


def test_local_jobs_sent_at_once_have_numbers_of_their_own(here: Service) -> None:
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda _: here.submit("true"), range(16)))
    assert sorted(map(int, jobs)) == list(range(1, 17))


def test_how_a_local_job_ended_is_forgotten_after_a_week(here: Service) -> None:
    first, second = here.submit("true"), here.submit("true")
    for job in (first, second):
        here.ended(job)
        os.utime(here.folder / "jobs" / job / marks.ENDED, times=(0, 0))
    third = here.submit("true")
    assert (third, here.look(first).status, here.look(second).status) == ("3", JobStatus.UNKNOWN, JobStatus.ENDED)
    here.sent.remove(first)


@pytest.mark.parametrize("job", ["../1", "", "x", "1/../1", "."])
def test_an_id_is_no_path(here: Service, job: str) -> None:
    here.submit("sleep 600")
    here.launcher.cancel(job)
    assert here.look(job) == Observation(job, JobStatus.UNKNOWN)
    assert here.look("1").status is JobStatus.RUNNING


@pytest.mark.parametrize(("launcher", "kind"), [("auto", "slurm"), ("slurm", "slurm"), ("local", "local")])
def test_the_setting_names_the_launcher(launcher: str, kind: str) -> None:
    assert launcher_for(Settings.load(options={"slurm.launcher": launcher})).kind == kind
