"""Kinds of value on the command line."""

from __future__ import annotations

import datetime
from typing import Any

import click
import pytest

from pyfi_hpc.cli.params import Choice, Id, Json, Memory, Moment, Seconds, Whole
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.status import QueueType, Requested

OPTION = click.Option(["--x"])
QUEUE = Choice(QueueType, "TYPE")
STATUS = Choice(Requested, "STATUS")


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Whole(1, 10), "10", 10),
        (Seconds(), "90", 90.0),
        (Seconds(), "1.5m", 90.0),
        (Seconds(), "2h", 7200.0),
        (Moment(), "2026-12-01T10:00", datetime.datetime(2026, 12, 1, 10)),
        (Moment(), "2026-12-01T10:00Z", datetime.datetime(2026, 12, 1, 10, tzinfo=datetime.UTC)),
        (Memory(), "4096", 4096),
        (Memory(), "32G", 32768),
        (Memory(), "1t", 1048576),
        (Memory(), "2GiB", 2048),
        (QUEUE, "Direct", "direct"),
        (STATUS, "stopped", "STOPPED"),
        (Json(), '"Hello World !"', "Hello World !"),
        (Json(), '{"a": [1, null, true]}', {"a": [1, None, True]}),
    ],
)
def test_what_is_right_becomes_a_value(kind: Any, text: str, value: object) -> None:
    assert kind.convert(text, OPTION, None) == value


@pytest.mark.parametrize(
    ("kind", "text", "code", "word"),
    [
        (Whole(0, 64), "-1", "E_RANGE", "from 0 to 64"),
        (Whole(1, 4096), "0", "E_RANGE", "from 1 to 4096"),
        (Whole(1, 4096), "1e9", "E_RANGE", "1e9"),
        (Whole(1, 4096), "9" * 5000, "E_RANGE", "whole number"),
        (Seconds(), "-1", "E_RANGE", "90, 1.5m or 2h"),
        (Seconds(), "nan", "E_RANGE", "nan"),
        (Moment(), "tomorrow", "E_RANGE", "2026-12-01T10:00"),
        (Moment(), "-1", "E_RANGE", "-1"),
        (Memory(), "32", "E_RANGE", "32G?"),
        (Memory(), "much", "E_RANGE", "4G"),
        (QUEUE, "fanot", "E_CHOICE", "fanout"),
        (STATUS, "RUNING", "E_CHOICE", "RUNNING"),
        (Id(), "x", "E_ID", "UUID"),
        (Id(), "00000000-0000-0000-0000-000000000000", "E_ID", "nil"),
        (Json(), "Hello", "E_TYPE", "'\"Hello\"'"),
        (Json(), "NaN", "E_TYPE", "NaN"),
        (Json(), "[" * 100_000, "E_TYPE", "JSON"),
    ],
)
def test_what_is_wrong_is_refused_under_the_options_name(kind: Any, text: str, code: str, word: str) -> None:
    with pytest.raises(BadInput) as caught:
        kind.convert(text, OPTION, None)
    assert caught.value.code == code
    assert word in str(caught.value) and (caught.value.at or "").startswith("--x ")
    assert len(str(caught.value)) < 600
