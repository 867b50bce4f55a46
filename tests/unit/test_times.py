"""When a call may start and how long it may take, as callers say it."""

from __future__ import annotations

import datetime
import math
import time
from typing import Any

import pytest

from pyfi_hpc.client import times
from pyfi_hpc.errors import BadInput

HOUR = 3600.0
NOW = datetime.datetime.now(datetime.UTC)
LATER = datetime.timedelta(hours=1)


@pytest.mark.parametrize(
    ("how", "seconds"),
    [
        ({}, 0.0),
        ({"delay": 0}, 0.0),
        ({"delay": 1.5}, 1.5),
        ({"delay": times.YEAR_SECONDS}, times.YEAR_SECONDS),
        ({"at": NOW - LATER}, 0.0),
        ({"at": datetime.datetime.min.replace(tzinfo=datetime.UTC)}, 0.0),
        ({"delay": 1, "deadline": 2**33}, 1.0),
        ({"at": NOW - LATER, "deadline": 1.0}, 0.0),
    ],
)
def test_a_call_waits_for_so_many_seconds(how: dict[str, Any], seconds: float) -> None:
    assert times.delay_of(**{"delay": None, "at": None, "deadline": None} | how) == seconds


@pytest.mark.parametrize("zone", [datetime.UTC, datetime.timezone(datetime.timedelta(hours=-7)), None])
def test_a_time_is_read_in_its_zone_or_in_that_of_this_machine(zone: datetime.tzinfo | None) -> None:
    at = datetime.datetime.now(zone) + LATER
    assert HOUR - 60 < times.delay_of(None, at, None) <= HOUR


@pytest.mark.parametrize(
    ("how", "code", "field"),
    [
        ({"delay": -1}, "E_RANGE", "delay"),
        ({"delay": math.nan}, "E_RANGE", "delay"),
        ({"delay": math.inf}, "E_RANGE", "delay"),
        ({"delay": "5"}, "E_RANGE", "delay"),
        ({"delay": True}, "E_RANGE", "delay"),
        ({"delay": times.YEAR_SECONDS + 1}, "E_RANGE", "delay"),
        ({"at": NOW + datetime.timedelta(days=367)}, "E_RANGE", "at"),
        ({"at": datetime.datetime.max.replace(tzinfo=datetime.UTC)}, "E_RANGE", "at"),
        ({"at": "tomorrow"}, "E_RANGE", "at"),
        ({"at": datetime.date(2027, 1, 1)}, "E_RANGE", "at"),
        ({"at": NOW, "delay": 1}, "E_ARGUMENT", "at"),
        ({"delay": 60, "deadline": time.time() + 30}, "E_RANGE", "deadline"),
        ({"at": NOW + LATER, "deadline": time.time()}, "E_RANGE", "deadline"),
    ],
)
def test_times_that_cannot_be_are_refused(how: dict[str, Any], code: str, field: str) -> None:
    with pytest.raises(BadInput) as refused:
        times.delay_of(**{"delay": None, "at": None, "deadline": None} | how)
    assert (refused.value.code, refused.value.facts["field"]) == (code, field)


def test_deadlines_and_time_limits_are_numbers_or_times() -> None:
    assert times.deadline_of(NOW) == NOW.timestamp()
    assert (times.deadline_of(None), times.timeout_of(None)) == (None, None)
    assert (times.deadline_of(2_000_000_000), times.timeout_of(2)) == (2e9, 2.0)
    for wrong in (0, -1, math.nan, "1", times.YEAR_SECONDS + 1):
        with pytest.raises(BadInput, match="E_RANGE"):
            times.timeout_of(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [5, 0, -1.0, 946_684_799, datetime.datetime(1999, 1, 1), LATER, "soon", True, math.nan]
)
def test_a_deadline_that_is_no_time_of_our_days_is_refused_and_how_to_give_one_is_told(wrong: Any) -> None:
    with pytest.raises(BadInput, match=r"E_RANGE[^$]*time\.time\(\) \+ 5 is five seconds from now") as refused:
        times.deadline_of(wrong)
    assert refused.value.facts["field"] == "deadline"
