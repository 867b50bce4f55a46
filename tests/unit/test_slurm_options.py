"""sbatch's options as we read, check and write them: from the words of a person to a request, and back to sbatch."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.request import Per, ResourceRequest
from pyfi_hpc.slurm.request import amounts, kinds, times
from pyfi_hpc.slurm.request.asking import settled
from pyfi_hpc.slurm.request.options import OPTIONS, OURS, arguments, by_flag, checked_extra, from_environment, read
from pyfi_hpc.slurm.request.sbatch import PASSED, REFUSED, SHORT, VARIABLES
from pyfi_hpc.slurm.request.slots import gpus_per_node, slots, told


def refused(*words: str, ours: bool = True) -> BadInput:
    """Why the words of a directive are refused."""
    with pytest.raises(BadInput) as caught:
        list(read(words, "train.sh line 3", ours=ours, code="E_DIRECTIVE"))
    return caught.value


def asked(*words: str) -> ResourceRequest:
    """What the words ask for."""
    return settled([read(words, "here", ours=True)]).request


# times


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("10", 10),
        ("5:00", 5),
        ("5:01", 6),
        ("0:30", 1),
        ("1:30:00", 90),
        ("1:00:01", 61),
        ("100:00:00", 6000),
        ("1-2", 26 * 60),
        ("1-2:30", 26 * 60 + 30),
        ("1-2:30:01", 26 * 60 + 31),
        ("2-0", 2880),
        ("0", 0),
        ("UNLIMITED", 0),
        ("infinite", 0),
    ],
)
def test_a_time_limit_is_read_as_slurm_reads_it(text: str, minutes: int) -> None:
    assert times.minutes(text, "--time") == minutes


@pytest.mark.parametrize(
    ("text", "what", "cure"),
    [
        ("25:61", "61 seconds", "did you mean 26:01, or 25:01:00?"),
        ("1:61:00", "61 minutes", "did you mean 02:01:00?"),
        ("1:00:99", "99 seconds", "did you mean 01:01:39?"),
        ("1-25", "25 hours", "did you mean 2-01:00:00?"),
        ("1-2:75", "75 minutes", "did you mean 1-03:15:00?"),
    ],
)
def test_a_time_that_slurm_would_take_for_another_is_asked_back(text: str, what: str, cure: str) -> None:
    with pytest.raises(BadInput) as caught:
        times.minutes(text, "--time")
    error = caught.value
    assert (error.code, error.what, error.cure, error.at) == ("E_TIME_FORMAT", what, cure, f"--time {text}")


@pytest.mark.parametrize(
    "text", ["", "soon", "1.5", "-5", "1:2:3:4", "1-2:3:4:5", "1-", "5:", ":5", "1h", "１０", "10 "]
)
def test_what_is_no_time_limit_is_refused_with_all_its_forms(text: str) -> None:
    with pytest.raises(BadInput, match="E_TIME_FORMAT") as caught:
        times.minutes(text, "--time")
    assert "days-hours:minutes:seconds" in (caught.value.cure or "")


def test_a_time_limit_over_ten_years_is_out_of_range() -> None:
    with pytest.raises(BadInput, match="E_RANGE"):
        times.minutes("999999999", "--time")


@given(st.integers(0, times.LONGEST_MINUTES))
def test_a_time_limit_comes_back_from_what_sbatch_is_told(total: int) -> None:
    assert times.minutes(times.limit_text(total), "--time") == total


@given(st.text(st.sampled_from("0123456789:-. hUNLIMTED"), max_size=12))
def test_any_text_is_a_time_limit_or_refused(text: str) -> None:
    try:
        total = times.minutes(text, "--time")
    except BadInput as error:
        assert error.code in ("E_TIME_FORMAT", "E_RANGE") and error.cure
    else:
        assert 0 <= total <= times.LONGEST_MINUTES


@pytest.mark.parametrize("text", ["16:00", "now", "now+1hour", "now+60", "tomorrow", "4:30PM", "2026-12-24T18:00:00",
                                  "12/24", "2026-12-24"])  # fmt: skip
def test_a_time_to_begin_at(text: str) -> None:
    assert times.begin(text, "--begin") == text


def test_a_misspelt_time_to_begin_at_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean tomorrow"):
        times.begin("tomorow", "--begin")


# amounts


@pytest.mark.parametrize(
    ("text", "kept", "mib"),
    [("4G", "4G", 4096), ("4g", "4G", 4096), ("512", "512M", 512), ("32GB", "32G", 32768), ("1T", "1T", 2**20),
     ("0", "0", 0), ("131072K", "131072K", 128)],
)  # fmt: skip
def test_memory_is_kept_as_sbatch_takes_it(text: str, kept: str, mib: float) -> None:
    assert amounts.memory(text, "--mem") == kept
    assert amounts.mem_mib(kept) == mib


def test_a_bare_small_amount_of_memory_is_asked_back() -> None:
    with pytest.raises(BadInput) as caught:
        amounts.memory("32", "--mem")
    error = caught.value
    assert (error.code, error.at, error.cure) == ("E_RANGE", "--mem 32", "32G?")
    assert error.what == "32 MiB, as Slurm reads it, cannot start Python"


@pytest.mark.parametrize("text", ["", "-4G", "1.5G", "4X", "lots", "4 G", "9999999999G"])
def test_what_is_no_memory_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="E_RANGE"):
        amounts.memory(text, "--mem")


@pytest.mark.parametrize(("text", "count"), [("2", 2), ("h100:2", 2), ("1g.10gb:3", 3), ("h100:2,a100:1", 3)])
def test_gpus_are_counted_with_and_without_their_type(text: str, count: int) -> None:
    assert amounts.gpu_count(amounts.gpus(8)(text, "--gpus")) == count


@pytest.mark.parametrize("text", ["-1", "0", "9", "1e9", "h100", "h100:", ":2", "h100:-1", "2,", "two", "1:2"])
def test_gpus_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="E_RANGE") as caught:
        amounts.gpus(8)(text, "--gpus")
    assert caught.value.at == f"--gpus {text}"


@pytest.mark.parametrize(
    ("text", "count"),
    [("gpu", 1), ("gpu:2", 2), ("gpu:h100:2", 2), ("gpu:h100", 1), ("shard:3", 0), ("gpu:h100:1,gpu:a100:2,nic", 3),
     ("gpu:1g.10gb:2", 2)],
)  # fmt: skip
def test_gpus_are_counted_among_generic_resources(text: str, count: int) -> None:
    assert amounts.gpus_in_gres(amounts.gres(text, "--gres")) == count


@pytest.mark.parametrize(("text", "code"), [("gpu:0", "E_RANGE"), ("gpu:-1", "E_USAGE"), ("2", "E_USAGE"),
                                            ("gpu:h100:2,", "E_USAGE"), ("gpu:9999", "E_RANGE")])  # fmt: skip
def test_what_is_no_generic_resource_is_refused(text: str, code: str) -> None:
    with pytest.raises(BadInput, match=code):
        amounts.gres(text, "--gres")


@pytest.mark.parametrize(
    ("text", "jobs"),
    [("0-15", 16), ("3", 1), ("0,6,16-32", 19), ("0-15:4", 4), ("0-15%4", 16), ("1,1,0-2", 3), ("0-7:2%1", 4)],
)
def test_the_jobs_of_an_array_are_counted(text: str, jobs: int) -> None:
    assert amounts.array_size(amounts.array(text, "--array")) == jobs


def test_an_array_that_runs_backwards_is_refused_the_right_way_round() -> None:
    with pytest.raises(BadInput) as caught:
        amounts.array("5-1", "-a")
    assert (caught.value.code, caught.value.what, caught.value.cure) == ("E_RANGE", "array runs backwards", "1-5?")


@pytest.mark.parametrize("text", ["", "-1", "1-", "a-b", "1-5:0", "1-5%0", "1-5%", "0-9999999", "1;2", "1-2-3"])
def test_what_is_no_array_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="E_RANGE"):
        amounts.array(text, "-a")


# other kinds


@pytest.mark.parametrize(
    ("text", "seconds"), [("B:USR2@120", 120), ("USR1@300", 300), ("B:10@90", 90), ("SIGTERM", 60)]
)
def test_of_a_signal_only_the_time_counts(text: str, seconds: int) -> None:
    assert kinds.signal_seconds(text, "--signal") == seconds


@pytest.mark.parametrize(
    ("text", "code"),
    [("R:USR1@60", "E_USAGE"), ("USR9@60", "E_CHOICE"), ("USR1@70000", "E_RANGE"), ("USR1@", "E_RANGE"),
     ("", "E_USAGE"), ("@60", "E_USAGE"), ("USR1@0", "E_RANGE")],
)  # fmt: skip
def test_what_is_no_signal_is_refused(text: str, code: str) -> None:
    with pytest.raises(BadInput, match=code):
        kinds.signal_seconds(text, "--signal")


@pytest.mark.parametrize("text", ["afterok:20:21,afterany:23", "afterok:20?afternotok:21", "singleton", "20",
                                  "after:20+5", "aftercorr:7_1", "afterok:7_*"])  # fmt: skip
def test_what_comes_first(text: str) -> None:
    assert kinds.dependency(text, "-d") == text


@pytest.mark.parametrize(("text", "said"), [("afterokay:20", "afterok"), ("afterok", "afterok:88121"),
                                            ("afterok:x", "afterok:88121")])  # fmt: skip
def test_a_misspelt_dependency_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        kinds.dependency(text, "-d")
    assert said in (caught.value.cure or "")


@pytest.mark.parametrize("text", ["", " ", "a\nb", "a\tb", "\x1b[31m", "x" * 1025, "a\0"])
def test_text_is_one_printable_line(text: str) -> None:
    with pytest.raises(BadInput, match="E_USAGE"):
        kinds.text(text, "--comment")


def test_a_range_of_nodes_is_refused_with_its_upper_end() -> None:
    assert kinds.nodes("2-2", "-N") == 2
    with pytest.raises(BadInput) as caught:
        kinds.nodes("2-4", "-N")
    assert (caught.value.code, caught.value.cure) == ("E_RANGE", "-N 4")


def test_no_setting_of_ours_is_exported_into_a_job() -> None:
    assert kinds.export("ALL,OMP_NUM_THREADS=4", "--export") == "ALL,OMP_NUM_THREADS=4"
    with pytest.raises(BadInput) as caught:
        kinds.export("ALL,PYFI_DATABASE_URI=postgresql://a:secret@db/x", "--export")
    assert "secret" not in str(caught.value) and caught.value.code == "E_ARGUMENT"


# words


@pytest.mark.parametrize("words", [["-N2"], ["-N", "2"], ["--nodes=2"], ["--nodes", "2"]])
def test_an_option_is_read_in_all_of_getopts_forms(words: list[str]) -> None:
    assert asked(*words).nodes == 2


def test_several_options_stand_in_one_line() -> None:
    found = asked("-n8", "-c", "2", "--mem=4G", "--no-requeue", "-J", "my job", "--per=core")
    wanted = ResourceRequest(job_name="my job", ntasks=8, cpus_per_task=2, mem="4G", requeue=False, per=Per.CORE)
    assert found == wanted


def test_what_sbatch_alone_knows_is_passed_on_in_one_word() -> None:
    assert asked("--mail-type", "END", "-L", "matlab:1", "--exclusive", "-H", "--exclusive=user").extra == (
        "--mail-type=END",
        "--licenses=matlab:1",
        "--exclusive=user",
        "--hold",
    )


@pytest.mark.parametrize(
    ("words", "what", "cure"),
    [
        (["--tme=5"], "no option '--tme'", "did you mean --time?"),
        (["--ntask=5"], "no option '--ntask'", "did you mean --ntasks?"),
        (["--mail-typ=END"], "no option '--mail-typ'", "did you mean --mail-type?"),
        (["-Z"], "no option '-Z'", "pyfi submit --help"),
        (["stray"], "'stray' is no option", "a value with blanks is put in quotes"),
        (["--", "x"], "'--' is no option", "a value with blanks is put in quotes"),
        (["--mem"], "a value is missing behind --mem", None),
        (["--requeue=yes"], "--requeue takes no value", None),
        (["--wrap=date"], "a pilot cannot have --wrap", REFUSED["--wrap"]),
        (["-M", "other"], "a pilot cannot have -M", REFUSED["--clusters"]),
        (["--parsable"], "a pilot cannot have --parsable", REFUSED["--parsable"]),
    ],
)
def test_a_word_that_cannot_be_understood_is_refused_with_its_place(
    words: list[str], what: str, cure: str | None
) -> None:
    error = refused(*words)
    assert (error.code, error.what, error.cure) == ("E_DIRECTIVE", what, cure)
    assert (error.at or "").startswith("train.sh line 3")


def test_a_value_that_is_refused_names_line_and_option() -> None:
    error = refused("--time=25:61")
    assert (error.code, error.at) == ("E_TIME_FORMAT", "train.sh line 3: --time 25:61")


def test_our_own_options_belong_into_lines_of_our_own() -> None:
    assert asked("--processor=detect", "--drain-before", "300").signal_seconds == 300
    error = refused("--processor=detect", ours=False)
    assert "#PYFI" in (error.cure or "")


@pytest.mark.parametrize(
    ("words", "code"),
    [(["--gpus=-1"], "E_RANGE"), (["-n0"], "E_RANGE"), (["-n", "1e9"], "E_RANGE"), (["-c", "0"], "E_RANGE"),
     (["-N", "1000000000"], "E_RANGE"), (["--per=gpus"], "E_CHOICE")],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(words: list[str], code: str) -> None:
    assert refused(*words).code == code


# variables


def test_sbatchs_variables_are_read() -> None:
    environment = {
        "SBATCH_TIMELIMIT": "1:00:00",
        "SBATCH_MEM_PER_NODE": "4G",
        "SBATCH_NO_REQUEUE": "",
        "SBATCH_EXCLUSIVE": "user",
        "SBATCH_RESERVATION": "maint",
        "SBATCH_OVERCOMMIT": "0",
        "SBATCH_DEBUG": "1",
        "SLURM_MEM_PER_NODE": "9G",
    }
    found = settled([from_environment(environment)])
    assert found.request == ResourceRequest(
        time_minutes=60, mem="4G", requeue=False, extra=("--exclusive=user", "--reservation=maint")
    )
    assert found.origins["time_minutes"] == "SBATCH_TIMELIMIT"


@pytest.mark.parametrize(("value", "on"), [("", True), ("yes", True), ("2", True), ("0", False), ("no", False)])
def test_a_variable_switches_an_option_as_the_manual_says(value: str, on: bool) -> None:
    assert settled([from_environment({"SBATCH_REQUEUE": value})]).request.requeue is (True if on else None)


def test_a_variable_with_a_bad_value_is_refused_by_its_name() -> None:
    with pytest.raises(BadInput) as caught:
        list(from_environment({"SBATCH_TIMELIMIT": "25:61"}))
    assert caught.value.at == "SBATCH_TIMELIMIT: --time 25:61"


# the table


def test_no_option_stands_twice_and_each_variable_has_one() -> None:
    flags = [flag for option in [*OPTIONS, *OURS] for flag in option.flags]
    ours = by_flag()
    assert len(flags) == len(set(flags))
    assert not set(flags) & (set(PASSED) | set(REFUSED) | set(SHORT)) and not set(PASSED) & set(REFUSED)
    assert set(SHORT.values()) <= set(PASSED) | set(REFUSED)
    assert all(long in ours or long in PASSED or long in REFUSED for long in VARIABLES.values())


_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "time_minutes": st.integers(0, times.LONGEST_MINUTES),
    "nodes": st.integers(1, 1000),
    "ntasks": st.integers(1, 1_000_000),
    "cpus_per_task": st.integers(1, 65_536),
    "signal_seconds": st.integers(1, 65_535),
    "requeue": st.booleans(),
    "mem": st.integers(64, 10**6).map(lambda count: f"{count}M"),
    "mem_per_cpu": st.sampled_from(["1G", "64M"]),
    "gpus": st.sampled_from(["3", "h100:2,a100:4"]),
    "gpus_per_node": st.sampled_from(["1", "1g.10gb:7"]),
    "gres": st.sampled_from(["gpu:2", "shard:4", "gpu:h100:1,nic:2"]),
    "array": st.sampled_from(["0-3", "1,5,7-9:2%2"]),
    "dependency": st.sampled_from(["singleton", "afterok:1:2"]),
    "begin": st.sampled_from(["now+1hour", "16:00"]),
    "export": st.sampled_from(["ALL", "NONE", "A,B=x y"]),
}
_LINE = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=30)
_FREE = st.builds(" ".join, st.lists(_LINE, min_size=1, max_size=3))
_REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        option.field: _VALUES.get(option.field, _LINE if option.convert is kinds.words else _FREE) for option in OPTIONS
    },
)


@given(_REQUESTS)
def test_a_request_comes_back_from_its_own_sbatch_line(values: dict[str, Any]) -> None:
    if "mem" in values:
        values.pop("mem_per_cpu", None)
    request = ResourceRequest(**values)
    assert asked(*arguments(request)) == request


# further options


@pytest.mark.parametrize("word", ["--reservation=maint", "--exclusive", "-H", "-Lmatlab", "--new-in-slurm-99=x"])
def test_a_further_option_is_taken_as_it_is(word: str) -> None:
    assert checked_extra(word) == word


@pytest.mark.parametrize(
    ("word", "cure"),
    [
        ("maint", "a value with blanks is put in quotes"),
        ("--partition=gpu", "pyfi submit --partition=gpu"),
        ("-n8", "pyfi submit -n8"),
        ("--wrap=date", REFUSED["--wrap"]),
        ("--reservation", "--slurm-arg=--reservation=VALUE"),
        (":", "a value with blanks is put in quotes"),
    ],
)
def test_a_further_option_that_would_go_wrong_is_refused(word: str, cure: str) -> None:
    with pytest.raises(BadInput, match="E_USAGE") as caught:
        checked_extra(word)
    assert caught.value.cure == cure


# places


def test_later_places_win_and_keep_their_names() -> None:
    script = list(read(["--time=5", "--mem=4G", "-N2"], "train.sh line 2", ours=False))
    variables = list(from_environment({"SBATCH_TIMELIMIT": "10", "SBATCH_QOS": "high"}))
    line = list(read(["--mem-per-cpu=1G"], "command line", ours=True))
    found = settled([script, variables, line])
    assert found.request == ResourceRequest(time_minutes=10, qos="high", nodes=2, mem_per_cpu="1G")
    assert found.origins == {
        "time_minutes": "SBATCH_TIMELIMIT",
        "qos": "SBATCH_QOS",
        "nodes": "train.sh line 2",
        "mem_per_cpu": "command line",
    }


def test_two_options_that_exclude_each_other_are_refused_in_one_place() -> None:
    with pytest.raises(BadInput, match="E_ARGUMENT") as caught:
        asked("--mem=4G", "--mem-per-cpu=1G")
    assert "--mem and --mem-per-cpu" in caught.value.what


# workers


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "1 worker, one per task"),
        (["-n8"], "8 workers, one per task"),
        (["-N2"], "2 workers, one per task"),
        (["-N2", "--ntasks-per-node=4"], "8 workers, one per task"),
        (["-N2", "--gpus-per-node=h100:4"], "8 workers, one per GPU"),
        (["-N2", "--gpus=6"], "6 workers, one per GPU"),
        (["--gres=gpu:h100:2", "-N3"], "6 workers, one per GPU"),
        (["--gres=shard:2", "-n4"], "4 workers, one per task"),
        (["--gres=gpu:1g.10gb:2", "--per=mig"], "2 workers, one per MIG instance"),
        (["-n4", "-c2", "--per=core"], "8 workers, one per core"),
        (["-n4", "--gpus=2", "--per=task"], "4 workers, one per task"),
        (["-n2", "-a", "0-3"], "8 workers, one per task"),
        (["--per=gpu"], "1 worker, one per GPU"),
    ],
)
def test_a_request_says_how_many_workers_it_brings(words: list[str], line: str) -> None:
    request = asked(*words)
    assert told(request) == line
    assert slots(request) == int(line.split()[0])


def test_gpus_of_the_whole_job_are_counted_for_the_fullest_node() -> None:
    assert gpus_per_node(asked("-N2", "--gpus=3")) == 2
    assert gpus_per_node(asked("-N2", "-n8")) == 0
