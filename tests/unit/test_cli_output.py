"""How rows are printed: for a person, for a script, for both in a pipe."""

from __future__ import annotations

import csv
import datetime
import io
import json
import uuid
from typing import Any

import pytest
import yaml

from pyfi_hpc.cli import render
from pyfi_hpc.cli.output import Output, say
from pyfi_hpc.errors import BadInput

WHEN = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
ID = uuid.UUID("0192f3c1-0000-7000-8000-00123456789a")
ROWS: list[dict[str, Any]] = [
    {"id": ID, "name": "b", "workers": 2, "paused": True, "created": WHEN, "cores": [0, 1], "note": "a|b\\c"},
    {"id": uuid.UUID(int=7), "name": "a", "workers": None, "paused": False, "created": WHEN, "cores": [], "note": ""},
]
COLUMNS = ["id", "name", "workers", "paused", "created", "cores"]


def printed(capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    Output(**options).rows(ROWS, COLUMNS, ["note"])
    return capsys.readouterr().out


def test_a_table_in_a_pipe_is_whole_with_short_ids(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys) == (
        "ID          NAME  WORKERS  PAUSED  CREATED              CORES\n"
        "123456789a  b     2        yes     2026-01-02 02:04:05  0,1\n"
        "0000000007  a     -        no      2026-01-02 02:04:05  -\n"
    )


def test_a_narrow_terminal_cuts_lines_and_says_so() -> None:
    text = render.as_table(ROWS, COLUMNS, header=True, width=20, whole_ids=False)
    assert [len(line) for line in text.splitlines()] == [20, 20, 20]
    assert all(line.endswith("…") for line in text.splitlines())


def test_wide_has_whole_ids_and_the_other_columns(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, form="wide")
    assert str(ID) in out and "NOTE" in out


def test_json_is_one_versioned_object_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, form="json"))
    assert found["version"] == 1
    assert found["items"][0] == {
        "id": str(ID),
        "name": "b",
        "workers": 2,
        "paused": True,
        "created": "2026-01-02T02:04:05Z",
        "cores": [0, 1],
        "note": "a|b\\c",
    }


def test_yaml_says_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert yaml.safe_load(printed(capsys, form="yaml")) == json.loads(printed(capsys, form="json"))


def test_csv_and_names(capsys: pytest.CaptureFixture[str]) -> None:
    lines = list(csv.reader(io.StringIO(printed(capsys, form="csv"))))
    assert lines[0] == [*COLUMNS, "note"]
    assert lines[1] == [str(ID), "b", "2", "yes", "2026-01-02T02:04:05Z", "0,1", "a|b\\c"]
    assert printed(capsys, form="name") == "b\na\n"


def test_parsable_escapes_its_separator(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, parsable=True, columns=("name", "note"), header=False)
    assert out == "b|a\\|b\\\\c\na|\n"


def test_columns_sort_and_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, columns=("name",), header=False, sort="name") == "a\nb\n"
    assert printed(capsys, columns=("name",), header=False, sort="workers") == "b\na\n"
    assert printed(capsys, columns=("name",), header=False, sort="-name") == "b\na\n"
    Output(limit=1, header=False).rows(ROWS, ["name"])
    assert capsys.readouterr() == ("b\n", "showing 1 of 2, --all shows the rest\n")


def test_a_table_stops_at_a_hundred_and_a_script_gets_all(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": f"n{number}"} for number in range(4212)]
    Output(header=False).rows(rows, ["name"])
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 100 and shown.err == "showing 100 of 4 212, --all shows the rest\n"
    for options in ({"everything": True}, {"form": "name"}, {"parsable": True}):
        Output(header=False, **options).rows(rows, ["name"])
        assert len(capsys.readouterr().out.splitlines()) == 4212


def test_an_unknown_column_is_refused() -> None:
    with pytest.raises(BadInput) as caught:
        Output(columns=("nmae",)).rows(ROWS, COLUMNS)
    assert (caught.value.code, caught.value.cure) == ("E_CHOICE", "did you mean name?")


def test_nothing_prints_a_header_for_people_and_an_empty_list_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    Output().rows([], ["name"])
    Output(form="json").rows([], ["name"])
    Output(form="name").rows([], ["name"])
    assert capsys.readouterr().out == 'NAME\n{\n  "version": 1,\n  "items": []\n}\n'


def test_no_control_character_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Output(header=False).rows([{"name": "\x1b[31mred\x00\n\u202e"}], ["name"])
    assert capsys.readouterr().out == "\\x1b[31mred\\x00\\n\\u202e\n"


def test_what_a_task_made_cannot_steer_a_terminal_and_stays_as_it_is_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = "a\tb\r\n\x1b]0;title\x07\n"
    say(made, nl=False)
    assert capsys.readouterr().out == made
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    say(made, nl=False)
    assert capsys.readouterr().out == "a\tb\n\\x1b]0;title\\x07\n"


def test_a_reason_with_a_log_is_a_card_in_the_card() -> None:
    reason = {"code": "E_BUILD", "log": "one\ntwo\x07"}
    assert render.as_card({"status": "FAILED", "reason": reason}).splitlines() == [
        "status  FAILED",
        "reason  code  E_BUILD",
        "        log   one",
        "              two\\x07",
    ]


def test_ids_that_only_wait_are_shown_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    Output(header=False).rows(ROWS[:1], ["id"], whole_ids=True)
    assert capsys.readouterr().out == f"{ID}\n"


def test_one_object_is_a_card_for_people_and_a_list_of_one_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    Output().row(ROWS[0])
    card = capsys.readouterr().out.splitlines()
    assert card[0] == f"id       {ID}" and card[1] == "name     b"
    Output(form="json").row(ROWS[0])
    assert [item["name"] for item in json.loads(capsys.readouterr().out)["items"]] == ["b"]
