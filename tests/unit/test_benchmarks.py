"""The benchmarks' own reckoning: a figure of wrong results is none, and ratios are of the same round."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks.cluster import synthetic
from benchmarks.drivers import arrays, serving
from benchmarks.drivers.caller import STAGES, Caller
from benchmarks.report import BEGIN, END, Report, put_into
from benchmarks.soak.report import Soak
from benchmarks.soak.watch import growth
from benchmarks.system import Driver
from benchmarks.table import markdown, middle, ratio, ratios
from pyfi_hpc import verify

ROUNDS = [
    {"bulk": {"pyfi-a": {"calls_per_second": mine}, "peer": {"calls_per_second": theirs}}}
    for mine, theirs in ((100.0, 10.0), (30.0, 10.0), (60.0, 1.0))
]
WHATS = {"pyfi-a": "ours", "peer": "theirs"}


class Inline(Caller):
    """Runs what it is asked to at once; `lies` are put in place of some results."""

    def __init__(self, lies: Sequence[int] = ()) -> None:
        self._lies = list(lies)

    def submit(self, task: str, *arguments: object) -> object:
        if self._lies:
            return self._lies.pop()
        if task == "double":
            (value,) = arguments
            return value * 2  # type: ignore[operator]
        return sum(arguments)  # type: ignore[arg-type]

    def result(self, handle: object) -> object:
        return handle


@pytest.mark.parametrize("work", list(serving.MANY))
def test_every_work_on_many_items_is_checked(work: str) -> None:
    factor = serving.MANY[work]

    assert serving.timed(getattr(Inline(), work), 9, factor) > 0
    with pytest.raises(SystemExit, match="not all of them right"):
        serving.timed(getattr(Inline(), work), 9, factor + 1)


def test_a_cluster_that_is_not_there_has_every_worker_that_is_wanted() -> None:
    made = synthetic.world(100)

    wanted = sum(processor.workers or 0 for processor in made.processors)
    assert len({worker.id for worker in made.workers}) == len(made.workers) == wanted == 1000
    assert {worker.processor for worker in made.workers} == {processor.id for processor in made.processors}


def test_a_missing_result_makes_no_figure() -> None:
    def one_less(count: int) -> Iterable[int]:
        return [2 * number for number in range(count - 1)]

    with pytest.raises(SystemExit, match="9 items gave 8 results"):
        serving.timed(one_less, 9, 2)


def test_an_array_that_comes_back_as_another_makes_no_figure() -> None:
    array = arrays.carrying(21, 800)
    assert arrays.carried(array * 2, 800) == 42
    for wrong in (array, array[:-1] * 2):
        with pytest.raises(SystemExit, match="another"):
            arrays.carried(wrong, 800)


def test_single_works_are_checked_too() -> None:
    answering = serving._Answering(Inline(lies=[3]))
    with pytest.raises(SystemExit, match="a result is wrong"):
        answering.answer({"one": "single", "seconds": 0.0})

    assert len(serving._Answering(Inline()).answer({"one": "fan", "seconds": 0.0})["milliseconds"]) == 1  # type: ignore[arg-type]


def test_stages_of_a_chain_double() -> None:
    assert list(Inline().chain(3)) == [0, 2**STAGES, 2 * 2**STAGES]


def test_a_driver_that_ends_ends_the_run_and_its_workers_words_are_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("the worker's last words")
    ends = Driver([sys.executable, "-c", "raise SystemExit(3)"], os.environ, log)
    with ends as driver, pytest.raises(RuntimeError, match=r"ended with status 3\nthe worker's last words"):
        driver.wait_ready()


def test_medians_and_ratios_are_over_rounds() -> None:
    assert middle(ROUNDS)["bulk"]["pyfi-a"] == {"calls_per_second": 60.0}
    # of each round by itself: a busy minute slows down both
    assert ratios(ROUNDS, "bulk", "calls_per_second") == {"pyfi-a": {"peer": 10.0}}
    assert [ratio(value) for value in (12.345, 0.7, 0.02)] == ["12.3×", "0.7×", "1/50"]


def test_a_page_gets_its_tables_between_its_marks() -> None:
    table = markdown(ROUNDS, "bulk", WHATS)
    assert "| ours | 60 (30–100) |  |" in table
    assert "| theirs | 10 (1–10) | 10× |" in table

    assert put_into(f"a\n{BEGIN}\nold\n{END}\nz\n", table) == f"a\n{BEGIN}\n\n{table}\n{END}\nz\n"
    with pytest.raises(click.ClickException, match="has no lines"):
        put_into("a page\n", table)


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    import json

    report = Report({"cpus": 2}, 4.0, WHATS, {"peer": {"peer": "1.0"}}, ROUNDS)
    (tmp_path / "one.json").write_text(json.dumps(report.as_json()))
    (tmp_path / "more.json").write_text(json.dumps([report.as_json()] * 2))

    assert Report.read(tmp_path / "one.json") == [report]
    assert Report.read(tmp_path / "more.json") == [report, report]


def test_systems_are_chosen_by_name_and_a_name_nobody_has_is_refused() -> None:
    refused = CliRunner().invoke(command.main, ["--systems", "pool,nobody", "--list"])
    assert (refused.exit_code, "nobody: known are pyfi-rabbitmq" in refused.output) == (2, True)
    listed = CliRunner().invoke(command.main, ["--list"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in command.SYSTEMS)


def soak(record: verify.Report, *, held: int = 0, queued: int = 0, **changed: object) -> Soak:
    counts = {"submitted": 10, "right": 10, "wrong": [], "errors": {}, "waiting": 0, "slowest": []} | changed
    return Soak(7, 1.0, counts, record, {"SUCCEEDED": 12}, held, queued, 3, {"worker": 2}, ["agent: 50 MiB"])


def test_a_soak_without_a_fault_says_so() -> None:
    found = soak(verify.Report(sent=10, done=10))
    assert found.faults == []
    assert "lost 0, stuck 0, recorded twice 0, repeats 3" in found.lines()


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (soak(verify.Report(sent=10, done=9, lost=1)), "lost 1"),
        (soak(verify.Report(sent=10, done=8, lost=2), held=2), "stuck 2"),
        (soak(verify.Report(sent=10, done=8, lost=2), queued=1), "stuck 2"),
        (soak(verify.Report(sent=10, done=8, waiting=2), held=2), "stuck 2"),
        (soak(verify.Report(sent=10, done=10, twice=2)), "recorded twice 2"),
        (soak(verify.Report(sent=10, done=10, problems=["I4: one message"])), "I4: one message"),
        (soak(verify.Report(sent=10, done=10), waiting=4), "4 results never came to the client"),
        (soak(verify.Report(sent=10, done=10), wrong=["p.x: 3"]), "1 results are wrong, the first: p.x: 3"),
        (soak(verify.Report(sent=10, done=10), errors={"E_BROKER": 1}), "submits failed: {'E_BROKER': 1}"),
    ],
)
def test_a_soak_names_each_fault(found: Soak, says: str) -> None:
    assert found.faults == [says]
    assert f"FAULT: {says}" in found.lines()


def test_memory_that_grows_is_seen_and_what_settles_is_not() -> None:
    assert growth([10.0, *[50.0] * 20]) == 0
    assert growth([float(number) for number in range(100)]) > 40
