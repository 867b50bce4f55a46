"""What Slurm's commands print, read into records.

The lines are of Slurm 22.05's own making unless a test says otherwise: for newer versions only what their
documentation says of a form is tried here, since none of them can be run.
"""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfi_hpc.model.status import JobStatus
from pyfi_hpc.slurm import parsing
from pyfi_hpc.slurm.environment import job_environment
from pyfi_hpc.slurm.launcher import Observation
from pyfi_hpc.slurm.local import option

TOKEN = "0123456789abcdef" * 2
SEPARATOR = parsing.new_separator()


def printed(*rows: tuple[str, ...]) -> str:
    """An answer of a command that was asked with `SEPARATOR`."""
    return "".join("".join(field + SEPARATOR for field in row) + "\n" for row in rows)


def queued(job: str, *, raw: str = "", state: str = "RUNNING", restarts: str = "0", note: str = "(null)") -> str:
    """A row of squeue."""
    row = (job, raw or job, state, "None", restarts, "0", "1795870154", "1827406154", "n1", note)
    return printed(row)


def seen(*rows: str) -> dict[str, Observation]:
    """Id → job, by what squeue printed."""
    return parsing.by_id(parsing.queue_rows("".join(rows), SEPARATOR))


def at(epoch: int) -> datetime.datetime:
    """A moment, in UTC."""
    return datetime.datetime.fromtimestamp(epoch, datetime.UTC)


def test_a_running_job_has_a_start_and_an_expected_end() -> None:
    assert seen(queued("7", note=f"pyfi:{TOKEN}"))["7"] == Observation(
        "7", JobStatus.RUNNING, "RUNNING", None, TOKEN, 0, "n1", None, at(1795870154), at(1827406154), None
    )


def test_an_ended_job_has_its_exit_code_and_its_end() -> None:
    row = ("1", "1", "FAILED", "NonZeroExitCode", "2", "768", "1795870154", "1795870160", "n1", "")
    assert seen(printed(row))["1"] == Observation(
        "1", JobStatus.ENDED, "FAILED", "NonZeroExitCode", None, 2, "n1", "3:0", at(1795870154), None, at(1795870160)
    )


def test_when_a_waiting_job_may_start_is_not_when_it_started() -> None:
    row = ("5", "5", "PENDING", "Priority", "0", "0", "1827406154", "NONE", "", "(null)")
    assert seen(printed(row))["5"] == Observation("5", JobStatus.PENDING, "PENDING", "Priority")


def test_a_job_cancelled_before_it_started_never_started() -> None:
    row = ("3", "3", "CANCELLED", "JobHeldUser", "0", "0", "1795870154", "1795870154", "", "(null)")
    assert (seen(printed(row))["3"].started, seen(printed(row))["3"].ended) == (None, at(1795870154))


@given(st.text())
def test_no_comment_makes_one_job_look_like_two(note: str) -> None:
    found = seen(queued("1", note=note), queued("2"))
    assert set(found) == {"1", "2"}


@given(st.text(alphabet="\n\x1f\x1e|,:% \\'\"0a"), st.text(alphabet="\n\x1f|"))
def test_a_token_is_read_whatever_stands_after_it(note: str, end: str) -> None:
    found = seen(queued("1", note=f"pyfi:{TOKEN} {note}{end}"), queued("2", note=f"pyfi:{TOKEN[::-1]}"))
    assert [found[job].token for job in ("1", "2")] == [TOKEN, TOKEN[::-1]]


@pytest.mark.parametrize(
    "comment", ["", "(null)", TOKEN, f"x pyfi:{TOKEN}", f"pyfi:{TOKEN}0", f"pyfi:{TOKEN[1:]}", f"pyfi:{TOKEN.upper()}"]
)
def test_a_comment_without_a_token_is_somebody_elses(comment: str) -> None:
    assert parsing.token_of(comment) is None


def test_an_answer_that_was_cut_tells_of_whole_rows_only() -> None:
    whole = queued("1") + queued("2")
    assert set(seen(whole[:-30])) == {"1"}


@given(st.text())
def test_no_answer_is_too_strange_to_read(text: str) -> None:
    parsing.queue_rows(text, SEPARATOR)
    parsing.accounting_rows(text, SEPARATOR)
    parsing.partition_rows(text, SEPARATOR)


@given(st.lists(st.text(), min_size=10, max_size=10))
def test_no_field_is_too_strange_to_read(fields: list[str]) -> None:
    [row] = parsing.queue_rows(printed(tuple(fields)), SEPARATOR)
    assert row.seen.state == fields[2]


def test_an_element_is_known_by_its_place_and_by_its_own_number() -> None:
    found = seen(queued("4_0", raw="6"), queued("4_1", raw="4", state="PENDING"))
    assert (found["4_0"].status, found["6"].job, found["4_1"].status) == (JobStatus.RUNNING, "4_0", JobStatus.PENDING)


def test_an_array_is_known_as_a_whole() -> None:
    rows = [queued("4_0", raw="6", state="COMPLETED"), queued("4_1", raw="7", restarts="2"), queued("4_2", raw="4")]
    whole = seen(*rows)["4"]
    assert (whole.job, whole.status, whole.restarts, whole.nodes) == ("4", JobStatus.RUNNING, 2, None)


def test_an_array_of_one_is_where_its_element_is() -> None:
    assert seen(queued("4_0", raw="4"))["4"].nodes == "n1"


def test_a_token_finds_the_liveliest_of_its_jobs() -> None:
    rows = [queued("1", state="CANCELLED", note=f"pyfi:{TOKEN}"), queued("2", note=f"pyfi:{TOKEN}"), queued("3")]
    found = parsing.by_token(parsing.queue_rows("".join(rows), SEPARATOR), [TOKEN, "f" * 32])
    assert {token: job.job for token, job in found.items()} == {TOKEN: "2"}


def recorded(job: str, state: str, end: str = "1795870160", note: str = "") -> tuple[str, ...]:
    """A row of sacct."""
    return (job, job, state, "0:0", "1795870154", end, "n1", "None", note)


def test_accounting_tells_how_a_forgotten_job_ended() -> None:
    [row] = parsing.accounting_rows(printed(recorded("9", "CANCELLED by 1000")), SEPARATOR)
    assert row.seen == Observation(
        "9", JobStatus.ENDED, "CANCELLED by 1000", None, None, 0, "n1", "0:0", at(1795870154), None, at(1795870160)
    )


def test_what_accounting_takes_for_alive_and_the_controller_does_not_know_is_unknown() -> None:
    [row] = parsing.accounting_rows(printed(recorded("9", "RUNNING", "Unknown")), SEPARATOR)
    assert (row.seen.status, row.seen.state, row.seen.exit_code) == (JobStatus.UNKNOWN, "RUNNING", None)


def test_accounting_has_a_row_for_each_run_of_a_requeued_job() -> None:
    text = printed(recorded("9", "PREEMPTED"), recorded("9", "NODE_FAIL"), recorded("9", "COMPLETED"))
    [row] = parsing.accounting_rows(text, SEPARATOR)
    assert (row.seen.state, row.seen.restarts) == ("COMPLETED", 2)


@pytest.mark.parametrize(
    ("text", "code"),
    [("0", "0:0"), ("768", "3:0"), ("15", "0:15"), ("125", "0:125"), ("3:0", "3:0"), ("", None), ("x", None)],
)
def test_exit_codes_are_written_as_slurm_writes_them(text: str, code: str | None) -> None:
    assert parsing.exit_code(text) == code


@pytest.mark.parametrize("text", ["", "N/A", "NONE", "Unknown", "None", "tomorrow"])
def test_a_time_that_is_none_is_none(text: str) -> None:
    assert parsing.moment(text) is None


def test_a_time_in_slurms_standard_form_is_of_this_time_zone() -> None:
    local = at(1795870154).astimezone().strftime("%Y-%m-%dT%H:%M:%S")
    assert parsing.moment(local) == at(1795870154)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 300),
        ("5:30", 330),
        ("1:00:00", 3600),
        ("1-12", 129_600),
        ("1-12:30", 131_400),
        ("1-00:00:00", 86_400),
        ("365-00:00:00", 31_536_000),
        ("infinite", None),
        ("UNLIMITED", None),
        ("n/a", None),
        ("", None),
    ],
)
def test_time_limits_are_read_in_all_their_forms(text: str, seconds: int | None) -> None:
    assert parsing.seconds(text) == seconds


@pytest.mark.parametrize(
    ("gres", "count"),
    [
        ("(null)", 0),
        ("gpu:4", 4),
        ("gpu", 1),
        ("gpu:h100:4(S:0-1)", 4),
        ("gpu:h100:4(S:0,2),shard:16", 4),
        ("gpu:a100:2,gpu:1g.10gb:7", 9),
        ("gpu:h100:no_consume:4", 4),
        ("shard:16,craynetwork:3", 0),
    ],
)
def test_gpus_are_counted_over_all_types(gres: str, count: int) -> None:
    assert parsing.gpus_of(gres) == count


def test_a_partition_of_unlike_nodes_offers_the_most_of_each() -> None:
    rows = printed(
        ("main*", "up", "1-00:00:00", "2", "8", "8000", "gpu:h100:4"),
        ("main*", "up", "1-00:00:00", "1", "64", "4000", "(null)"),
        ("old", "inact", "infinite", "0", "0", "0", "(null)"),
    )
    main, old = parsing.partition_rows(rows, SEPARATOR)
    assert (main.name, main.default, main.up, main.nodes, main.max_minutes) == ("main", True, True, 3, 1440)
    assert (main.cpus_per_node, main.mem_mib_per_node, main.gpus_per_node) == (64, 8000, 4)
    assert (old.default, old.up, old.max_minutes) == (False, False, None)


@pytest.mark.parametrize(
    ("text", "job"),
    [("88121\n", "88121"), ("88121;cluster2\n", "88121"), ("", None), ("slurm-wlm 22.05.8", None), ("7\n8", None)],
)
def test_a_job_id_is_read_or_it_is_none(text: str, job: str | None) -> None:
    assert parsing.submitted(text) == job


#: Texts of slurm_strerror in 22.05's library, as sbatch prints them.
REFUSALS = [
    "Invalid partition name specified",
    "Invalid account or account/partition combination specified",
    "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
    "Requested time limit is invalid (missing or exceeds some limit)",
    "Requested node configuration is not available",
    "Required node not available (down, drained or reserved)",
    "Invalid generic resource (gres) specification",
    "Invalid qos specification",
    "Invalid feature specification",
    "Invalid job array specification",
    "Access/permission denied",
    "User's group not permitted to use this partition",
    "Memory required by task is not available",
]
SILENCES = [
    "Unable to contact slurm controller (connect failure)",
    "Unable to contact slurm controller (send failure)",
    "Unable to contact slurm controller (receive failure)",
    "Unable to contact slurm controller (shutdown failure)",
    "Communication connection failure",
    "Socket timed out on send/recv operation",
    "Zero Bytes were transmitted or received",
    "Protocol authentication error",
    "Invalid authentication credential",
    "Slurm backup controller in standby mode",
    "Controller is in standby mode, try a different controller",
    "Unable to create job record, try again",
    "Connection refused",
    "Resource temporarily unavailable",
    "Slurm internal error, contact system administrator",
    "Incompatible versions of client and server code",
    "Unexpected message received",
    "Could not establish a configuration source",
    "",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_what_slurm_refuses_is_no_silence(text: str) -> None:
    assert not parsing.no_answer(parsing.said(f"sbatch: error: Batch job submission failed: {text}\n"))


@pytest.mark.parametrize("text", SILENCES)
def test_a_silence_is_no_refusal(text: str) -> None:
    assert parsing.no_answer(parsing.said(f"sbatch: error: Batch job submission failed: {text}\n"))


def test_complaints_are_told_once_and_without_the_commands_name() -> None:
    stderr = "sbatch: error: one\nsbatch: error: Batch job submission failed: two\nallocation failure: two\n\n"
    assert parsing.said(stderr) == "one; two"


def test_the_controllers_name_is_read_from_the_configuration() -> None:
    conf = "ClusterName=c\n# SlurmctldHost=old\n slurmctldhost = head1(10.0.0.1) # first\nSlurmctldHost=head2\n"
    assert parsing.controller(conf) == "at head1(10.0.0.1), head2"
    assert parsing.accounting_host(conf) == ""


def test_a_job_sees_no_password_of_ours_and_no_variable_that_slurm_obeys() -> None:
    environment = {
        "PATH": "/bin",
        "PYFI_HOME": "/state",
        "PYFI_DATABASE_URI": "postgresql://me:secret@db/pyfi",
        "PYFI_BROKER_URI": "amqp://me:secret@broker/pyfi",
        "SLURM_CONF": "/etc/s.conf",
        "SLURM_JOB_ID": "3",
        "SBATCH_HOLD": "1",
        "SQUEUE_FORMAT": "%i",
        "SCANCEL_INTERACTIVE": "1",
    }
    kept = {name: environment[name] for name in ("PATH", "PYFI_HOME", "SLURM_CONF")}
    assert job_environment(environment) == kept


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("--time=5", "5"),
        ("--time 5", "5"),
        ("-t 5", "5"),
        ("-t5", "5"),
        ("-t5 --time=6", "6"),
        ("--test-only", None),
        ("--time", ""),
        ("", None),
    ],
)
def test_an_option_is_found_in_every_way_to_write_it(words: str, value: str | None) -> None:
    assert option(words.split(), "--time", "-t") == value
