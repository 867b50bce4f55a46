"""How often a reconcile pass is made: a fifth of a core at most, and what a person asks for within a second."""

from __future__ import annotations

import pytest

from pyfi_hpc.control.pacing import LONGEST_SECONDS, SHORTEST_SECONDS, WISH_SECONDS, LastPass, wait


@pytest.mark.parametrize("wish", [None, 0.0, 9.0])
def test_the_first_pass_is_made_at_once(wish: float | None) -> None:
    assert wait(None, wish).seconds <= 0


@pytest.mark.parametrize(
    ("took", "rest"),
    [(0.001, SHORTEST_SECONDS), (0.5, 2.0), (2.0, 8.0), (60.0, LONGEST_SECONDS)],
)
def test_a_pass_rests_four_times_what_it_took_within_bounds(took: float, rest: float) -> None:
    assert wait(LastPass(took, took), None).seconds == pytest.approx(rest)
    assert wait(LastPass(took + rest - 0.1, took), None).seconds == pytest.approx(0.1)
    assert wait(LastPass(took + rest + 0.1, took), None).seconds < 0


@pytest.mark.parametrize(("took", "rest"), [(0.001, 0.004), (0.05, 0.2), (0.5, WISH_SECONDS), (60.0, WISH_SECONDS)])
def test_what_has_changed_waits_half_a_second_at_most(took: float, rest: float) -> None:
    found = wait(LastPass(took, took), 0.0)
    assert found.wished
    assert found.seconds == pytest.approx(rest)
    assert wait(LastPass(took + rest + 0.01, took), 0.0).seconds < 0


def test_what_changed_before_the_last_pass_began_has_been_seen() -> None:
    assert wait(LastPass(0.5, 0.001), 0.6) == wait(LastPass(0.5, 0.001), None)
    assert wait(LastPass(0.5, 0.001), 0.4).wished


@pytest.mark.parametrize(("took", "busy"), [(0.001, 0.1), (0.3, 0.3), (9.0, WISH_SECONDS)])
def test_while_somebody_else_makes_a_pass_one_asks_again_about_when_it_ends(took: float, busy: float) -> None:
    assert wait(LastPass(60.0, took), 0.0).busy_seconds == pytest.approx(busy)
