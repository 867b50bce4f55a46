"""`pyfi verify` while calls are under way."""

from __future__ import annotations

import pytest

from pyfi_hpc.cli import verify
from pyfi_hpc.verify import Report


def under_way() -> Report:
    report = Report()
    report.found("I4", "1 message is in queue q", among=[report.under_way])
    return report


def test_it_is_checked_again_until_nothing_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "AGAIN_SECONDS", 0.001)
    over, never = Report(), Report()
    found = iter([under_way(), under_way(), over, never])

    assert verify.settled(lambda: next(found), 60.0) is over


def test_it_is_checked_once_where_nobody_wants_to_wait() -> None:
    first = under_way()
    found = iter([first, Report()])

    assert verify.settled(lambda: next(found), 0.0) is first
