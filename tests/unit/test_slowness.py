"""When a slow database is told of."""

from __future__ import annotations

from pyfi_hpc.agent.commit.slowness import SLOW_SECONDS, Slowness


def test_a_slow_transaction_is_told_of_once() -> None:
    slowness = Slowness()
    assert slowness.look(1000.0) is None
    slowness.begun(100.0)
    assert slowness.look(99.9 + SLOW_SECONDS) is None
    assert slowness.look(100.0 + SLOW_SECONDS) == SLOW_SECONDS
    assert slowness.look(200.0) is None


def test_the_end_of_a_slow_spell_is_told_once_and_the_next_spell_anew() -> None:
    slowness = Slowness()
    for start in (100.0, 200.0):
        slowness.begun(start)
        assert slowness.look(start + 60.0) == 60.0
        assert not slowness.ended(start + 61.0)
        # the next is as slow: the same spell
        slowness.begun(start + 61.0)
        assert slowness.look(start + 80.0) is None
        assert not slowness.ended(start + 80.0)
        slowness.begun(start + 80.0)
        assert slowness.ended(start + 80.1)
        slowness.begun(start + 81.0)
        assert not slowness.ended(start + 81.1)


def test_a_slow_spell_is_over_where_nothing_more_waits() -> None:
    slowness = Slowness()
    slowness.begun(100.0)
    assert slowness.look(160.0) == 60.0
    assert not slowness.ended(161.0)
    assert slowness.rested()
    assert not slowness.rested()
